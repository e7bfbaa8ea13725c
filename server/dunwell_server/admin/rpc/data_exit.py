"""The AdminService's handlers of data exit: whole firms out and in, bulk records, offboarding."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Final, cast

from dunwell.v1 import admin_service_pb2 as pb
from dunwell.v1 import admin_service_pb2_grpc
from dunwell.v1 import data_exit_pb2 as exit_pb
from dunwell_server.admin.jobs.exporting import export_firm
from dunwell_server.admin.jobs.importing import finish_or_forget
from dunwell_server.admin.rpc import exit_messages as messages
from dunwell_server.admin.rpc.records import read_records
from dunwell_server.admin.service import importing, offboarding
from dunwell_server.admin.service.firms import Installation
from dunwell_server.admin.service.offboarding import Step
from dunwell_server.billing.importing import MAX_BYTES
from dunwell_server.billing.service import importing as records
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.rpc.calls import Calls
from dunwell_server.rpc.converters import enum_name, id_value, optional_date
from dunwell_server.rpc.current import current_call

ADMIN_LIMITS: Final[Mapping[str, int]] = {
    "AdminService.ImportFirm": importing.PIECE + 64 * 1024,
    "AdminService.ImportRecords": MAX_BYTES + 64 * 1024,
}
"""Bytes of requests that are larger than others."""


class DataExitHandlers(admin_service_pb2_grpc.AdminServiceServicer):
    """Exports, imports and offboarding. `_calls` and `_installation` are set by the servicer."""

    _calls: Calls
    _installation: Installation

    async def ExportFirm(self, request: pb.ExportFirmRequest, context: Any) -> AsyncIterator[pb.ExportFirmResponse]:
        async with aclosing(cast(Any, export_firm(self._calls.database, current_call()))) as pieces:
            async for piece in pieces:
                yield messages.piece_message(piece)

    async def ImportFirm(self, request: pb.ImportFirmRequest, context: Any) -> pb.ImportFirmResponse:
        step = request.WhichOneof("step")
        work = {"begin": self._begin_import, "rows": self._import_rows, "discard": self._discard_import}
        if step in work:
            return await self._calls.firmless_write(
                request, pb.ImportFirmResponse, lambda uow: work[step](uow, request)
            )
        import_id = id_value(Prefix.IMPORT, request.finish.import_id, "finish.import_id")

        async def finish(uow: UnitOfWork) -> pb.ImportFirmResponse:
            return messages.imported_message(await importing.finish(uow, import_id, self._installation))

        return await finish_or_forget(
            self._calls.database,
            current_call(),
            import_id,
            lambda: self._calls.firmless_write(request, pb.ImportFirmResponse, finish),
        )

    async def _begin_import(self, uow: UnitOfWork, request: pb.ImportFirmRequest) -> pb.ImportFirmResponse:
        wanted = request.begin
        firm_id = id_value(Prefix.FIRM, wanted.firm_id, "begin.firm_id")
        session = await importing.begin(uow, firm_id, bytes.fromhex(wanted.sha256), wanted.size_bytes)
        return pb.ImportFirmResponse(session=messages.session_message(session))

    async def _import_rows(self, uow: UnitOfWork, request: pb.ImportFirmRequest) -> pb.ImportFirmResponse:
        rows = request.rows
        import_id = id_value(Prefix.IMPORT, rows.import_id, "rows.import_id")
        session = await importing.append(uow, import_id, rows.offset, rows.data, self._installation.vault)
        return pb.ImportFirmResponse(session=messages.session_message(session))

    async def _discard_import(self, uow: UnitOfWork, request: pb.ImportFirmRequest) -> pb.ImportFirmResponse:
        await importing.discard(uow, id_value(Prefix.IMPORT, request.discard.import_id, "discard.import_id"))
        return pb.ImportFirmResponse()

    async def ImportRecords(self, request: pb.ImportRecordsRequest, context: Any) -> pb.ImportRecordsResponse:
        batch = await read_records(request.kind, request.csv)

        async def work(uow: UnitOfWork) -> pb.ImportRecordsResponse:
            outcome = await records.import_records(
                uow, batch, dry_run=request.dry_run, skip_invalid=request.skip_invalid
            )
            return messages.outcome_message(outcome)

        return await self._calls.write(request, pb.ImportRecordsResponse, work)

    async def OffboardFirm(self, request: pb.OffboardFirmRequest, context: Any) -> pb.OffboardFirmResponse:
        retain_until = optional_date(request, "retain_until_date", "retain_until_date")
        step = Step(enum_name(exit_pb.OffboardStep, request.step, "OFFBOARD_STEP_"))

        async def work(uow: UnitOfWork) -> pb.OffboardFirmResponse:
            standing = await offboarding.take(
                uow, step, self._installation.vault, confirm=request.confirm, retain_until=retain_until
            )
            return pb.OffboardFirmResponse(offboarding=messages.standing_message(standing))

        return await self._calls.write(request, pb.OffboardFirmResponse, work, upkeep=True)
