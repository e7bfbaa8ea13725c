"""Taking webhooks in: signatures, accounts, rotation, one row for each event."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from dunwell_server.inbox.model import Account, EventState
from dunwell_server.inbox.service import accounts
from dunwell_server.inbox.service.ingest import Webhook
from dunwell_server.inbox.store import accounts as account_store
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import uuid7
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import UnitOfWork
from tests.integration.inbox.conftest import SECRET, SIDECAR, House, firm_of
from tests.integration.inbox.toy import event_body, signed_headers

MakeFirm = Callable[..., Awaitable[CallContext]]


async def test_a_signed_event_is_stored_byte_for_byte_with_its_wake(house: House, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    account = await house.account(firm)
    body = event_body("evt_1", state="SUCCEEDED", key="k1") + b" \n\xff"

    stored = await house.send(account, body, headers={"content-type": "application/json", "cookie": "a=b"})

    event = await house.event(firm, stored.id)
    assert (event.body, event.state, event.event_id) == (body, EventState.RECEIVED, None)
    assert event.headers == {"content-type": "application/json", "user-agent": "toy/1"}, "without signature and cookie"
    assert not stored.duplicate
    assert not event.fetched
    wakes = await house.rows("SELECT kind FROM control.wake WHERE firm_id = %s", firm)
    assert [row["kind"] for row in wakes] == ["inbox"]


async def test_repeats_answer_with_the_first_also_at_the_same_time(house: House, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    account = await house.account(firm)
    body = event_body("evt_1", state="SUCCEEDED", key="k1")

    answers = await asyncio.gather(*(house.send(account, body) for _ in range(8)))

    assert len({stored.id for stored in answers}) == 1
    assert sum(not stored.duplicate for stored in answers) == 1
    assert len(await house.rows("SELECT id FROM provider_event", firm=firm)) == 1


async def test_an_event_without_an_id_is_known_by_its_bytes(house: House, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    account = await house.account(firm)
    first = await house.send(account, b"no json at all")
    assert (await house.send(account, b"no json at all")).id == first.id
    assert (await house.send(account, b"something else")).id != first.id


async def test_two_accounts_may_have_the_same_event_id(house: House, make_firm: MakeFirm) -> None:
    one, other = await firm_of(await make_firm()), await firm_of(await make_firm())
    body = event_body("evt_same", state="SUCCEEDED", key="k1")
    first = await house.send(await house.account(one), body)
    second = await house.send(await house.account(other), body)
    assert not second.duplicate
    assert first.id != second.id


@pytest.mark.parametrize(("source", "bucket"), [("54.51.100.9", "54.0.0.0/8"), ("not an address", "unknown")])
async def test_a_forged_one_is_refused_counted_and_not_stored(
    house: House, make_firm: MakeFirm, source: str, bucket: str
) -> None:
    firm = await firm_of(await make_firm())
    account = await house.account(firm)
    body = event_body("evt_1", state="SUCCEEDED", key="k1")
    labels = {"provider": "toy", "reason": "mismatch", "source": bucket}
    before = REGISTRY.get_sample_value("dunwell_webhooks_refused_total", labels) or 0

    with pytest.raises(DunwellError) as caught:
        await house.ingestor.ingest(
            SIDECAR, Webhook("toy", account, body, signed_headers("another secret", body), source)
        )

    assert caught.value.reason is Reason.SIGNATURE_INVALID
    assert SECRET not in str(caught.value)
    assert await house.rows("SELECT id FROM control.inbox_envelope WHERE account_id = %s", account) == []
    assert REGISTRY.get_sample_value("dunwell_webhooks_refused_total", labels) == before + 1


@pytest.mark.parametrize("minutes", [-6, 6])
async def test_a_signature_of_another_time_is_refused(house: House, make_firm: MakeFirm, minutes: int) -> None:
    account = await house.account(await firm_of(await make_firm()))
    with pytest.raises(DunwellError, match="SIGNATURE_INVALID"):
        await house.send(account, event_body("evt_1"), when=datetime.now(UTC) + timedelta(minutes=minutes))


async def test_changed_bytes_are_refused(house: House, make_firm: MakeFirm) -> None:
    account = await house.account(await firm_of(await make_firm()))
    body = event_body("evt_1", state="SUCCEEDED", key="k1")
    with pytest.raises(DunwellError, match="SIGNATURE_INVALID"):
        await house.ingestor.ingest(SIDECAR, Webhook("toy", account, body + b" ", signed_headers(SECRET, body)))


async def test_unknown_provider_account_and_missing_secret_are_not_found(house: House, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    closed = await house.account(firm, webhook_secret="")
    body = event_body("evt_1")
    for webhook in (
        Webhook("nobody", None, body, signed_headers(SECRET, body)),
        Webhook("toy", uuid7(), body, signed_headers(SECRET, body)),
        Webhook("toy", closed, body, signed_headers("", body)),
        Webhook("toy", closed, body, signed_headers(SECRET, body)),
    ):
        with pytest.raises(DunwellError) as caught:
            await house.ingestor.ingest(SIDECAR, webhook)
        assert caught.value.reason is Reason.RESOURCE_NOT_FOUND


async def test_a_rotated_secret_works_at_once_and_the_one_before_until_its_time(
    house: House, make_firm: MakeFirm
) -> None:
    firm = await firm_of(await make_firm())
    account = await house.account(firm)
    await house.send(account, event_body("evt_1"))
    with pytest.raises(DunwellError, match="SIGNATURE_INVALID"):
        await house.send(account, event_body("evt_2"), secret="new")
    until = datetime.now(UTC) + timedelta(hours=1)
    changed = {"webhook_secret": "new", "webhook_secret_previous": SECRET}
    await house.set_credentials(account, firm, **changed, webhook_secret_previous_until=until.isoformat())

    await house.send(account, event_body("evt_2"), secret="new")
    await house.send(account, event_body("evt_3"), secret=SECRET)

    over = datetime.now(UTC) - timedelta(seconds=1)
    await house.set_credentials(account, firm, **changed, webhook_secret_previous_until=over.isoformat())
    await asyncio.sleep(accounts.FRESH_SECONDS)
    with pytest.raises(DunwellError, match="SIGNATURE_INVALID"):
        await house.send(account, event_body("evt_4"), secret=SECRET)


async def test_a_flood_of_forged_webhooks_is_no_flood_of_queries(
    house: House, make_firm: MakeFirm, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = await house.account(await firm_of(await make_firm()))
    await house.send(account, event_body("evt_1"))
    readings, reading = 0, account_store.by_id

    async def counted(uow: UnitOfWork, account_id: UUID) -> Account | None:
        nonlocal readings
        readings += 1
        return await reading(uow, account_id)

    monkeypatch.setattr(account_store, "by_id", counted)
    forged = (house.send(account, event_body(f"evt_{number}"), secret="guessed") for number in range(50))
    answers = await asyncio.gather(*forged, return_exceptions=True)
    assert [answer.reason for answer in answers if isinstance(answer, DunwellError)] == [Reason.SIGNATURE_INVALID] * 50
    assert readings <= 3


async def test_a_suspended_firm_and_an_advancing_clock_keep_nothing_out(house: House, make_firm: MakeFirm) -> None:
    suspended = await firm_of(await make_firm())
    advancing = await firm_of(await make_firm(clock=datetime(2026, 1, 1, tzinfo=UTC)))
    await house.change("UPDATE control.firm SET state = 'SUSPENDED' WHERE id = %s", suspended)
    await house.change("UPDATE control.test_clock SET state = 'ADVANCING' WHERE firm_id = %s", advancing)
    for firm in (suspended, advancing):
        account = await house.account(firm)
        await house.payment(firm, account, "k1")
        stored = await house.send(account, event_body("evt_1", state="SUCCEEDED", key="k1"))
        await house.work(firm)
        assert (await house.event(firm, stored.id)).state is EventState.APPLIED


async def test_no_firm_sees_anothers_events(house: House, make_firm: MakeFirm) -> None:
    one, other = await firm_of(await make_firm()), await firm_of(await make_firm())
    stored = await house.send(await house.account(one), event_body("evt_1"))
    assert await house.rows("SELECT id FROM provider_event WHERE id = %s", stored.id, firm=other) == []
