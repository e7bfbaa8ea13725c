"""The rules of administration that need no database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from dunwell.v1 import firm_pb2
from dunwell_server.admin.model import Account, ApiKey, ApiKeyState, Clock, FirmRecord
from dunwell_server.admin.rpc import firm_messages
from dunwell_server.admin.service import clocks, firms, providers
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform.context import Role
from dunwell_server.platform.firms import FirmSettings, RetryPolicy
from dunwell_server.providers.manual import ManualProvider
from dunwell_server.providers.registry import ProviderRegistry

NOW = datetime(2026, 3, 1, tzinfo=UTC)
FIRM = UUID("01890000-0000-7000-8000-000000000001")


def clock(now: datetime = NOW) -> Clock:
    return Clock(FIRM, FIRM, now, None, "READY", None, 1, NOW, NOW)


@pytest.mark.parametrize(
    ("target", "by", "expected"),
    [
        (NOW, None, NOW),
        (NOW + timedelta(days=9), None, NOW + timedelta(days=9)),
        (None, timedelta(seconds=1), NOW + timedelta(seconds=1)),
        (None, timedelta(days=365 * 100), NOW + timedelta(days=365 * 100)),
    ],
)
def test_where_an_advance_goes(target: datetime | None, by: timedelta | None, expected: datetime) -> None:
    assert clocks.target_of(clock(), target, by) == expected


@pytest.mark.parametrize(
    ("target", "by", "reason"),
    [
        (NOW - timedelta(microseconds=1), None, Reason.CLOCK_BACKWARDS),
        (None, timedelta(seconds=-1), Reason.CLOCK_BACKWARDS),
        (clocks.LATEST, None, Reason.FIELD_INVALID),
        (None, timedelta.max, Reason.FIELD_INVALID),
    ],
)
def test_where_no_advance_goes(target: datetime | None, by: timedelta | None, reason: Reason) -> None:
    with pytest.raises(DunwellError) as refused:
        clocks.target_of(clock(), target, by)
    assert refused.value.reason is reason


def test_an_advance_is_found_again_by_its_request() -> None:
    request = UUID(int=5)
    assert clocks.advance_run_id(FIRM, request) == clocks.advance_run_id(FIRM, request)
    assert clocks.advance_run_id(FIRM, request) != clocks.advance_run_id(UUID(int=1), request)


@pytest.mark.parametrize(
    ("expire", "revoke", "state"),
    [
        (None, None, ApiKeyState.ACTIVE),
        (NOW + timedelta(seconds=1), None, ApiKeyState.ACTIVE),
        (NOW, None, ApiKeyState.EXPIRED),
        (NOW, NOW, ApiKeyState.REVOKED),
        (None, NOW, ApiKeyState.REVOKED),
    ],
)
def test_whether_a_key_opens_anything(expire: datetime | None, revoke: datetime | None, state: ApiKeyState) -> None:
    key = ApiKey(FIRM, FIRM, Role.READER, "x", False, "me", NOW, expire, revoke)
    assert key.state_at(NOW) is state


OWN_TEST = Account(UUID(int=1), FIRM, "stripe", "TEST")
OWN_LIVE = Account(UUID(int=2), FIRM, "stripe", "LIVE")
SHARED_TEST = Account(UUID(int=3), None, "stripe", "TEST")


def test_a_firms_own_account_comes_before_the_platforms() -> None:
    assert providers.account_for("stripe", "TEST", [SHARED_TEST, OWN_LIVE, OWN_TEST]) is OWN_TEST
    assert providers.account_for("stripe", "TEST", [SHARED_TEST, OWN_LIVE]) is SHARED_TEST
    assert providers.account_for("stripe", "TEST", [OWN_LIVE]) is None
    assert providers.account_for("paypal", "TEST", [OWN_TEST]) is None


def test_which_providers_a_firm_can_use() -> None:
    registry = ProviderRegistry()
    registry.register("stripe", ManualProvider)
    providers.require("stripe", "TEST", [SHARED_TEST], registry)
    providers.require("manual", "LIVE", [], registry)
    for accounts, name, reason in (
        ([OWN_LIVE], "stripe", Reason.PROVIDER_MODE_MISMATCH),
        ([], "stripe", Reason.PROVIDER_NOT_CONFIGURED),
        ([OWN_TEST], "paypal", Reason.PROVIDER_NOT_CONFIGURED),
    ):
        with pytest.raises(DunwellError) as refused:
            providers.require(name, "TEST", accounts, registry)
        assert refused.value.reason is reason
        assert refused.value.violations[0].field == "firm.default_provider"


def test_settings_survive_the_way_through_the_contract() -> None:
    settings = FirmSettings(
        currency_code="INR", time_zone="Asia/Kolkata", retry=RetryPolicy((1, 30)), approval_limits={"INR": 5, "USD": 7}, features={"enable_free_trial": False},
        document={"legal_name": "Dhobi & Sons", "address": {"city": "Pune"}},
    )  # fmt: skip
    firm = FirmRecord(FIRM, "x", "Dhobi", "TEST", "ACTIVE", settings, 3, NOW, NOW)
    message = firm_messages.firm_message(firm)
    again = firm_pb2.Firm.FromString(message.SerializeToString())
    assert firm_messages.changed_firm(firm, again) == firm
    assert FirmSettings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize("days", [(0,), (91,), (3, -1)])
def test_retry_waits_have_limits(days: tuple[int, ...]) -> None:
    with pytest.raises(DunwellError) as refused:
        firms.check(FirmSettings(retry=RetryPolicy(days)))
    assert refused.value.reason is Reason.FIELD_INVALID
