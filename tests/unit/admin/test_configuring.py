"""Merging credentials: what is not named stays, what is empty goes, a replaced webhook secret lives on for a while."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from dunwell_server.admin.service.configuring import merged

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
UNTIL = (NOW + HOUR).isoformat()


def test_what_is_not_named_stays_and_what_is_empty_goes() -> None:
    before = {"secret_key": "a", "publishable_key": "b", "source": "environment"}
    assert merged(before, {"publishable_key": ""}, NOW, HOUR) == {"secret_key": "a"}


def test_a_replaced_webhook_secret_goes_on_verifying_for_the_overlap() -> None:
    first = merged({"secret_key": "a"}, {"webhook_secret": "one"}, NOW, HOUR)
    assert first == {"secret_key": "a", "webhook_secret": "one"}
    second = merged(first, {"webhook_secret": "two"}, NOW, HOUR)
    assert second == {
        "secret_key": "a", "webhook_secret": "two", "webhook_secret_previous": "one", "webhook_secret_previous_until": UNTIL,
    }  # fmt: skip
    again = merged(second, {"webhook_secret": "two"}, NOW + HOUR, HOUR)
    assert again == second


def test_a_removed_webhook_secret_closes_the_endpoint_at_once() -> None:
    before = {"webhook_secret": "two", "webhook_secret_previous": "one", "webhook_secret_previous_until": UNTIL}
    assert merged(before, {"webhook_secret": ""}, NOW, HOUR) == {}
