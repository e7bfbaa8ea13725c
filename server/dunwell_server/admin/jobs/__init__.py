"""What spans transactions: runs read over all firms, the installation's own keys and provider accounts."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final
from uuid import UUID

from dunwell_server.admin.model import NewApiKey
from dunwell_server.admin.service import api_keys, platform_accounts
from dunwell_server.admin.service.platform_accounts import PlatformAccount
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.platform import all_firms, runs
from dunwell_server.platform.all_firms import RunFilter
from dunwell_server.platform.context import CallContext, Role, system_context
from dunwell_server.platform.crypto import Vault
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.runs import Run
from dunwell_server.rpc.auth import ApiKeys, DatabaseKeyStore

BOOTSTRAP_NAME: Final = "bootstrap"
SIDECAR_NAME: Final = "webhook sidecar"


async def get_run(database: Database, context: CallContext, run_id: UUID) -> Run:
    """The firm's run; without a firm, a run over all of them. RESOURCE_NOT_FOUND."""
    if context.firm_id is not None:
        return await database.run(context, lambda uow: runs.get(uow, run_id), write=False)
    found = await all_firms.get(database, context, run_id)
    if found is None:
        raise DunwellError(Reason.RESOURCE_NOT_FOUND, "No such run.", resource=("Run", encode(Prefix.RUN, run_id)))
    return found


async def list_runs(
    database: Database,
    context: CallContext,
    chosen: RunFilter,
    parent_id: UUID | None,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> list[Run]:
    """Runs, newest first unless asked otherwise, behind `after` = (create_time, id). Runs over all firms have no parent."""
    if context.firm_id is None:
        return [] if parent_id is not None else await all_firms.list_all(database, context, chosen, after, limit)

    async def read(uow: UnitOfWork) -> list[Run]:
        return await runs.list_runs(
            uow, kinds=chosen.kinds, states=chosen.states, dry_run=chosen.dry_run, parent_id=parent_id, since=chosen.since,
            until=chosen.until, oldest_first=chosen.oldest_first, after=after, limit=limit,
        )  # fmt: skip

    return await database.run(context, read, write=False)


async def create_admin_key(database: Database, pepper: bytes, display_name: str) -> str:
    """Make an ADMIN key and return its text, which is kept nowhere. `pepper` is `Keys.api_key_peppers[0]`."""
    new = NewApiKey(display_name, Role.ADMIN, may_name_actor=True, expire_time=None)

    async def create(uow: UnitOfWork) -> str:
        _, minted = await api_keys.create(uow, new, pepper)
        return minted.text

    return await database.run(system_context(None, "cli:create-admin-key"), create)


async def ensure_admin_key(database: Database, peppers: tuple[bytes, ...], file: Path) -> str:
    """The ADMIN key kept in `file` (mode 600), made anew where there is none or it no longer works.

    For set-ups on one machine, where the commands of the same person share the key. A key that is replaced is one that nothing
    accepts any more, so there is none to revoke.
    """
    text = _kept(file)
    if text and await _works(database, peppers, text, Role.ADMIN):
        return text
    text = await create_admin_key(database, peppers[0], BOOTSTRAP_NAME)
    _keep(file, text)
    return text


async def ensure_sidecar_key(database: Database, peppers: tuple[bytes, ...], file: Path) -> None:
    """Have a SIDECAR key that works in `file` (mode 600), for the sidecar that a service starts for itself."""
    text = _kept(file)
    if text and await _works(database, peppers, text, Role.SIDECAR):
        return
    new = NewApiKey(SIDECAR_NAME, Role.SIDECAR, may_name_actor=False, expire_time=None)

    async def create(uow: UnitOfWork) -> str:
        _, minted = await api_keys.create(uow, new, peppers[0])
        return minted.text

    _keep(file, await database.run(system_context(None, "serve:sidecar-key"), create))


async def settle_platform_accounts(
    database: Database, wanted: Sequence[PlatformAccount], providers: Sequence[str], vault: Vault
) -> None:
    """Make the installation's accounts at `providers` what the environment says, in a transaction of its own."""
    context = system_context(None, "environment")
    await database.run(context, lambda uow: platform_accounts.settle(uow, wanted, providers, vault))


async def _works(database: Database, peppers: tuple[bytes, ...], text: str, role: Role) -> bool:
    try:
        principal = await ApiKeys(DatabaseKeyStore(database), peppers).verify(text)
    except DunwellError as error:
        if error.reason in (Reason.UNAUTHENTICATED, Reason.CREDENTIAL_EXPIRED):
            return False
        raise
    return principal.role is role


def _kept(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""


def _keep(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(text + "\n")
    draft.replace(file)
