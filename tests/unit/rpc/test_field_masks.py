"""Update masks: what they may name, and what applying them does."""

from __future__ import annotations

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from dunwell.v1 import client_pb2, engagement_pb2, proration_pb2
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.rpc.field_masks import apply_mask, checked_paths, top_level


def refused(*paths: str) -> DunwellError:
    """The error that the mask meets."""
    with pytest.raises(DunwellError) as caught:
        checked_paths(FieldMask(paths=paths), client_pb2.Client)
    assert caught.value.reason is Reason.UPDATE_MASK_INVALID
    return caught.value


def test_good_paths() -> None:
    mask = FieldMask(paths=["name", "address.city", "metadata", "name"])
    paths = checked_paths(mask, client_pb2.Client)
    assert paths == ("name", "address.city", "metadata")
    assert top_level(paths) == {"name", "address", "metadata"}


def test_every_bad_path_is_named() -> None:
    error = refused("name", "*", "nonsense", "id", "etag", "address.nonsense", "name.x", "metadata.key", "", "balances")
    bad = ["*", "nonsense", "id", "etag", "address.nonsense", "name.x", "metadata.key", "", "balances"]
    assert error.metadata == {"paths": ",".join(bad)}
    descriptions = [violation.description for violation in error.violations]
    assert [text.split(":")[0] for text in descriptions] == bad
    assert descriptions[2] == "id: never changes"
    assert descriptions[3] == "etag: set by the server"
    assert {violation.field for violation in error.violations} == {"update_mask"}


def test_an_empty_mask() -> None:
    assert refused().violations[0].description == "name at least one field"


def test_applying_sets_clears_and_replaces() -> None:
    current = client_pb2.Client(name="Ada", email="a@example.com", metadata={"old": "1"}, payment_terms_days=30)
    current.address.city = "London"
    current.address.country_code = "GB"
    update = client_pb2.Client(name="Grace", email="ignored@example.com", metadata={"new": "2"})
    update.address.city = "New York"
    apply_mask(current, update, ("name", "metadata", "payment_terms_days", "address.city"))
    assert current.name == "Grace"
    assert current.email == "a@example.com"
    assert dict(current.metadata) == {"new": "2"}
    assert not current.HasField("payment_terms_days")
    assert (current.address.city, current.address.country_code) == ("New York", "GB")
    apply_mask(current, client_pb2.Client(), ("address",))
    assert not current.HasField("address")


def test_a_field_inside_of_a_message_that_is_not_given_is_cleared() -> None:
    current = engagement_pb2.Engagement()
    current.hourly.billing_increment_minutes = 6
    current.hourly.period_cap.amount_minor = 5_000
    current.package.line_description = "Care"
    current.package.proration.unit = proration_pb2.PRORATION_UNIT_SECOND
    current.package.proration.end = proration_pb2.PRORATION_END_INCLUSIVE
    apply_mask(
        current,
        engagement_pb2.Engagement(),
        ("hourly.period_cap", "package.proration.unit", "auto_renew.months"),
    )
    assert not current.hourly.HasField("period_cap")
    assert current.hourly.billing_increment_minutes == 6
    assert current.package.proration == proration_pb2.ProrationPolicy(end=proration_pb2.PRORATION_END_INCLUSIVE)
    assert current.package.line_description == "Care"
    assert not current.HasField("auto_renew")
    half_given = engagement_pb2.Engagement(package=engagement_pb2.PackageTerms())
    apply_mask(current, half_given, ("package.proration.end", "package.line_description"))
    assert current.package == engagement_pb2.PackageTerms(proration=proration_pb2.ProrationPolicy())
