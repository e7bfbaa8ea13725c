"""Firms' and provider accounts' SQL, in schema `control`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from psycopg.types.json import Jsonb

from dunwell_server.admin.model import Account, FirmRecord, NewFirm
from dunwell_server.platform.database import Row, UnitOfWork
from dunwell_server.platform.firms import FirmSettings

_COLUMNS: Final = "f.id, f.external_id, f.display_name, f.mode, f.state, f.settings, f.version, f.create_time, f.update_time, c.id AS test_clock_id"
_FROM: Final = f"SELECT {_COLUMNS} FROM control.firm f LEFT JOIN control.test_clock c ON c.firm_id = f.id"
_INSERT: Final = """
INSERT INTO control.firm (id, external_id, display_name, mode, settings)
VALUES (%(id)s, %(external_id)s, %(display_name)s, %(mode)s, %(settings)s)
ON CONFLICT (external_id) DO NOTHING RETURNING id
"""
_OF_EXTERNAL_ID: Final = "SELECT id FROM control.firm WHERE external_id = %(external_id)s"
_GET: Final = f"{_FROM} WHERE f.id = %(id)s"
_LOCK: Final = f"{_FROM} WHERE f.id = %(id)s FOR NO KEY UPDATE OF f"
_UPDATE: Final = """
UPDATE control.firm SET external_id = %(external_id)s, display_name = %(display_name)s, settings = %(settings)s, version = version + 1,
    update_time = clock_timestamp()
WHERE id = %(id)s
"""
_LIST: Final = f"""
{_FROM} WHERE (%(external_id)s::text IS NULL OR f.external_id = %(external_id)s)
  AND (%(states)s::text[] IS NULL OR f.state = ANY(%(states)s)) AND (%(after)s::uuid IS NULL OR f.id < %(after)s)
ORDER BY f.id DESC LIMIT %(limit)s
"""
_ADD_ACCOUNT: Final = """
INSERT INTO control.provider_account (id, firm_id, provider, mode, credentials, key_id)
VALUES (%(id)s, %(firm_id)s, %(provider)s, %(mode)s, %(credentials)s, %(key_id)s)
"""
_ACCOUNTS: Final = """
SELECT id, firm_id, provider, mode FROM control.provider_account
WHERE state = 'ACTIVE' AND (firm_id = %(firm_id)s OR firm_id IS NULL) ORDER BY provider, firm_id NULLS LAST
"""
_ALL_ACCOUNTS: Final = (
    "SELECT id, firm_id, provider, mode FROM control.provider_account WHERE firm_id = %(firm_id)s ORDER BY id"
)
_SET_CREDENTIALS: Final = """
UPDATE control.provider_account SET credentials = %(credentials)s, key_id = %(key_id)s, state = CASE WHEN %(usable)s THEN state ELSE 'DISABLED' END,
    version = version + 1, update_time = clock_timestamp()
WHERE id = %(id)s
"""


async def insert(uow: UnitOfWork, firm_id: UUID, new: NewFirm) -> bool:
    """Add the firm; False where its external id is taken."""
    values = {
        "id": firm_id, "external_id": new.external_id, "display_name": new.display_name, "mode": new.mode,
        "settings": Jsonb(new.settings.to_json()),
    }  # fmt: skip
    return await uow.fetch_value(_INSERT, values) is not None


async def of_external_id(uow: UnitOfWork, external_id: str) -> UUID | None:
    """The firm that has the external id."""
    found: UUID | None = await uow.fetch_value(_OF_EXTERNAL_ID, {"external_id": external_id})
    return found


async def get(uow: UnitOfWork, firm_id: UUID, *, lock: bool = False) -> FirmRecord | None:
    """The firm's row; `lock` keeps others from changing it until the transaction ends."""
    row = await uow.fetch_one(_LOCK if lock else _GET, {"id": firm_id})
    return None if row is None else _record(row)


async def update(uow: UnitOfWork, firm: FirmRecord) -> None:
    """Write what may change of a locked firm, as its next version."""
    values = {
        "id": firm.id, "external_id": firm.external_id, "display_name": firm.display_name,
        "settings": Jsonb(firm.settings.to_json()),
    }  # fmt: skip
    await uow.execute(_UPDATE, values)


async def list_firms(
    uow: UnitOfWork, *, external_id: str | None, states: Sequence[str], after: UUID | None, limit: int
) -> list[FirmRecord]:
    """Firms, newest first, behind the id `after`."""
    values = {"external_id": external_id, "states": list(states) or None, "after": after, "limit": limit}
    return [_record(row) for row in await uow.fetch_all(_LIST, values)]


async def add_account(
    uow: UnitOfWork, account_id: UUID, firm_id: UUID, provider: str, mode: str, sealed: tuple[bytes, str]
) -> None:
    """Add a firm's provider account; `sealed` are its encrypted credentials and the id of their key."""
    credentials, key_id = sealed
    values = {
        "id": account_id,
        "firm_id": firm_id,
        "provider": provider,
        "mode": mode,
        "credentials": credentials,
        "key_id": key_id,
    }
    await uow.execute(_ADD_ACCOUNT, values)


async def accounts(uow: UnitOfWork, firm_id: UUID) -> list[Account]:
    """The active accounts that the firm could use: its own before the platform's, per provider."""
    return [Account(**row) for row in await uow.fetch_all(_ACCOUNTS, {"firm_id": firm_id})]


async def all_accounts(uow: UnitOfWork, firm_id: UUID) -> list[Account]:
    """The firm's own accounts, those out of use too."""
    return [Account(**row) for row in await uow.fetch_all(_ALL_ACCOUNTS, {"firm_id": firm_id})]


async def set_credentials(uow: UnitOfWork, account_id: UUID, sealed: tuple[bytes, str], *, usable: bool) -> None:
    """Replace an account's credentials; one that is not `usable` with them goes out of use."""
    values = {"id": account_id, "credentials": sealed[0], "key_id": sealed[1], "usable": usable}
    await uow.execute(_SET_CREDENTIALS, values)


def _record(row: Row) -> FirmRecord:
    return FirmRecord(**{**row, "settings": FirmSettings.from_json(row["settings"])})
