"""Exports, imports, bulk records and offboarding as the contract shows them."""

from __future__ import annotations

from typing import Final

from dunwell.v1 import admin_service_pb2 as pb
from dunwell.v1 import data_exit_pb2 as exit_pb
from dunwell_server.admin.exit_format import TableSum
from dunwell_server.admin.jobs.exporting import Manifest, Piece
from dunwell_server.admin.rpc.messages import ledger_message
from dunwell_server.admin.service.importing import Imported
from dunwell_server.admin.service.offboarding import Standing
from dunwell_server.admin.store.imports import Session
from dunwell_server.billing.importing import Outcome
from dunwell_server.kernel.ids import Prefix
from dunwell_server.rpc.converters import date_message, id_text, timestamp

ERRORS: Final = 1000
"""Errors of a CSV file that one answer tells."""


def piece_message(piece: Piece) -> pb.ExportFirmResponse:
    """The next piece of an export."""
    message = pb.ExportFirmResponse(data=piece.data, row_count=piece.rows, total_row_count=piece.total)
    if piece.manifest is not None:
        message.manifest.CopyFrom(manifest_message(piece.manifest))
    return message


def manifest_message(manifest: Manifest) -> exit_pb.ExportManifest:
    """What a complete export holds."""
    header = manifest.header
    return exit_pb.ExportManifest(
        format_version=1,
        firm_id=id_text(Prefix.FIRM, header.firm_id),
        snapshot_time=timestamp(header.snapshot_time),
        tables=[_table(each) for each in manifest.tables],
        row_count=manifest.rows,
        sha256=manifest.digest.hex(),
    )


def _table(each: TableSum) -> exit_pb.ExportedTable:
    return exit_pb.ExportedTable(name=each.name, row_count=each.rows, sha256=each.digest)


def session_message(session: Session) -> exit_pb.ImportSession:
    """A file on its way in."""
    return exit_pb.ImportSession(
        id=id_text(Prefix.IMPORT, session.id),
        firm_id=id_text(Prefix.FIRM, session.firm_id),
        state=exit_pb.ImportState.Value(f"IMPORT_STATE_{session.state}"),
        sha256=session.sha256.hex(),
        size_bytes=session.size_bytes,
        received_bytes=session.received_bytes,
        create_time=timestamp(session.create_time),
    )


def imported_message(imported: Imported) -> pb.ImportFirmResponse:
    """A firm that has come in."""
    return pb.ImportFirmResponse(
        session=session_message(imported.session),
        verification=ledger_message(imported.report),
        tables=[exit_pb.ExportedTable(name=name, row_count=rows) for name, rows in imported.tables.items()],
    )


def outcome_message(outcome: Outcome) -> pb.ImportRecordsResponse:
    """What became of a CSV file."""
    return pb.ImportRecordsResponse(
        row_count=outcome.rows,
        valid_count=outcome.valid,
        imported_count=outcome.imported,
        errors=[
            exit_pb.RecordError(row=each.row, column=each.column, message=each.message, reason=each.reason.value)
            for each in outcome.errors[:ERRORS]
        ],
        error_count=len(outcome.errors),
    )


def standing_message(standing: Standing) -> exit_pb.Offboarding:
    """How far a firm is on its way out."""
    return exit_pb.Offboarding(
        firm_id=id_text(Prefix.FIRM, standing.firm_id),
        state=exit_pb.OffboardState.Value(f"OFFBOARD_STATE_{standing.state}"),
        suspend_time=timestamp(standing.suspend_time),
        suspend_actor=standing.suspend_actor or "",
        export_time=timestamp(standing.export_time),
        export_sha256=(standing.export_sha256 or b"").hex(),
        export_current=standing.export_current,
        erase_time=timestamp(standing.erase_time),
        retain_until_date=date_message(standing.retain_until_date),
        purge_time=timestamp(standing.purge_time),
        erased=[exit_pb.ErasedTable(name=name, row_count=rows) for name, rows in standing.erased.items()],
    )
