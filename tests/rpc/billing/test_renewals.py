"""Renewing and reopening engagements through a real channel."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from google.type.decimal_pb2 import Decimal
from grpc import StatusCode

from dunwell.v1 import billing_service_pb2 as pb
from dunwell.v1 import engagement_pb2, money_pb2
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform.context import Role
from tests.rpc.billing.conftest import Served
from tests.rpc.billing.requests import day, mask, new_client, new_engagement, unknown, usd

ACTIVE = engagement_pb2.ENGAGEMENT_STATE_ACTIVE
ENDED = engagement_pb2.ENGAGEMENT_STATE_ENDED


async def year(served: Served, **fields: Any) -> engagement_pb2.Engagement:
    client = await new_client(served)
    return await new_engagement(served, client.id, **{"end_date": day(2027, 1, 1), **fields})


async def test_a_term_is_followed_by_the_next(served: Served) -> None:
    auto = engagement_pb2.AutoRenew(days_ahead=30, months=6, uplift_percent=Decimal(value="2.5"))
    old = await year(served, external_id="y-26", auto_renew=auto)
    assert old.auto_renew == auto
    assert (old.renewed_from_id, old.renewed_to_id, old.HasField("renewal_notice_time")) == ("", "", False)
    request = pb.RenewEngagementRequest(
        engagement_id=old.id,
        months=6,
        uplift_percent=Decimal(value="10"),
        name="Books 27",
        external_id="y-27",
        etag=old.etag,
    )
    reply = await served.call("RenewEngagement", request)
    term = reply.engagement
    assert (term.start_date, term.end_date) == (day(2027, 1, 1), day(2027, 7, 1))
    assert (term.name, term.external_id, term.package.fee) == ("Books 27", "y-27", usd(110_000))
    assert (term.renewed_from_id, term.client_id, term.state, term.auto_renew) == (old.id, old.client_id, ACTIVE, auto)
    assert (reply.renewed.renewed_to_id, reply.renewed.etag) == (term.id, "v2")
    read = (await served.call("GetEngagement", pb.GetEngagementRequest(engagement_id=old.id))).engagement
    assert read == reply.renewed
    listed = await served.call("ListEngagements", pb.ListEngagementsRequest(client_id=old.client_id))
    assert {each.id: each.renewed_from_id for each in listed.engagements} == {old.id: "", term.id: old.id}
    # The same request again is answered as the first time.
    again = await served.call("RenewEngagement", request)
    assert again == reply


async def test_the_next_term_may_have_a_new_fee_and_no_end(served: Served) -> None:
    old = await year(served)
    request = pb.RenewEngagementRequest(engagement_id=old.id, open_ended=True, fee=usd(5))
    term = (await served.call("RenewEngagement", request)).engagement
    assert (term.HasField("end_date"), term.package.fee, term.HasField("auto_renew")) == (False, usd(5), False)
    other = await year(served)
    request = pb.RenewEngagementRequest(engagement_id=other.id, end_date=day(2027, 3, 1))
    assert (await served.call("RenewEngagement", request)).engagement.end_date == day(2027, 3, 1)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"months": 0}, "months"), ({"months": 1201}, "months"), ({"open_ended": False}, "open_ended"),
        ({"end_date": day(2027, 2, 30)}, "end_date"), ({"fee": usd(-1)}, "fee"), ({"name": "a\x01"}, "name"),
        ({"uplift_percent": Decimal(value="many")}, "uplift_percent"), ({"uplift_percent": Decimal(value="1001")}, "uplift_percent"),
        ({"etag": "e" * 65}, "etag"),
    ],
)  # fmt: skip
async def test_a_renewal_that_makes_no_sense_names_its_field(
    served: Served, fields: dict[str, Any], field: str
) -> None:
    old = await year(served)
    refusal = await served.refused("RenewEngagement", pb.RenewEngagementRequest(engagement_id=old.id, **fields))
    assert (refusal.code, refusal.reason) == (StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    (violation, *_) = refusal.details["BadRequest"].field_violations
    assert violation.field.startswith(field)


async def test_what_is_refused_says_why(served: Served) -> None:
    old = await year(served)
    endless = await new_engagement(served, old.client_id)
    renew = pb.RenewEngagementRequest
    for request, reason in (
        (renew(engagement_id=unknown(Prefix.ENGAGEMENT)), "RESOURCE_NOT_FOUND"),
        (renew(engagement_id=endless.id), "STATE_CONFLICT"),
        (renew(engagement_id=old.id, etag="v9"), "ETAG_MISMATCH"),
        (renew(engagement_id=old.id, end_date=day(2027, 1, 1)), "PERIOD_INVALID"),
        (renew(engagement_id=old.id, fee=money_pb2.Money(currency_code="EUR", amount_minor=1)), "CURRENCY_MISMATCH"),
    ):
        assert (await served.refused("RenewEngagement", request)).reason == reason
    await served.call("RenewEngagement", renew(engagement_id=old.id))
    assert (await served.refused("RenewEngagement", renew(engagement_id=old.id))).reason == "STATE_CONFLICT"
    reopen = pb.ReopenEngagementRequest
    for going_on, why in (
        (reopen(engagement_id=unknown(Prefix.ENGAGEMENT)), "RESOURCE_NOT_FOUND"),
        (reopen(engagement_id=endless.id), "STATE_CONFLICT"),
        (reopen(engagement_id=old.id), "STATE_CONFLICT"),
    ):
        assert (await served.refused("ReopenEngagement", going_on)).reason == why


async def test_an_ended_engagement_goes_on(served: Served) -> None:
    old = await year(served)
    ended = (await served.call("EndEngagement", pb.EndEngagementRequest(engagement_id=old.id))).engagement
    assert (ended.state, ended.end_date) == (ENDED, day(2026, 3, 10))
    request = pb.ReopenEngagementRequest(engagement_id=old.id, end_date=day(2026, 6, 1), etag=ended.etag)
    reopened = (await served.call("ReopenEngagement", request)).engagement
    assert (reopened.state, reopened.end_date) == (ACTIVE, day(2026, 6, 1))
    earlier = pb.ReopenEngagementRequest(engagement_id=old.id, end_date=day(2026, 5, 1))
    assert (await served.refused("ReopenEngagement", earlier)).reason == "PERIOD_INVALID"
    endless = (await served.call("ReopenEngagement", pb.ReopenEngagementRequest(engagement_id=old.id))).engagement
    assert not endless.HasField("end_date")


async def test_auto_renewal_is_changed_by_its_fields(served: Served) -> None:
    old = await year(served, auto_renew=engagement_pb2.AutoRenew(days_ahead=30))

    async def change(*paths: str, **auto: Any) -> engagement_pb2.Engagement:
        wanted = engagement_pb2.Engagement(id=old.id)
        if auto:
            wanted.auto_renew.CopyFrom(engagement_pb2.AutoRenew(**auto))
        request = pb.UpdateEngagementRequest(engagement=wanted, update_mask=mask(*paths))
        changed: engagement_pb2.Engagement = (await served.call("UpdateEngagement", request)).engagement
        return changed

    changed = await change("auto_renew.uplift_percent", uplift_percent=Decimal(value="2"))
    assert changed.auto_renew == engagement_pb2.AutoRenew(days_ahead=30, uplift_percent=Decimal(value="2"))
    changed = await change("auto_renew", days_ahead=7, months=12)
    assert changed.auto_renew == engagement_pb2.AutoRenew(days_ahead=7, months=12)
    assert not (await change("auto_renew")).HasField("auto_renew")
    wanted = engagement_pb2.Engagement(id=old.id, auto_renew=engagement_pb2.AutoRenew(days_ahead=366))
    request = pb.UpdateEngagementRequest(engagement=wanted, update_mask=mask("auto_renew"))
    assert (await served.refused("UpdateEngagement", request)).reason == "FIELD_INVALID"
    request = pb.UpdateEngagementRequest(
        engagement=engagement_pb2.Engagement(id=old.id), update_mask=mask("renewed_to_id")
    )
    assert (await served.refused("UpdateEngagement", request)).reason == "UPDATE_MASK_INVALID"


async def test_who_may_renew(served: Served) -> None:
    old = await year(served)
    for rpc, request in (
        ("RenewEngagement", pb.RenewEngagementRequest(engagement_id=old.id, request_id=str(uuid4()))),
        ("ReopenEngagement", pb.ReopenEngagementRequest(engagement_id=old.id, request_id=str(uuid4()))),
    ):
        assert (await served.refused(rpc, request, Role.READER)).code is StatusCode.PERMISSION_DENIED
