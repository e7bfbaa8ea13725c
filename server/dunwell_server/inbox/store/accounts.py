"""Provider accounts, as the inbox needs them, and when each was last polled for gaps."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from dunwell_server.inbox.model import Account
from dunwell_server.platform.database import Row, UnitOfWork

_COLUMNS: Final = "id, firm_id, provider, mode, credentials, key_id, version"
# Disabled accounts too: what is open at them is still looked after. Who wants no webhooks removes the secret.
_BY_ID: Final = f"SELECT {_COLUMNS} FROM control.provider_account WHERE id = %(id)s"
_OF_PLATFORM: Final = f"""
SELECT {_COLUMNS} FROM control.provider_account WHERE provider = %(provider)s AND firm_id IS NULL ORDER BY state, mode, id
"""
_TO_POLL: Final = f"""
SELECT {_COLUMNS}, (SELECT p.poll_time FROM control.inbox_poll p WHERE p.account_id = a.id) AS poll_time
FROM control.provider_account a
WHERE a.firm_id IS NOT DISTINCT FROM %(firm_id)s AND a.state = 'ACTIVE' AND a.provider = ANY(%(providers)s) ORDER BY a.id
"""
_IN_USE: Final = """
SELECT EXISTS (SELECT 1 FROM provider_customer WHERE firm_id = %(firm_id)s AND account_id = %(account_id)s)
    OR EXISTS (SELECT 1 FROM control.inbox_envelope WHERE account_id = %(account_id)s)
"""
_CLAIM_POLL: Final = """
INSERT INTO control.inbox_poll AS p (account_id, poll_time) VALUES (%(account_id)s, clock_timestamp())
ON CONFLICT (account_id) DO UPDATE SET poll_time = clock_timestamp()
WHERE p.poll_time <= clock_timestamp() - make_interval(secs => %(seconds)s)
RETURNING polled_until
"""
_POLLED: Final = """
UPDATE control.inbox_poll SET polled_until = greatest(polled_until, %(until)s) WHERE account_id = %(account_id)s
"""


async def by_id(uow: UnitOfWork, account_id: UUID) -> Account | None:
    """An active account, whoever's it is."""
    row = await uow.fetch_one(_BY_ID, {"id": account_id})
    return _account(row) if row else None


async def of_platform(uow: UnitOfWork, provider: str) -> list[Account]:
    """The platform's active accounts at a provider: one for each mode at most."""
    return [_account(row) for row in await uow.fetch_all(_OF_PLATFORM, {"provider": provider})]


async def to_poll(
    uow: UnitOfWork, firm_id: UUID | None, providers: Sequence[str]
) -> list[tuple[Account, datetime | None]]:
    """The active accounts of a firm (None: of the platform) at these providers, and when each was last polled."""
    rows = await uow.fetch_all(_TO_POLL, {"firm_id": firm_id, "providers": list(providers)})
    return [(_account(row), row["poll_time"]) for row in rows]


async def in_use(uow: UnitOfWork, account_id: UUID) -> bool:
    """Whether the firm has a customer at the account, or an event has come from it."""
    return bool(await uow.fetch_value(_IN_USE, {"firm_id": uow.firm_id, "account_id": account_id}))


async def claim_poll(uow: UnitOfWork, account_id: UUID, seconds: float) -> tuple[bool, datetime | None]:
    """Whether this poll of the account is the caller's (nobody's in the last `seconds`), and the instant up to which it was polled before."""
    row = await uow.fetch_one(_CLAIM_POLL, {"account_id": account_id, "seconds": seconds})
    return (False, None) if row is None else (True, row["polled_until"])


async def note_polled(uow: UnitOfWork, account_id: UUID, until: datetime) -> None:
    """Everything of the account up to `until`, by its clock, is in the inbox."""
    await uow.execute(_POLLED, {"account_id": account_id, "until": until})


def _account(row: Row) -> Account:
    values: dict[str, Any] = {name: value for name, value in row.items() if name != "poll_time"}
    return Account(**values)
