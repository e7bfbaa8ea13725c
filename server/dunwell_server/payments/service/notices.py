"""What providers' events tell of payments, set-up intents, pages, customers and methods: taken over like any other evidence, forward-only.

An event that names what is ours but not known yet is tried again (NotYet); one that concerns nothing of ours says why it is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from uuid import UUID

from dunwell_server.inbox.ports import Applied, NotYet, Origin
from dunwell_server.kernel.errors import DunwellError
from dunwell_server.kernel.ids import Prefix, decode, encode
from dunwell_server.payments.evidence import Declined, Evidence, Pending, Succeeded
from dunwell_server.payments.matching import Step, Theirs
from dunwell_server.payments.model import AttemptState, PaymentKind, Source, attempt_id_of
from dunwell_server.payments.page_model import SessionState
from dunwell_server.payments.reading import evidence_of
from dunwell_server.payments.service import customers, saving
from dunwell_server.payments.service.adoption import adopt
from dunwell_server.payments.service.checkouts import apply_page
from dunwell_server.payments.service.outcomes import apply_outcome
from dunwell_server.payments.service.reconciliation import pairs
from dunwell_server.payments.service.setups import apply_setup
from dunwell_server.payments.store import attempts, checkouts, payments, reconciliation, setups
from dunwell_server.payments.store import customers as customer_store
from dunwell_server.payments.store.reconciliation import adopted
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.work import WorkKind, wake
from dunwell_server.providers.abilities import CheckoutDetails, SetupDetails
from dunwell_server.providers.base import OutcomeClass
from dunwell_server.providers.events import CustomerNotice, MethodChange, MethodNotice, PaymentNotice

_KEY: Final = re.compile(r"v1:([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}):([1-9][0-9]{0,4})")


async def payment_told(uow: UnitOfWork, origin: Origin, notice: PaymentNotice) -> Applied:
    """An event about a payment: found by the key of its attempt, else by the provider's id of it."""
    attempt_id = await _attempt_of(uow, origin, notice)
    if attempt_id is None:
        return Applied.ignored("a payment that is none of ours: no key of ours, and its id is not known")
    where = await attempts.whereabouts(uow, attempt_id)
    if where is None:
        if await adopted(uow, origin.account_id, notice.provider_reference):
            return Applied("the money was taken over by a reconciliation")
        raise NotYet(f"the attempt {notice.key} is not known yet")
    if where["account_id"] != origin.account_id:
        return Applied.ignored("the attempt was made at another account")
    payment_id: UUID = where["payment_id"]
    if notice.outcome.outcome is OutcomeClass.UNKNOWN:
        await attempts.check_now(uow, attempt_id)
        await wake(uow, WorkKind.ATTEMPTS)
        return Applied(
            f"the event does not say what became of payment {encode(Prefix.PAYMENT, payment_id)}; it is asked about"
        )
    evidence = evidence_of(notice.outcome, uow.now)
    if not await _counts(uow, payment_id, evidence):
        # The client may try another method on the page: whether it has ended, its provider is asked.
        await attempts.check_now(uow, attempt_id)
        await wake(uow, WorkKind.ATTEMPTS)
        return Applied(f"a try on the page of payment {encode(Prefix.PAYMENT, payment_id)}; the page is asked about")
    applied = await apply_outcome(uow, attempt_id, evidence, Source.EVENT)
    if isinstance(evidence, Succeeded) and applied.state is AttemptState.SUCCEEDED and not applied.changed:
        again = await _paid_again(uow, origin, notice, evidence)
        if again is not None:
            return again
    said = f"payment {encode(Prefix.PAYMENT, applied.payment_id)}, attempt {applied.state.value}"
    return Applied(said if applied.changed else f"{said}: nothing new")


async def _attempt_of(uow: UnitOfWork, origin: Origin, notice: PaymentNotice) -> UUID | None:
    found = None if notice.key is None else _KEY.fullmatch(notice.key)
    if found is not None:
        return attempt_id_of(UUID(found[1]), int(found[2]))
    return await attempts.by_reference(uow, origin.account_id, notice.provider_reference)


async def _paid_again(uow: UnitOfWork, origin: Origin, notice: PaymentNotice, evidence: Succeeded) -> Applied | None:
    """Money under a key whose attempt has succeeded as another payment of the provider's: it came on top, and is recorded. None: it did not."""
    found = None if notice.key is None else _KEY.fullmatch(notice.key)
    account = await reconciliation.account(uow, origin.account_id)
    if found is None or account is None or await attempts.by_reference(uow, account.id, notice.provider_reference):
        return None
    [pair] = await pairs(uow, account, [Theirs(
        notice.provider_reference, notice.key, True, UUID(found[1]), int(found[2]), evidence.amount_minor, evidence.currency_code, evidence,
        notice.outcome.provider_time or uow.now, notice.customer_reference,
    )])  # fmt: skip
    if pair.decision.step is not Step.ADOPT:
        return None
    adopted_now = await adopt(uow, account, pair.theirs, pair.ours)
    return None if adopted_now is None else Applied(adopted_now.message or "money came a second time")


async def _counts(uow: UnitOfWork, payment_id: UUID, evidence: Evidence) -> bool:
    """Whether evidence about one try is evidence about the payment. On an open page only money is; the page itself tells the rest."""
    payment = await payments.get(uow, payment_id)
    if payment is None or payment.kind is not PaymentKind.CHECKOUT or isinstance(evidence, Succeeded):
        return True
    session = await checkouts.of_payment(uow, payment_id)
    complete = session is not None and session.state is SessionState.COMPLETED
    return complete and isinstance(evidence, Declined | Pending)


async def setup_told(uow: UnitOfWork, origin: Origin, details: SetupDetails) -> Applied:
    """An event about a set-up intent."""
    setup_id = await setups.by_reference(uow, origin.account_id, details.provider_reference)
    if setup_id is None:
        named = named_id(Prefix.SETUP_INTENT, details.metadata, "setup", uow)
        if named is None:
            ours = "checkout" in details.metadata
            return Applied.ignored("a page's own: the page tells" if ours else "a set-up intent that is none of ours")
        known = await setups.get(uow, named)
        if known is None:
            raise NotYet(f"the set-up intent {details.metadata['setup']} is not known yet")
        if known.account_id != origin.account_id or known.provider_reference is not None:
            return Applied.ignored("a set-up intent that another one has replaced, or of another account")
        setup_id = named
    applied = await apply_setup(uow, setup_id, details)
    return Applied(f"set-up intent {encode(Prefix.SETUP_INTENT, setup_id)} {applied.state.value}")


async def page_told(uow: UnitOfWork, origin: Origin, details: CheckoutDetails) -> Applied:
    """An event about a page."""
    session_id = await session_named(uow, origin, details)
    if session_id is None:
        return Applied.ignored("a page that is none of ours")
    known = await checkouts.get(uow, session_id)
    if known is None:
        raise NotYet(f"the page {details.metadata['checkout']} is not known yet")
    if known.account_id != origin.account_id:
        return Applied.ignored("a page of another account")
    if known.provider_reference not in (None, details.provider_reference):
        return Applied.ignored("a page that another one has replaced")
    await apply_page(uow, session_id, details, Source.EVENT)
    reached = await checkouts.get(uow, session_id)
    assert reached is not None
    return Applied(f"page {encode(Prefix.CHECKOUT_SESSION, session_id)} {reached.state.value}")


async def session_named(uow: UnitOfWork, origin: Origin, details: CheckoutDetails) -> UUID | None:
    """The page that an event speaks of, by the provider's id, else by ours in its metadata; it need not be known yet."""
    known = await checkouts.by_reference(uow, origin.account_id, details.provider_reference)
    return known or named_id(Prefix.CHECKOUT_SESSION, details.metadata, "checkout", uow)


def named_id(prefix: Prefix, metadata: Mapping[str, str], name: str, uow: UnitOfWork) -> UUID | None:
    """Our id in an object's metadata, where the object is this firm's. What is no id of ours names nothing."""
    if metadata.get("firm") != encode(Prefix.FIRM, uow.firm_id) or name not in metadata:
        return None
    try:
        return decode(prefix, metadata[name], name)
    except DunwellError:
        return None


async def customer_told(uow: UnitOfWork, origin: Origin, notice: CustomerNotice) -> Applied:
    """An event about a customer. Only its end concerns us: names and addresses are ours to set, there as here."""
    known = await customer_store.by_reference(uow, origin.account_id, notice.provider_reference)
    if known is None:
        return Applied.ignored("a customer that is none of ours, or not known as one yet")
    if not notice.deleted:
        return Applied(f"client {encode(Prefix.CLIENT, known.client_id)}: nothing to take over")
    fresh = await customers.note_deleted(uow, known)
    return Applied(f"client {encode(Prefix.CLIENT, known.client_id)}: customer deleted{'' if fresh else ', as known'}")


async def method_told(uow: UnitOfWork, origin: Origin, notice: MethodNotice) -> Applied:
    """An event about a method: attached to a customer of ours, detached, or renewed."""
    reference = notice.method.provider_reference
    method = await customer_store.method(uow, origin.account_id, reference)
    if method is None and notice.change is MethodChange.UPDATED:
        return Applied.ignored("a method that is not attached here")
    if method is None:
        return await _attached(uow, origin, notice)
    said = f"payment method {encode(Prefix.PAYMENT_METHOD, method.id)}"
    match notice.change:
        case MethodChange.DETACHED:
            await saving.detach(uow, method)
            return Applied(f"{said} detached")
        case MethodChange.UPDATED:
            renewed = await saving.renew(uow, method, notice.method)
            return Applied(f"{said} {'renewed' if renewed else 'unchanged'}")
    return Applied(f"{said} is attached, as known")


async def _attached(uow: UnitOfWork, origin: Origin, notice: MethodNotice) -> Applied:
    known = None
    if notice.customer_reference is not None:
        known = await customer_store.by_reference(uow, origin.account_id, notice.customer_reference)
    if known is None or notice.customer_reference is None:
        return Applied.ignored("a method of a customer that is none of ours")
    kept = await saving.save(uow, known.client_id, origin.account_id, notice.method, notice.customer_reference)
    if kept is None:
        return Applied.ignored("a method that was detached here before")
    said = f"payment method {encode(Prefix.PAYMENT_METHOD, kept)}"
    if notice.change is MethodChange.DETACHED:
        # Its attachment is told later, or never: it must not come to life by that.
        method = await customer_store.method(uow, origin.account_id, notice.method.provider_reference, lock=True)
        assert method is not None
        await saving.detach(uow, method)
        return Applied(f"{said} detached before its attachment was told")
    return Applied(f"{said} attached")
