"""The endpoints as anybody on the internet can reach them: statuses, forged, old and early signatures, duplicates; and secrets that are rotated."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from tests import support
from tests.integration.stripe_house.conftest import configured, new_firm
from tests.integration.stripe_house.house import (
    OWN_SECRET,
    PLATFORM_SECRET,
    Firm,
    House,
    event_state,
    events,
    payment_state,
)
from tests.integration.stripe_house.payloads import event, event_id, payment_intent, signature

PLATFORM = "/webhooks/stripe"


def anything(**fields: object) -> bytes:
    """An event that concerns nobody."""
    return event("product.created", {"id": "prod_1", "object": "product", "metadata": {}}, **fields)  # type: ignore[arg-type]


async def stored(house: House, body: bytes) -> int:
    """How many envelopes there are of an event."""
    statement = "SELECT count(*) AS n FROM control.inbox_envelope WHERE dedupe_key = %s"
    async with house.database.transaction(support.context(None), write=False) as uow:
        return int(await uow.fetch_value(statement, (json.loads(body)["id"],)))


async def test_taken_in_and_taken_in_before(house: House) -> None:
    body = anything()
    for duplicate in (False, True):
        answer = await house.post(body, PLATFORM_SECRET)
        assert (answer.status_code, answer.json()) == (200, {"received": True, "duplicate": duplicate})
    assert await stored(house, body) == 1


async def test_bytes_are_taken_as_they_come(owner: Firm, house: House) -> None:
    """Raw UTF-8, odd spacing, unknown fields, one line: whatever was signed is what is verified and kept."""
    name = event_id()
    parts = (
        f'{{"type":"customer.updated" ,"id":"{name}","object":"event","created":1700000000,"livemode":false',
        ',"extra":{"é":[1,2.50,null]},"data":{"object":{"id":"cus_unbekannt","object":"customer","name":"Zoë 東京 🙂"}}}\n\n',
    )
    body = "".join(parts).encode()
    assert (await house.post(body, OWN_SECRET, owner.path)).status_code == 200
    told = await owner.dealt_with(name)
    assert event_state(told) == "IGNORED"
    read = (await owner.call(events.GetProviderEventRequest(provider_event_id=told.id))).provider_event
    assert read.body == body
    lost = await house.http.post(
        owner.path, content=iter_of(body), headers={"stripe-signature": signature(body, OWN_SECRET)}
    )
    assert (lost.status_code, lost.json()["duplicate"]) == (200, True)


async def iter_of(body: bytes) -> AsyncIterator[bytes]:
    """A body in chunks, without its length."""
    for start in range(0, len(body), 50):
        yield body[start : start + 50]


@pytest.mark.parametrize("whose", ["platform", "own"])
async def test_what_is_not_signed_as_it_must_be_is_refused(house: House, owner: Firm, whose: str) -> None:
    path, secret, wrong = (
        (PLATFORM, PLATFORM_SECRET, OWN_SECRET) if whose == "platform" else (owner.path, OWN_SECRET, PLATFORM_SECRET)
    )
    now, body = int(time.time()), anything()
    good = signature(body, secret)
    stamp, digest = good.removeprefix("t=").split(",v1=")
    refused = [
        None, "", "t=,v1=", "v1=" + digest, f"t={stamp}", f"t={stamp},v0={digest}", f"t={stamp},v1={digest[:-1]}", f"t={stamp},v1={'0' * 64}",
        f"t={int(stamp) + 1},v1={digest}", f"t={stamp},t={int(stamp) + 1},v1={digest}", "t=abc,v1=" + digest, signature(body, wrong),
        signature(body, secret, at=now - 301), signature(body, secret, at=now + 330), signature(body, secret, at=now + 86_400),
        signature(body, ""), signature(body + b"\n", secret), signature(body, secret + " "), "Bearer x",
    ]  # fmt: skip
    for header in refused:
        answer = await house.post(body, None, path, **({} if header is None else {"stripe_signature": header}))
        assert (answer.status_code, header) == (400, header)
    assert (await house.post(body[:-1] + b" }", secret, path, stripe_signature=good)).status_code == 400
    assert (await house.post(body.replace(b"prod_1", b"prod_2"), None, path, stripe_signature=good)).status_code == 400
    assert await stored(house, body) == 0
    several = f"t={stamp},v1={'1' * 64},v1={digest},v0=x"
    assert (await house.post(body, None, path, stripe_signature=several)).status_code == 200
    for at in (now - 280, now + 240):
        another = anything()
        assert (
            await house.post(another, None, path, stripe_signature=signature(another, secret, at=at))
        ).status_code == 200


async def test_the_other_statuses(house: House, owner: Firm) -> None:
    body = anything()
    unknown = owner.path[:-4] + "0000"
    for path in (
        "/webhooks/nobody",
        "/webhooks/manual",
        unknown,
        "/webhooks/stripe/acct_123",
        "/webhooks/Stripe",
        "/webhooks",
        "/",
    ):
        assert (await house.post(body, PLATFORM_SECRET, path)).status_code == 404, path
    wrong_provider = owner.path.replace("stripe", "sandbox")
    assert (await house.post(body, OWN_SECRET, wrong_provider)).status_code == 404
    assert (await house.post(b"", PLATFORM_SECRET)).status_code == 400
    assert (await house.http.get(PLATFORM)).status_code == 405
    huge = anything(filler="x" * 300_000)
    assert (await house.post(huge, PLATFORM_SECRET)).status_code == 413
    assert (await house.http.get("/healthz")).status_code == 200


async def test_an_event_of_the_other_mode_is_refused(house: House) -> None:
    body = anything(livemode=True)
    assert (await house.post(body, PLATFORM_SECRET)).status_code == 400
    assert await stored(house, body) == 0


async def test_what_is_signed_and_is_no_event_is_kept(house: House, owner: Firm) -> None:
    for body in (
        b"not json",
        b"[]",
        b"{}",
        b'{"id": "evt_x"}',
        b"\xff\xfe",
        b'{"id":1,"type":2,"data":[]}',
        b'{"a":' * 3000 + b"1" + b"}" * 3000,
    ):
        assert (await house.post(body, OWN_SECRET, owner.path)).status_code == 200, body[:40]


async def test_five_of_each_shuffled_are_applied_once(house: House, firm: Firm, owner: Firm) -> None:
    deliveries, wanted = [], []
    for each in (firm, owner):
        for _ in range(3):
            _, invoice_id = await each.payer("pm_sandbox_acceptThenDrop", 10)
            payment = await each.charge(invoice_id)
            found = await each.stripe._all("payment_intents")
            [intent] = [one for one in found if one["metadata"].get("payment") == payment.id]
            names = [event_id(), event_id()]
            bodies = [event("payment_intent.succeeded", payment_intent(intent["id"], 1000, "succeeded", intent["metadata"]), name=names[0]),
                      event("payment_intent.processing", payment_intent(intent["id"], 1000, "processing", intent["metadata"]), name=names[1])]  # fmt: skip
            deliveries += [(body, each) for body in bodies for _ in range(5)]
            wanted.append((each, invoice_id, payment.id, names))
    random.Random(7).shuffle(deliveries)
    answers = await asyncio.gather(*(house.post(body, each.secret, each.path) for body, each in deliveries))
    assert [answer.status_code for answer in answers] == [200] * 60
    assert sum(not answer.json()["duplicate"] for answer in answers) == 12
    for each, invoice_id, payment_id, names in wanted:
        for name in names:
            assert event_state(await each.dealt_with(name)) == "APPLIED"
            assert len(await each.events(event_id=name)) == 1
        assert payment_state(await each.payment(payment_id)) == "SUCCEEDED"
        assert await each.invoice_state(invoice_id) == "PAID"


async def test_a_rotated_secret_works_at_once_and_the_old_one_until_its_time_is_over(house: House) -> None:
    firm = await configured(await new_firm(house, "Rotating"), "whsec_first_0123456789abcdef")
    first, second, third = firm.secret, "whsec_second_0123456789abcdef", "whsec_third_0123456789abcdef"
    path = firm.path

    async def status(secret: str) -> int:
        return (await house.post(anything(name=f"evt_{uuid4().hex}"), secret, path)).status_code

    assert (await status(first), await status(second)) == (200, 400)
    await configured(firm, second, overlap=3)
    assert firm.path == path
    assert (await status(second), await status(first)) == (200, 200)
    await asyncio.sleep(3.2)
    assert (await status(second), await status(first)) == (200, 400)
    await configured(firm, third, overlap=0)
    assert await status(third) == 200
    await asyncio.sleep(1.2)
    assert await status(second) in (200, 400)  # No window was asked for: the usual one of a day, or none.
