"""OffboardFirm: suspend, resume, erase, purge. Everything but the erasure can be taken back; the erasure takes a second person.

What an erasure takes away, and what stays because the law wants it kept, is listed in `exit_policy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from dunwell_server.admin.exit_policy import ERASED
from dunwell_server.admin.service.exporting import EXPORTED
from dunwell_server.admin.store import firms as firm_store
from dunwell_server.admin.store import offboarding as store
from dunwell_server.kernel.calendar import local_date
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.platform.crypto import Vault, account_aad
from dunwell_server.platform.database import Row, UnitOfWork
from dunwell_server.platform.journal import Category, Change, Severity, record

OWN_ACTIONS: Final = (EXPORTED, "firm_suspended", "firm_resumed")
"""Audit actions that change nothing an export would have to hold."""
ERASING_SECONDS: Final = 3600.0


class Step(StrEnum):
    """What OffboardFirm does."""

    SUSPEND = "SUSPEND"
    RESUME = "RESUME"
    ERASE = "ERASE"
    PURGE = "PURGE"


_NEEDS: Final[dict[Step, str]] = {
    Step.SUSPEND: "ACTIVE",
    Step.RESUME: "SUSPENDED",
    Step.ERASE: "SUSPENDED",
    Step.PURGE: "ERASED",
}
_ALLOWED: Final[dict[str, str]] = {
    "ACTIVE": "SUSPEND",
    "SUSPENDED": "RESUME,ERASE",
    "ERASED": "PURGE",
    "PURGED": "none",
}


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a firm is on its way out. `erased`: rows that this step changed or deleted, by table. Times are machine time."""

    firm_id: UUID
    state: str
    suspend_time: datetime | None
    suspend_actor: str | None
    export_time: datetime | None
    export_sha256: bytes | None
    export_current: bool
    erase_time: datetime | None
    retain_until_date: date | None
    purge_time: datetime | None
    erased: Mapping[str, int] = field(default_factory=dict)


async def take(
    uow: UnitOfWork, step: Step, vault: Vault, *, confirm: str = "", retain_until: date | None = None
) -> Standing:
    """Take a step with the transaction's firm, in a transaction that a suspended firm does not refuse.

    Errors: STATE_CONFLICT where it cannot come next, CLOCK_ADVANCING, FIELD_INVALID, EXPORT_REQUIRED, APPROVAL_REQUIRED.
    """
    row = await store.lock(uow, OWN_ACTIONS)
    _check(step, row, retain_until)
    erased: dict[str, int] = {}
    match step:
        case Step.SUSPEND:
            await store.suspend(uow)
            await _note(uow, "firm_suspended", Severity.CRITICAL)
        case Step.RESUME:
            await store.resume(uow)
            await _note(uow, "firm_resumed", Severity.CRITICAL)
        case Step.ERASE:
            assert retain_until is not None
            erased = await _erase(uow, row, vault, confirm, retain_until)
        case Step.PURGE:
            _refuse_early(uow, row)
            erased = {"document": await store.purge(uow, _today(uow))}
            await _note(uow, "firm_purged", Severity.CRITICAL, {"documents": erased["document"]})
    return _standing(await store.lock(uow, OWN_ACTIONS), erased)


def _check(step: Step, row: Row, retain_until: date | None) -> None:
    state = "PURGED" if row["purge_time"] else row["state"]
    if row["clock_state"] == "ADVANCING":
        raise DunwellError(
            Reason.CLOCK_ADVANCING,
            "The firm's test clock is being advanced; try again when it stands.",
            retry_after=1.0,
        )
    if state != _NEEDS[step]:
        message = f"{step} needs a firm that is {_NEEDS[step]}; this one is {state}. Allowed now: {_ALLOWED.get(state, 'none').replace(',', ', ')}."
        metadata = {"state": state, "allowed": _ALLOWED.get(state, "none")}
        raise DunwellError(
            Reason.STATE_CONFLICT, message, metadata=metadata, resource=("Firm", encode(Prefix.FIRM, row["firm_id"]))
        )
    if (step is Step.ERASE) != (retain_until is not None):
        problem = (
            "is required: until when archived documents are kept" if step is Step.ERASE else "concerns the erasure only"
        )
        raise field_invalid("retain_until_date", problem)


def _refuse_early(uow: UnitOfWork, row: Row) -> None:
    until: date = row["retain_until_date"]
    if _today(uow) < until:
        metadata = {"state": row["state"], "allowed": "none", "retain_until_date": until.isoformat()}
        raise DunwellError(Reason.STATE_CONFLICT, f"The archived documents are kept until {until}.", metadata=metadata)


async def _erase(uow: UnitOfWork, row: Row, vault: Vault, confirm: str, retain_until: date) -> dict[str, int]:
    if uow.context.actor.label == row["suspend_actor"]:
        message = "Whoever suspended the firm does not erase it: a second person does."
        raise DunwellError(Reason.APPROVAL_REQUIRED, message, metadata={"proposer": row["suspend_actor"]})
    if retain_until < _today(uow):
        raise field_invalid("retain_until_date", "must not lie in the past")
    if not row["export_current"] and confirm != row["display_name"]:
        _refuse_unexported(row)
    open_ends = await store.under_way(uow)
    if any(open_ends.values()):
        told = ", ".join(f"{count} {what}" for what, count in open_ends.items() if count)
        metadata = {
            "state": row["state"],
            "allowed": "RESUME",
            **{what: str(count) for what, count in open_ends.items()},
        }
        message = f"Some things are under way ({told}): resume the firm until they have ended."
        raise DunwellError(Reason.STATE_CONFLICT, message, metadata=metadata)
    await store.mark_erased(uow, retain_until)
    seconds = uow.context.remaining(ERASING_SECONDS)
    sealed = {
        account.id: vault.encrypt({}, account_aad(uow.firm_id, account.provider))
        for account in await firm_store.all_accounts(uow, uow.firm_id)
    }
    await store.forget_the_rest(uow, sealed)
    erased = {table: await store.erase(uow, table, columns, seconds) for table, columns in ERASED.items()}
    metadata = {"rows": erased, "retain_until_date": retain_until.isoformat(), "exported": bool(row["export_current"])}
    await _note(uow, "firm_erased", Severity.CRITICAL, metadata)
    return erased


def _refuse_unexported(row: Row) -> None:
    when: datetime | None = row["export_time"]
    metadata = {} if when is None else {"export_time": when.isoformat()}
    what = "has never been exported" if when is None else f"has changed since its export of {when:%Y-%m-%d %H:%M} UTC"
    message = f"The firm {what}: export it first, or confirm with its display name that its data may be lost."
    raise DunwellError(Reason.EXPORT_REQUIRED, message, metadata=metadata)


async def _note(uow: UnitOfWork, action: str, severity: Severity, metadata: Mapping[str, Any] | None = None) -> None:
    event = action.replace("_", ".")
    await record(uow, Change(Category.ADMIN, action, "firm", uow.firm_id, event, severity, metadata or {}))


def _today(uow: UnitOfWork) -> date:
    return local_date(uow.now, uow.firm.settings.zone)


def _standing(row: Row, erased: Mapping[str, int]) -> Standing:
    digest = row["export_sha256"]
    return Standing(
        row["firm_id"], "PURGED" if row["purge_time"] else row["state"], row["suspend_time"], row["suspend_actor"], row["export_time"],
        None if digest is None else bytes(digest), row["export_current"], row["erase_time"], row["retain_until_date"], row["purge_time"], erased,
    )  # fmt: skip
