"""Set-up intents: saving a method in the client's browser. Asked for here, and what the provider says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from psycopg.errors import UniqueViolation

from dunwell_server.billing.service.clients import get_client
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments import ladder
from dunwell_server.payments.model import setup_intent_id
from dunwell_server.payments.page_model import NewSetup, SetupIntent, SetupIntentState
from dunwell_server.payments.service import saving
from dunwell_server.payments.service.checkouts import FIRST_LOOK, reused
from dunwell_server.payments.service.methods import provider_of, resolve_account
from dunwell_server.payments.store import scheduling, setups
from dunwell_server.payments.store.methods import ProviderAccount
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.features import Feature, require_feature
from dunwell_server.platform.journal import Category, Change, Severity, record
from dunwell_server.platform.provider_references import remember
from dunwell_server.platform.work import WorkKind, wake
from dunwell_server.providers.abilities import SetupDetails, SetupState

PATIENCE: Final = timedelta(days=30)
"""How long a set-up intent that the client does not complete is asked about; an event is still heard afterwards."""

_STATES: Final = {
    SetupState.OPEN: SetupIntentState.OPEN,
    SetupState.PROCESSING: SetupIntentState.OPEN,
    SetupState.SUCCEEDED: SetupIntentState.SUCCEEDED,
    SetupState.FAILED: SetupIntentState.FAILED,
    SetupState.CANCELLED: SetupIntentState.CANCELLED,
}
_FORWARD: Final = {
    SetupIntentState.CREATING: frozenset(SetupIntentState) - {SetupIntentState.CREATING},
    SetupIntentState.OPEN: frozenset({SetupIntentState.SUCCEEDED, SetupIntentState.FAILED, SetupIntentState.CANCELLED}),
    SetupIntentState.FAILED: frozenset({SetupIntentState.OPEN, SetupIntentState.SUCCEEDED, SetupIntentState.CANCELLED}),
    SetupIntentState.CANCELLED: frozenset({SetupIntentState.SUCCEEDED}),
    SetupIntentState.SUCCEEDED: frozenset[SetupIntentState](),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupWish:
    """A set-up intent as a caller wants it, and what is to become of the method."""

    client_id: UUID
    provider: str | None = None
    make_default: bool = False
    enable_autopay: bool = False
    backup_priority: int = 0
    metadata: dict[str, str] = field(default_factory=dict)


async def request_setup(uow: UnitOfWork, wish: SetupWish, able: Callable[[ProviderAccount], None]) -> UUID:
    """Store the intent. `able(account)` refuses a provider without set-up intents.

    Errors: RESOURCE_NOT_FOUND, PROVIDER_NOT_CONFIGURED, PROVIDER_MODE_MISMATCH, FEATURE_DISABLED, REQUEST_ID_REUSED.
    """
    require_feature(uow, Feature.CARD_PAYMENTS)
    client = await get_client(uow, wish.client_id)
    account = await resolve_account(uow, provider_of(uow, client, wish.provider))
    able(account)
    assert uow.context.request_id is not None
    setup_id = setup_intent_id(uow.firm_id, uow.context.request_id)
    look = uow.now + FIRST_LOOK
    try:
        await setups.insert(uow, NewSetup(
            setup_id, wish.client_id, account.provider, account.id, account.mode, f"v1:setup:{setup_id}", wish.make_default, wish.enable_autopay,
            wish.backup_priority, wish.metadata, look,
        ))  # fmt: skip
    except UniqueViolation as error:
        raise reused() from error
    await wake(uow, WorkKind.PAGES, look)
    return setup_id


async def get_setup(uow: UnitOfWork, setup_id: UUID) -> SetupIntent:
    """One set-up intent. Errors: RESOURCE_NOT_FOUND."""
    setup = await setups.get(uow, setup_id)
    if setup is None:
        raise DunwellError(
            Reason.RESOURCE_NOT_FOUND, "No such set-up intent.", resource=("SetupIntent", encode(Prefix.SETUP_INTENT, setup_id))
        )  # fmt: skip
    return setup


async def apply_setup(uow: UnitOfWork, setup_id: UUID, details: SetupDetails) -> SetupIntent:
    """Take over what the provider says of a set-up intent. Its success attaches the method once, whoever tells of it first. Forward-only."""
    seen = await get_setup(uow, setup_id)
    await scheduling.lock_client(uow, seen.client_id)
    setup = await setups.get(uow, setup_id, lock=True)
    assert setup is not None
    reached = _STATES[details.state]
    changes: dict[str, Any] = {}
    if setup.provider_reference is None:
        changes["provider_reference"] = details.provider_reference
        await remember(uow, setup.account_id, details.provider_reference)
    moves = reached in _FORWARD[setup.state]
    if reached is SetupIntentState.SUCCEEDED and details.method is not None and setup.method_id is None:
        changes["method_id"] = await saving.save(
            uow, setup.client_id, setup.account_id, details.method, details.customer_reference, make_default=setup.make_default,
            enable_autopay=setup.enable_autopay, backup_priority=setup.backup_priority, metadata=setup.metadata,
        )  # fmt: skip
    if moves:
        changes |= _moved(uow, setup, reached, details)
    if not changes:
        return setup
    changed = await setups.change(uow, setup, **changes)
    if moves:
        await record(uow, _told(changed))
    if changed.next_check_time is not None:
        await wake(uow, WorkKind.PAGES, changed.next_check_time)
    return changed


def _moved(uow: UnitOfWork, setup: SetupIntent, reached: SetupIntentState, details: SetupDetails) -> dict[str, Any]:
    failure = details.failure_code if reached is SetupIntentState.FAILED else None
    if reached.is_open:
        return {"state": reached, "failure_code": failure, "next_check_time": next_look(setup, uow.now)}
    return {"state": reached, "failure_code": None, "next_check_time": None, "finish_time": uow.now}


def next_look(setup: SetupIntent, now: datetime) -> datetime | None:
    """When a set-up intent that is open is next asked about (firm time); None: no more."""
    return ladder.next_poll(setup.firm_time, now) if now - setup.firm_time < PATIENCE else None


async def fail_setup(uow: UnitOfWork, setup_id: UUID, code: str) -> None:
    """The provider has refused to make it, or surely has not made it."""
    setup = await setups.get(uow, setup_id, lock=True)
    if setup is not None and setup.state is SetupIntentState.CREATING:
        failed = await setups.change(
            uow, setup, state=SetupIntentState.FAILED, failure_code=code, next_check_time=None, finish_time=uow.now
        )
        await record(uow, _told(failed))


def _told(setup: SetupIntent) -> Change:
    verb = {SetupIntentState.OPEN: "opened"}.get(setup.state, setup.state.value.lower())
    metadata = {
        "client_id": encode(Prefix.CLIENT, setup.client_id), "provider": setup.provider, "provider_reference": setup.provider_reference,
        "payment_method_id": encode(Prefix.PAYMENT_METHOD, setup.method_id) if setup.method_id else None, "failure_code": setup.failure_code,
    }  # fmt: skip
    severity = Severity.WARNING if setup.state is SetupIntentState.FAILED else Severity.INFO
    return Change(
        Category.PAYMENT, f"setup_intent_{verb}", "setup_intent", setup.id, f"setup_intent.{verb}", severity, metadata
    )
