"""Every RPC of ProviderEventService, through a real channel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import pytest
from grpc import StatusCode

from dunwell.v1 import options_pb2, provider_event_pb2
from dunwell.v1 import provider_event_service_pb2 as pb
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.platform.context import CallContext, Role
from dunwell_server.rpc.interceptors.method import read_permission
from dunwell_server.rpc.registry import contract_services
from tests.integration.inbox.conftest import firm_of
from tests.integration.inbox.toy import event_body, signed_headers
from tests.rpc.floor.fakes import failure
from tests.rpc.inbox.conftest import Served, webhook

MakeFirm = Callable[..., Awaitable[CallContext]]
RECEIVED = provider_event_pb2.PROVIDER_EVENT_STATE_RECEIVED
APPLIED = provider_event_pb2.PROVIDER_EVENT_STATE_APPLIED
IGNORED = provider_event_pb2.PROVIDER_EVENT_STATE_IGNORED
QUARANTINED = provider_event_pb2.PROVIDER_EVENT_STATE_QUARANTINED
DISCARDED = provider_event_pb2.PROVIDER_EVENT_STATE_DISCARDED


def event_id(value: UUID) -> str:
    return encode(Prefix.PROVIDER_EVENT, value)


async def get(
    served: Served, value: UUID, firm: UUID | None, role: Role = Role.OPERATOR
) -> provider_event_pb2.ProviderEvent:
    request = pb.GetProviderEventRequest(provider_event_id=event_id(value))
    found: provider_event_pb2.ProviderEvent = (
        await served.call("GetProviderEvent", request, role, firm)
    ).provider_event
    return found


async def listed(
    served: Served, firm: UUID | None, role: Role = Role.OPERATOR, **fields: object
) -> list[provider_event_pb2.ProviderEvent]:
    request = pb.ListProviderEventsRequest(**fields)  # type: ignore[arg-type]
    return list((await served.call("ListProviderEvents", request, role, firm)).provider_events)


async def test_a_webhook_is_taken_in_shown_and_applied(served: Served, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    account = await served.house.account(firm)
    await served.house.payment(firm, account, "k1")
    body = event_body("evt_1", state="SUCCEEDED", key="k1", references=["toy_k1"])

    first = await served.call("IngestProviderEvent", webhook(account, body, source_address="54.1.2.3"), Role.SIDECAR)
    again = await served.call("IngestProviderEvent", webhook(account, body), Role.ADMIN)
    assert (first.duplicate, again.duplicate) == (False, True)
    assert first.provider_event_id == again.provider_event_id

    (event,) = await listed(served, firm)
    assert (event.id, event.event_id, event.type, event.state) == (
        first.provider_event_id,
        "evt_1",
        "payment",
        RECEIVED,
    )
    assert (event.provider, event.provider_account_id) == ("toy", encode(Prefix.PROVIDER_ACCOUNT, account))
    assert (event.body, event.body_bytes, event.firm_id) == (b"", len(body), encode(Prefix.FIRM, firm))
    assert event.provider_time.seconds == 1767225600

    await served.house.work(firm)
    (event,) = await listed(served, firm, states=[APPLIED], object_reference="toy_k1")
    assert (event.result, event.attempt_count) == ("payment k1 is SUCCEEDED", 1)
    assert event.HasField("finish_time")
    whole = (
        await served.call("GetProviderEvent", pb.GetProviderEventRequest(provider_event_id=event.id), firm=firm)
    ).provider_event
    assert whole.body == body
    assert dict(whole.headers) == {"user-agent": "toy/1"}


async def test_forged_unknown_and_oversized_webhooks_are_refused(served: Served, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    account = await served.house.account(firm)
    body = event_body("evt_1", state="SUCCEEDED", key="k1")

    async def refused(request: pb.IngestProviderEventRequest) -> tuple[StatusCode, str]:
        failed = await served.refused("IngestProviderEvent", request, Role.SIDECAR)
        return failed.code, failed.reason

    forged = webhook(account, body, headers=signed_headers("guessed", body))
    assert (await refused(forged))[1] == "SIGNATURE_INVALID"
    assert await refused(webhook(uuid7(), body)) == (StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")
    assert await refused(webhook(account, body, provider="nobody")) == (StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")
    assert await refused(webhook(None, body)) == (StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")
    assert (await refused(webhook(account, b"x" * (262144 + 1))))[0] is StatusCode.INVALID_ARGUMENT
    assert (await refused(webhook(account, b"x" * (600 * 1024))))[1] == "MESSAGE_TOO_LARGE"
    assert await listed(served, firm) == []


async def test_the_largest_webhook_with_all_its_headers_passes(served: Served, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    account = await served.house.account(firm)
    body = event_body("evt_1", kind="large", filler="")
    body = body.replace(b'"filler": ""', b'"filler": "' + b"x" * (262144 - len(body)) + b'"')
    assert len(body) == 262144
    headers = {**signed_headers("toy secret", body), **{f"x-header-{number}": "y" * 4096 for number in range(40)}}
    stored = await served.ingest(account, body, headers=headers)
    assert (await get(served, stored, firm)).body_bytes == 262144


async def test_digits_in_a_signature_are_no_card_number(served: Served, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    account = await served.house.account(firm)
    body = event_body("evt_1", kind="other")
    headers = {**signed_headers("toy secret", body), "x-second-signature": "v1=4242424242424242abcdef"}
    await served.ingest(account, body, headers=headers)


async def test_a_sidecars_key_may_do_this_and_nothing_else(served: Served, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    stored = await served.ingest(await served.house.account(firm), event_body("evt_1", kind="other"))
    for rpc, request in (
        ("ListProviderEvents", pb.ListProviderEventsRequest()),
        ("GetProviderEvent", pb.GetProviderEventRequest(provider_event_id=event_id(stored))),
        ("ReplayProviderEvent", pb.ReplayProviderEventRequest(provider_event_id=event_id(stored))),
        ("DiscardProviderEvent", pb.DiscardProviderEventRequest(provider_event_id=event_id(stored), note="x")),
    ):
        assert (await served.refused(rpc, request, Role.SIDECAR)).code is StatusCode.PERMISSION_DENIED
    for role in (Role.READER, Role.SERVICE, Role.OPERATOR, Role.FIRM_ADMIN):
        failed = await served.refused("IngestProviderEvent", webhook(None, b"x"), role, firm)
        assert failed.code is StatusCode.PERMISSION_DENIED


def test_in_the_whole_contract_one_method_admits_a_sidecar() -> None:
    from google.protobuf import descriptor_pool

    admitted = []
    for name in contract_services():
        service = descriptor_pool.Default().FindServiceByName(name)
        for method in service.methods:
            permission = read_permission(method)
            if permission is not None and Role.SIDECAR in permission.roles:
                admitted.append(method.name)
    assert admitted == ["IngestProviderEvent"]
    assert options_pb2.ROLE_SIDECAR


async def test_lists_are_filtered_and_paged_in_both_orders(served: Served, make_firm: MakeFirm) -> None:
    firm, other = await firm_of(await make_firm()), await firm_of(await make_firm())
    account = await served.house.account(firm)
    await served.ingest(await served.house.account(other), event_body("evt_other", kind="other"))
    for number in range(5):
        await served.ingest(account, event_body(f"evt_{number}", kind="even" if number % 2 == 0 else "odd"))
        await asyncio.sleep(0.002)

    async def pages(**fields: object) -> list[str]:
        found, token = list[str](), ""
        while True:
            request = pb.ListProviderEventsRequest(page_size=2, page_token=token, **fields)  # type: ignore[arg-type]
            answer = await served.call("ListProviderEvents", request, firm=firm)
            assert len(answer.provider_events) <= 2
            found += [event.event_id for event in answer.provider_events]
            token = answer.next_page_token
            if not token:
                return found

    assert await pages() == ["evt_4", "evt_3", "evt_2", "evt_1", "evt_0"]
    ascending = provider_event_pb2.PROVIDER_EVENT_ORDER_RECEIVE_TIME_ASC
    assert await pages(order=ascending) == ["evt_0", "evt_1", "evt_2", "evt_3", "evt_4"]
    assert await pages(type="odd") == ["evt_3", "evt_1"]
    assert await pages(event_id="evt_2") == ["evt_2"]
    assert (
        await pages(provider="stripe") == await pages(states=[QUARANTINED]) == await pages(object_reference="x") == []
    )
    third = (await listed(served, firm, event_id="evt_2"))[0].receive_time
    assert await pages(receive_time={"start_time": third}) == ["evt_4", "evt_3", "evt_2"]
    assert await pages(receive_time={"end_time": third}) == ["evt_1", "evt_0"]


async def test_an_event_is_another_firms_secret(served: Served, make_firm: MakeFirm) -> None:
    firm, other = await firm_of(await make_firm()), await firm_of(await make_firm())
    stored = await served.ingest(await served.house.account(firm), event_body("evt_1", kind="other"))
    for rpc, request in (
        ("GetProviderEvent", pb.GetProviderEventRequest(provider_event_id=event_id(stored))),
        ("ReplayProviderEvent", pb.ReplayProviderEventRequest(provider_event_id=event_id(stored))),
        ("DiscardProviderEvent", pb.DiscardProviderEventRequest(provider_event_id=event_id(stored), note="x")),
    ):
        assert (await served.refused(rpc, request, firm=other)).reason == "RESOURCE_NOT_FOUND"


async def test_replay_applies_again_and_changes_nothing_twice(served: Served, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    account = await served.house.account(firm)
    await served.house.payment(firm, account, "k1")
    stored = await served.ingest(account, event_body("evt_1", state="SUCCEEDED", key="k1"))
    await served.house.work(firm)
    request = pb.ReplayProviderEventRequest(provider_event_id=event_id(stored), request_id=str(uuid4()))

    replayed = await served.call("ReplayProviderEvent", request, firm=firm)
    assert (replayed.provider_event.state, replayed.provider_event.attempt_count) == (RECEIVED, 0)
    await served.house.work(firm)
    event = await get(served, stored, firm)
    assert (event.state, event.result) == (APPLIED, "payment k1 was past SUCCEEDED")

    await served.call("ReplayProviderEvent", request, firm=firm)
    assert (await get(served, stored, firm)).state == APPLIED, "a repeat of the call replays nothing"
    audit = await served.house.rows("SELECT action FROM audit_event WHERE object_id = %s", stored, firm=firm)
    assert [row["action"] for row in audit] == ["provider_event_replayed"]


async def test_discard_is_recorded_and_final_until_replayed(served: Served, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    account = await served.house.account(firm)
    early = await served.ingest(account, event_body("evt_1", state="SUCCEEDED", key="k1"))
    ignored = await served.ingest(account, event_body("evt_2", kind="other"))
    await served.house.work(firm)
    request = pb.DiscardProviderEventRequest(provider_event_id=event_id(early), note="not ours")

    discarded = (await served.call("DiscardProviderEvent", request, firm=firm)).provider_event
    assert discarded.state == DISCARDED
    assert discarded.result.endswith(": not ours")
    again = pb.DiscardProviderEventRequest(provider_event_id=event_id(early), note="again")
    assert (await served.call("DiscardProviderEvent", again, firm=firm)).provider_event.result == discarded.result
    await served.house.payment(firm, account, "k1")
    await served.house.due_now(firm)
    await served.house.work(firm)
    assert (await get(served, early, firm)).state == DISCARDED
    other = pb.DiscardProviderEventRequest(provider_event_id=event_id(ignored), note="x")
    assert (await served.refused("DiscardProviderEvent", other, firm=firm)).reason == "STATE_CONFLICT"
    audit = await served.house.rows(
        "SELECT action, metadata->>'note' AS note FROM audit_event WHERE object_id = %s", early, firm=firm
    )
    assert [tuple(row.values()) for row in audit] == [("provider_event_discarded", "not ours")]

    await served.call(
        "ReplayProviderEvent", pb.ReplayProviderEventRequest(provider_event_id=event_id(early)), firm=firm
    )
    await served.house.work(firm)
    assert (await get(served, early, firm)).state == APPLIED


async def test_events_without_a_firm_are_the_admins(served: Served, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    account = await served.house.account(None)
    body = event_body("evt_lost", state="SUCCEEDED", key="k1")
    stored = await served.ingest(None, body)

    (event,) = [event for event in await listed(served, None, Role.ADMIN) if event.event_id == "evt_lost"]
    assert (event.firm_id, event.state, event.body_bytes, event.body) == ("", RECEIVED, len(body), b"")
    assert (await get(served, stored, None, Role.ADMIN)).body == body
    assert await listed(served, firm) == []
    for role in (Role.OPERATOR, Role.FIRM_ADMIN):
        request = pb.ReplayProviderEventRequest(provider_event_id=event_id(stored))
        assert (await served.refused("ReplayProviderEvent", request, role, firm)).reason == "RESOURCE_NOT_FOUND"
    failed = await served.refused(
        "ReplayProviderEvent", pb.ReplayProviderEventRequest(provider_event_id=event_id(stored)), Role.ADMIN
    )
    assert failed.reason == "FIRM_REQUIRED"

    # A person knows whose it is, and says so.
    await served.house.payment(firm, account, "k1")
    request = pb.ReplayProviderEventRequest(provider_event_id=event_id(stored))
    replayed = await served.call("ReplayProviderEvent", request, Role.ADMIN, firm)
    assert replayed.provider_event.firm_id == encode(Prefix.FIRM, firm)
    await served.house.work(firm)
    assert (await get(served, stored, firm)).state == APPLIED
    assert [e for e in await listed(served, None, Role.ADMIN) if e.event_id == "evt_lost"] == []


async def test_an_admin_gives_no_event_to_a_firm_of_the_other_mode_and_may_discard_it(
    served: Served, make_firm: MakeFirm
) -> None:
    firm = await firm_of(await make_firm(mode="LIVE"))
    await served.house.account(None)
    stored = await served.ingest(None, event_body("evt_lost_2", state="SUCCEEDED", key="k1"))
    replay = pb.ReplayProviderEventRequest(provider_event_id=event_id(stored))
    assert (await served.refused("ReplayProviderEvent", replay, Role.ADMIN, firm)).reason == "PROVIDER_MODE_MISMATCH"
    discard = pb.DiscardProviderEventRequest(provider_event_id=event_id(stored), note="not ours")
    assert (await served.call("DiscardProviderEvent", discard, Role.ADMIN, firm)).provider_event.state == DISCARDED
    found = await listed(served, None, Role.ADMIN, states=[DISCARDED], event_id="evt_lost_2")
    assert [event.id for event in found] == [event_id(stored)]


@pytest.mark.parametrize("value", ["", "pev_1", "evt_01h455vb4pex5vsknk084sn02q"])
async def test_ids_of_another_form_are_refused(served: Served, make_firm: MakeFirm, value: str) -> None:
    firm = await firm_of(await make_firm())
    failed = await failure(
        served.call("GetProviderEvent", pb.GetProviderEventRequest(provider_event_id=value), firm=firm)
    )
    assert failed.code is StatusCode.INVALID_ARGUMENT
