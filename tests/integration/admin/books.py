"""A firm exported and imported by the use cases themselves, without a channel: what the tests of data exit share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from uuid import UUID

from dunwell_server.admin.jobs.exporting import Manifest, export_firm
from dunwell_server.admin.jobs.importing import finish_or_forget
from dunwell_server.admin.service import importing
from dunwell_server.admin.service.firms import Installation
from dunwell_server.admin.service.importing import Imported
from dunwell_server.admin.store.imports import Session
from dunwell_server.platform.crypto import Vault
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.keys import Keys
from dunwell_server.providers.registry import ProviderRegistry
from tests import support

INSTALLATION = Installation(Vault.of(Keys(b"the root secret of these tests, 32 or more")), ProviderRegistry(), "manual")


async def exported(db: Database, firm: UUID) -> tuple[bytes, Manifest]:
    """The firm's file and manifest."""
    parts, manifest = [], None
    async for piece in export_firm(db, support.context(firm)):
        parts.append(piece.data)
        manifest = piece.manifest
    assert manifest is not None
    return b"".join(parts), manifest


async def imported(db: Database, firm: UUID, file: bytes, *, piece: int = 10_000) -> Imported:
    """Bring a file in, in pieces."""
    context = support.context(None)
    session = await db.run(context, lambda uow: importing.begin(uow, firm, sha256(file).digest(), len(file)))
    for start in range(0, len(file), piece):
        await append(db, session.id, start, file[start : start + piece])

    async def finish(uow: UnitOfWork) -> Imported:
        return await importing.finish(uow, session.id, INSTALLATION)

    return await finish_or_forget(db, context, session.id, lambda: db.run(context, finish))


async def append(db: Database, import_id: UUID, start: int, data: bytes) -> Session:
    """Bring one piece."""

    async def work(uow: UnitOfWork) -> Session:
        return await importing.append(uow, import_id, start, data, INSTALLATION.vault)

    return await db.run(support.context(None), work)


def tables_of(file: bytes) -> dict[str, list[dict[str, Any]]]:
    """The rows of a file by table, as any program would read them."""
    lines = [json.loads(line) for line in file.decode().splitlines()]
    found: dict[str, list[dict[str, Any]]] = {each["name"]: [] for each in lines[0]["tables"]}
    for line in lines[1:-1]:
        found[line["table"]].append(line["row"])
    return found


def without(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """A row without some columns."""
    return {name: value for name, value in row.items() if name not in names}
