"""ImportFirm: a file comes in pieces, which are kept encrypted; when it is complete, one transaction makes a firm of it or leaves nothing.

The rows come as they were. The database's own rules hold for them: keys, checks, balanced postings, lines that add up; balances are made
anew by the ledger's trigger. Only what judges beginnings, such as the first state of a row, is off, for this one transaction.
"""

from __future__ import annotations

import asyncio
import zlib
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg.errors import ProgramLimitExceeded, UniqueViolation

from dunwell_server.admin.exit_format import MAX_LINE_BYTES, Checker, Header, damaged
from dunwell_server.admin.service import firms
from dunwell_server.admin.service.audit import LedgerReport, verify_ledger
from dunwell_server.admin.service.firms import SANDBOX, Installation
from dunwell_server.admin.store import firms as firm_store
from dunwell_server.admin.store import imports as store
from dunwell_server.admin.store.declared import ROOT, FirmTable, firm_tables
from dunwell_server.admin.store.imports import Chunk, Session
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.platform.crypto import Vault, account_aad
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Category, Change, Severity, record

OPEN: Final = "OPEN"
PIECE: Final = 1024 * 1024
"""Most bytes of a piece."""
STAGED: Final = 2000
"""Rows put aside at a time."""
WRITING_SECONDS: Final = 3600.0
"""What one statement that moves a table's rows may take where the caller set no deadline."""
_CLOCKWORK: Final = frozenset({9, 13})
"""Checks about time: seals and claims, which the service mends by itself."""
_ACCOUNTS: Final = "control.provider_account"


@dataclass(slots=True)
class Imported:
    """A finished import: rows by table, and what verifying the books found."""

    session: Session
    report: LedgerReport
    tables: dict[str, int] = field(default_factory=dict)


async def begin(uow: UnitOfWork, firm_id: UUID, digest: bytes, size: int) -> Session:
    """Announce a file, or find the import of the same one that is open. ALREADY_EXISTS where the firm is here."""
    await _refuse_known(uow, firm_id)
    return await store.open_session(uow, uuid7(), firm_id, digest, size)


async def append(uow: UnitOfWork, import_id: UUID, offset: int, data: bytes, vault: Vault) -> Session:
    """Take the next piece; what of it has arrived already is left out. RESOURCE_NOT_FOUND, STATE_CONFLICT."""
    session = await _open(uow, import_id)
    if offset > session.received_bytes or offset + len(data) > session.size_bytes:
        metadata = {"state": session.state, "allowed": "rows", "received_bytes": str(session.received_bytes)}
        message = f"The piece does not continue the file, of which {session.received_bytes} of {session.size_bytes} bytes are here."
        raise DunwellError(Reason.STATE_CONFLICT, message, field="rows.offset", metadata=metadata)
    fresh = data[session.received_bytes - offset :]
    if not fresh:
        return session
    sealed = await asyncio.to_thread(_seal, vault, session, fresh)
    return await store.add_chunk(uow, session, len(fresh), sealed)


async def discard(uow: UnitOfWork, import_id: UUID) -> None:
    """Forget a file that is not finished. RESOURCE_NOT_FOUND, STATE_CONFLICT."""
    session = await _open(uow, import_id)
    await store.drop(uow, session.id)


async def finish(uow: UnitOfWork, import_id: UUID, installation: Installation) -> Imported:
    """Write the firm, in this transaction, which is bound to it from then on; it is SUSPENDED.

    Errors: RESOURCE_NOT_FOUND, STATE_CONFLICT where part of the file is missing, ALREADY_EXISTS, EXTERNAL_ID_TAKEN, IMPORT_DAMAGED naming
    what is wrong, IMPORT_UNVERIFIED where the books of the file do not hold.
    """
    session = await _open(uow, import_id)
    if session.received_bytes != session.size_bytes:
        metadata = {"state": session.state, "allowed": "rows,discard", "received_bytes": str(session.received_bytes)}
        message = f"{session.received_bytes} of {session.size_bytes} bytes are here: bring the rest first."
        raise DunwellError(Reason.STATE_CONFLICT, message, metadata=metadata)
    header = await _check(uow, session, installation.vault)
    await _refuse_known(uow, header.firm_id)
    imported = Imported(session, LedgerReport([], [], uow.machine_now))
    writer = _Writer(uow, header, installation, imported.tables)
    try:
        async for lines in _lines(uow, session, installation.vault):
            await writer.write(lines)
        await writer.end()
        await store.check_written(uow)
    except (psycopg.DataError, psycopg.IntegrityError, ProgramLimitExceeded) as error:
        raise _refused(error, writer.table_name) from error
    await store.end_writing(uow)
    await record(uow, _arrival(session, header, writer))
    imported.report = await verify_ledger(uow)
    broken = [check.name for check in imported.report.checks if not check.ok and check.number not in _CLOCKWORK]
    if broken:
        message = f"The books of the file do not hold ({', '.join(broken)}): nothing was imported."
        raise DunwellError(Reason.IMPORT_UNVERIFIED, message, metadata={"checks": ",".join(broken)})
    imported.session = await store.finish(uow, session.id)
    return imported


class _Writer:
    """Takes a file's lines and fills the firm's tables, one after the other, in the file's order."""

    def __init__(self, uow: UnitOfWork, header: Header, installation: Installation, counts: dict[str, int]) -> None:
        self._uow = uow
        self._header = header
        self._installation = installation
        self._counts = counts
        self._checker = Checker()
        self._tables = {table.name: table for table in firm_tables()}
        self._staged: list[tuple[int, str]] = []
        self._number = 0
        self.table_name = ROOT
        self.last_seal: str = ""

    async def write(self, lines: list[bytes]) -> None:
        """Lines that `_check` has seen."""
        for name, row in self._checker.rows(lines):
            if name != self.table_name:
                await self._flush()
                self.table_name = name
            self._number += 1
            self._counts[name] = self._counts.get(name, 0) + 1
            if name == ROOT:
                await self._add_firm(row.decode())
            elif name == "audit_seal":
                self.last_seal = row.decode()
            else:
                self._staged.append((self._number, row.decode()))
                if len(self._staged) >= STAGED:
                    await self._stage()

    async def end(self) -> None:
        """The last table's rows."""
        await self._flush()

    async def _add_firm(self, row: str) -> None:
        seconds = self._uow.context.remaining(WRITING_SECONDS)
        try:
            await store.begin_writing(self._uow, self._header.firm_id, row, seconds)
        except UniqueViolation as error:
            if "external_id" in (error.diag.constraint_name or ""):
                raise DunwellError(
                    Reason.EXTERNAL_ID_TAKEN, "Another firm here has the external_id of the file's."
                ) from error
            raise
        # Until it is SUSPENDED at the end, nobody else sees the firm.
        self._uow.context = replace(self._uow.context, upkeep=True)
        try:
            await self._uow.enter(self._header.firm_id)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise damaged("refused", "The firm's settings cannot be read.", table=ROOT) from error

    async def _stage(self) -> None:
        await store.stage(self._uow, self._staged)
        self._staged = []

    async def _flush(self) -> None:
        if not self._staged and self._counts.get(self.table_name, 0) < 1:
            return
        table = self._tables[self.table_name]
        if table.name == ROOT or not table.is_imported:
            return
        await self._stage()
        columns = [name for name in self._header.tables[table.name] if name not in table.assigned]
        extra: dict[str, Any] = {"credentials": b"", "key_id": ""} if table.name == _ACCOUNTS else {}
        await store.write_staged(self._uow, table, columns, extra)
        if table.name == _ACCOUNTS:
            await self._settle_accounts()

    async def _settle_accounts(self) -> None:
        """Accounts come without credentials: ConfigureProvider gives them new ones. The sandbox's follow from the account's own id."""
        vault = self._installation.vault
        for account in await firm_store.all_accounts(self._uow, self._header.firm_id):
            sandbox = account.provider == SANDBOX and account.mode == "TEST"
            secrets = firms.sandbox_credentials(account.id) if sandbox else {}
            sealed = vault.encrypt(secrets, account_aad(self._header.firm_id, account.provider))
            await firm_store.set_credentials(self._uow, account.id, sealed, usable=sandbox)


async def _check(uow: UnitOfWork, session: Session, vault: Vault) -> Header:
    """Read the whole file once before anything is written. IMPORT_DAMAGED."""
    checker, digest = Checker(), sha256()

    def look(lines: list[bytes]) -> None:
        for line in lines:
            digest.update(line)
        for name, _ in checker.rows(lines):
            if name == ROOT and checker.sums[ROOT].rows > 1:
                raise damaged("format", "The file holds more than one firm.", table=ROOT)

    async for lines in _lines(uow, session, vault):
        await asyncio.to_thread(look, lines)
    checker.end()
    header = checker.header
    assert header is not None
    if digest.digest() != session.sha256:
        raise damaged("file_checksum", "The file is not the one that was announced: its SHA-256 differs.")
    if header.firm_id != session.firm_id:
        raise damaged("firm", "The file is of another firm than the one announced.")
    if checker.sums[ROOT].rows != 1:
        raise damaged("format", "The file has no firm.", table=ROOT)
    _refuse_unknown(header)
    return header


def _refuse_unknown(header: Header) -> None:
    """A file of a newer release, or not ours."""
    known: dict[str, FirmTable] = {table.name: table for table in firm_tables()}
    for name, columns in header.tables.items():
        if name not in known:
            raise damaged(
                "unknown_table",
                f"This release has no table {name}: it imports files of its own release and older ones.",
                table=name,
            )
        unknown = sorted(set(columns) - set(known[name].columns))
        if unknown:
            raise damaged("unknown_column", f"This release's table {name} has no column {unknown[0]}.", table=name)
        if len(set(columns)) < len(columns):
            raise damaged("format", f"The first line names a column of table {name} twice.", table=name)
    if next(iter(header.tables), "") != ROOT:
        raise damaged("format", "The first table of a file is the firm.", table=ROOT)


async def _lines(uow: UnitOfWork, session: Session, vault: Vault) -> AsyncIterator[list[bytes]]:
    """The file's whole lines, those of one piece at a time."""
    rest = b""
    async for chunk in store.chunks(uow, session):
        data = rest + await asyncio.to_thread(_unseal, vault, session, chunk)
        end = data.rfind(b"\n") + 1
        rest = data[end:]
        if len(rest) > MAX_LINE_BYTES:
            raise damaged("format", f"A line is longer than {MAX_LINE_BYTES} bytes.")
        if end:
            yield data[:end].splitlines(keepends=True)
    if rest:
        yield [rest]


def _seal(vault: Vault, session: Session, data: bytes) -> tuple[bytes, str]:
    return vault.encrypt({"data": b64encode(zlib.compress(data, 3)).decode()}, _aad(session, session.received_bytes))


def _unseal(vault: Vault, session: Session, chunk: Chunk) -> bytes:
    return zlib.decompress(
        b64decode(vault.decrypt(chunk.sealed, chunk.key_id, _aad(session, chunk.start_byte))["data"])
    )


def _aad(session: Session, start: int) -> bytes:
    return f"firm-import|{session.id.hex}|{start}".encode()


async def _open(uow: UnitOfWork, import_id: UUID) -> Session:
    session = await store.lock(uow, import_id)
    if session is None:
        resource = ("ImportSession", encode(Prefix.IMPORT, import_id))
        raise DunwellError(Reason.RESOURCE_NOT_FOUND, "No such import.", resource=resource)
    if session.state != OPEN:
        metadata = {"state": session.state, "allowed": "none"}
        raise DunwellError(Reason.STATE_CONFLICT, "The import is finished.", metadata=metadata)
    return session


async def _refuse_known(uow: UnitOfWork, firm_id: UUID) -> None:
    if await firm_store.get(uow, firm_id) is not None:
        message = "The firm is here already: a firm is imported only where it does not exist."
        raise DunwellError(Reason.ALREADY_EXISTS, message, resource=("Firm", encode(Prefix.FIRM, firm_id)))


def _refused(error: psycopg.Error, table: str) -> DunwellError:
    """The database's refusal of rows, by the rule's name; the rows' values stay out of it."""
    rule = error.diag.constraint_name or type(error).__name__
    return damaged(
        "refused",
        f"The database refuses rows of table {error.diag.table_name or table}: {rule}.",
        table=error.diag.table_name or table,
    )


def _arrival(session: Session, header: Header, writer: _Writer) -> Change:
    metadata = {
        "snapshot_time": header.snapshot_time.isoformat(),
        "sha256": session.sha256.hex(),
        "schema_revision": header.schema_revision,
    }
    if writer.last_seal:
        metadata["audit_head"] = writer.last_seal
    return Change(Category.ADMIN, "firm_imported", "firm", header.firm_id, "firm.imported", Severity.CRITICAL, metadata)
