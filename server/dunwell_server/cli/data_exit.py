"""`export`, `import`, `import-records`: a firm as a file, and files of records, by the same use cases as the RPCs."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final, cast

from rich.markup import escape

from dunwell_server.admin.exit_format import MAX_LINE_BYTES, read_header
from dunwell_server.admin.jobs.exporting import Manifest, export_firm
from dunwell_server.admin.jobs.importing import finish_or_forget
from dunwell_server.admin.rpc.records import read_file
from dunwell_server.admin.service import importing
from dunwell_server.admin.service.firms import Installation
from dunwell_server.admin.service.importing import PIECE, Imported
from dunwell_server.admin.store.imports import Session
from dunwell_server.billing.importing import MAX_BYTES, Outcome, RecordKind, RowError
from dunwell_server.billing.service.importing import import_records
from dunwell_server.bootstrap import Application
from dunwell_server.cli.output import Output, table
from dunwell_server.cli.problems import FAILED, USAGE, CommandError
from dunwell_server.cli.session import application, context, firms
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import UnitOfWork

SECONDS: Final = 3600.0
"""What one piece of a command's work may take."""
TOLD_EVERY: Final = 2.0
_ERRORS_SHOWN: Final = 50


async def export(firm_id: str, file: Path, *, overwrite: bool, as_json: bool) -> int:
    """Write everything of a firm to `file`, compressed where its name ends in .gz; nothing is left of a file that is not complete."""
    output = Output(as_json=as_json)
    _refuse_existing(file, overwrite)
    draft = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        async with application("export", pool_size=3) as app:
            [firm] = await firms(app.database, "export", firm_id)
            manifest = await _write(app, context(firm.id, "export"), file, draft, output)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    output.result({
        "command": "export", "firm_id": firm.public_id, "file": str(file), "rows": manifest.rows, "sha256": manifest.digest.hex(),
        "snapshot_time": manifest.header.snapshot_time, "tables": {each.name: each.rows for each in manifest.tables},
    })  # fmt: skip
    output.say(
        f"{firm.display_name}: {manifest.rows:,} rows as of {manifest.header.snapshot_time:%Y-%m-%d %H:%M:%S} UTC in {file}"
    )
    output.say(f"SHA-256 of the uncompressed file: {manifest.digest.hex()}")
    return 0


async def _write(app: Application, call: CallContext, file: Path, draft: Path, output: Output) -> Manifest:
    told, manifest = time.monotonic(), None
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as raw, _packed(raw, file) as stream:
        async for piece in export_firm(app.database, call):
            stream.write(piece.data)
            manifest = piece.manifest
            if time.monotonic() - told >= TOLD_EVERY:
                told = time.monotonic()
                output.note(f"{piece.rows:,} of {piece.total:,} rows")
    if manifest is None:
        raise CommandError("the export ended early")
    return manifest


def _refuse_existing(file: Path, overwrite: bool) -> None:
    if file.exists() and not overwrite:
        raise CommandError(f"{file} is there already: choose another name, or --overwrite", USAGE)


def _packed(raw: IO[bytes], file: Path) -> IO[bytes]:
    # No name and no time inside: the same rows give the same file.
    return cast("IO[bytes]", gzip.GzipFile("", "wb", 6, raw, mtime=0)) if file.suffix == ".gz" else raw


async def import_firm(file: Path, *, as_json: bool) -> int:
    """Bring an exported firm into this database, where it must not exist. Begun again after an interruption it goes on where it stood."""
    output = Output(as_json=as_json)
    digest, size, first = _survey(file)
    firm_id = read_header(first).firm_id
    async with application("import", pool_size=3) as app:
        installation = Installation(app.vault, app.registry, app.settings.payment_provider)
        call = replace(context(None, "import"), deadline=time.monotonic() + SECONDS)
        session = await app.database.run(call, lambda uow: importing.begin(uow, firm_id, digest, size))
        session = await _send(app, call, file, session, output)
        output.note("writing the firm and verifying its books")
        imported = await _finish(app, session, installation)
    broken = [check.name for check in imported.report.checks if not check.ok]
    output.result({
        "command": "import", "firm_id": encode(Prefix.FIRM, firm_id), "state": "SUSPENDED", "rows": sum(imported.tables.values()),
        "tables": imported.tables, "violated": broken,
    })  # fmt: skip
    output.say(f"{encode(Prefix.FIRM, firm_id)}: {sum(imported.tables.values()):,} rows imported; its books hold.")
    if broken:
        output.say(f"Still to be mended by the service, once the firm is at work: {', '.join(broken)}.")
    output.say(
        "It is suspended. OffboardFirm with OFFBOARD_STEP_RESUME puts it to work; then ConfigureProvider gives its accounts credentials."
    )
    return 0


async def _send(app: Application, call: CallContext, file: Path, session: Session, output: Output) -> Session:
    told = time.monotonic()
    if session.received_bytes:
        output.note(f"going on behind {session.received_bytes:,} of {session.size_bytes:,} bytes")
    with _open(file) as stream:
        stream.seek(session.received_bytes)
        while piece := stream.read(PIECE):
            session = await _append(app, call, session, piece)
            if time.monotonic() - told >= TOLD_EVERY:
                told = time.monotonic()
                output.note(f"{session.received_bytes:,} of {session.size_bytes:,} bytes")
    return session


async def _append(app: Application, call: CallContext, session: Session, piece: bytes) -> Session:
    async def work(uow: UnitOfWork) -> Session:
        return await importing.append(uow, session.id, session.received_bytes, piece, app.vault)

    return await app.database.run(call, work)


async def _finish(app: Application, session: Session, installation: Installation) -> Imported:
    call = replace(context(None, "import"), deadline=time.monotonic() + SECONDS)

    async def finish() -> Imported:
        return await app.database.run(call, lambda uow: importing.finish(uow, session.id, installation))

    return await finish_or_forget(app.database, call, session.id, finish)


def _survey(file: Path) -> tuple[bytes, int, bytes]:
    """The file's hash and size, uncompressed, and its first line."""
    digest, size = sha256(), 0
    with _open(file) as stream:
        first = stream.readline(MAX_LINE_BYTES)
        stream.seek(0)
        for piece in _pieces(stream):
            digest.update(piece)
            size += len(piece)
    if not size:
        raise CommandError(f"{file} is empty", USAGE)
    return digest.digest(), size, first


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    try:
        while piece := stream.read(PIECE):
            yield piece
    except (EOFError, gzip.BadGzipFile) as error:
        raise CommandError(f"the file is no whole gzip file: {error}", FAILED) from None


def _open(file: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(file, "rb")) if file.suffix == ".gz" else file.open("rb")


async def records(
    kind: RecordKind, file: Path, *, firm_id: str, dry_run: bool, skip_invalid: bool, as_json: bool
) -> int:
    """Create clients, engagements or open invoices from a CSV file. 1 where a row is wrong."""
    output = Output(as_json=as_json)
    batch = read_file(kind, _bytes(file))
    async with application("import-records", pool_size=2) as app:
        [firm] = await firms(app.database, "import-records", firm_id)
        call = replace(context(firm.id, "import-records"), deadline=time.monotonic() + SECONDS)
        outcome = await app.database.run(
            call, lambda uow: import_records(uow, batch, dry_run=dry_run, skip_invalid=skip_invalid)
        )
    output.result({
        "command": "import-records", "kind": kind.value.lower(), "firm_id": firm.public_id, "dry_run": dry_run, "rows": outcome.rows,
        "valid": outcome.valid, "imported": outcome.imported, "errors": [_as_json(each) for each in outcome.errors],
    })  # fmt: skip
    _show(outcome, kind, dry_run, output)
    return FAILED if outcome.errors else 0


def _bytes(file: Path) -> bytes:
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise CommandError(f"{file} has {size:,} bytes, {MAX_BYTES:,} are allowed: split it", USAGE)
    return file.read_bytes()


def _as_json(error: RowError) -> dict[str, Any]:
    return {"row": error.row, "column": error.column, "message": error.message, "reason": error.reason.value}


def _show(outcome: Outcome, kind: RecordKind, dry_run: bool, output: Output) -> None:
    if outcome.errors:
        rows = table("Row", "Column", "What is wrong", right=["Row"], title=f"{len(outcome.errors):,} problems")
        for each in outcome.errors[:_ERRORS_SHOWN]:
            rows.add_row(str(each.row or "–"), escape(each.column or "–"), escape(each.message))
        output.say(rows)
        if len(outcome.errors) > _ERRORS_SHOWN:
            output.say(f"… and {len(outcome.errors) - _ERRORS_SHOWN:,} more; --json lists them.")
    what = f"{outcome.rows:,} {kind.value.lower()}, {outcome.valid:,} of them right"
    if dry_run:
        output.say(f"{what}; nothing was written (--dry-run).")
    elif outcome.imported:
        output.say(f"{what}; {outcome.imported:,} imported.")
    else:
        output.say(f"{what}; nothing was written: all rows must be right, or give --skip-invalid.")
