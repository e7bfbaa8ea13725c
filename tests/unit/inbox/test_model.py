"""The inbox's rules: identity, retries, secrets, headers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from dunwell_server.inbox.model import (
    GIVE_UP_AFTER,
    dedupe_key,
    event_id_of,
    kept_headers,
    live_secrets,
    retry_delay,
    source_bucket,
)

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def test_an_event_is_the_same_by_its_id_or_by_its_bytes() -> None:
    assert dedupe_key("evt_1", b"a") == dedupe_key("evt_1", b"b") == "evt_1"
    assert dedupe_key(None, b"a") == "sha256:" + sha256(b"a").hexdigest() != dedupe_key(None, b"b")
    assert event_id_of("evt_1") == "evt_1"
    assert event_id_of(dedupe_key(None, b"a")) is None


def test_tries_come_quickly_then_hourly_and_end_after_72_hours() -> None:
    first = [retry_delay(tries) for tries in range(1, 7)]
    assert first == [
        timedelta(seconds=5), timedelta(seconds=30), timedelta(minutes=2), timedelta(minutes=10), timedelta(hours=1), timedelta(hours=1),
    ]  # fmt: skip
    waited, tries = timedelta(), 1
    while (delay := retry_delay(tries)) is not None:
        waited += delay
        tries += 1
    assert GIVE_UP_AFTER - timedelta(hours=1) < waited <= GIVE_UP_AFTER
    assert retry_delay(tries + 50) is None


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        ({}, ()),
        ({"webhook_secret": ""}, ()),
        ({"webhook_secret": "  "}, ()),
        ({"webhook_secret": "new"}, ("new",)),
        ({"webhook_secret": "new", "webhook_secret_previous": "old"}, ("new", "old")),
        ({"webhook_secret": "", "webhook_secret_previous": "old"}, ("old",)),
        (
            {"webhook_secret": "new", "webhook_secret_previous": "old", "webhook_secret_previous_until": "2026-05-01T00:00:01Z"},
            ("new", "old"),
        ),
        (
            {"webhook_secret": "new", "webhook_secret_previous": "old", "webhook_secret_previous_until": "2026-05-01T00:00:00+00:00"},
            ("new",),
        ),
        (
            {"webhook_secret": "new", "webhook_secret_previous": "old", "webhook_secret_previous_until": "2026-05-01T00:00:01"},
            ("new", "old"),
        ),
    ],
)  # fmt: skip
def test_secrets_live_until_their_time_is_over_and_empty_ones_never(
    credentials: dict[str, str], expected: tuple[str, ...]
) -> None:
    assert live_secrets(credentials, NOW) == expected


def test_signatures_and_credentials_are_not_kept() -> None:
    given = {
        "stripe-signature": "t=1,v1=aa", "x-razorpay-signature": "aa", "paypal-transmission-sig": "aa", "paypal-cert-url": "https://x",
        "authorization": "Bearer a", "cookie": "a", "x-auth-token": "a", "content-type": "application/json", "x-request-id": "r1",
    }  # fmt: skip
    assert kept_headers(given) == {"content-type": "application/json", "x-request-id": "r1"}


@pytest.mark.parametrize(
    ("address", "bucket"),
    [
        ("127.0.0.1", "loopback"), ("::1", "loopback"), ("10.1.2.3", "private"), ("fe80::1", "private"), ("54.187.174.169", "54.0.0.0/8"),
        ("54.1.1.1", "54.0.0.0/8"), ("2a01:4f8::1", "ipv6"), ("", "unknown"), ("evil\nlabel", "unknown"),
    ],
)  # fmt: skip
def test_sources_are_counted_coarsely(address: str, bucket: str) -> None:
    assert source_bucket(address) == bucket
