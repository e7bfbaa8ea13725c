"""Provider accounts through a real channel: set up, rotated, disabled, shared; secrets nowhere; breakers and approvals."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from dunwell.v1 import admin_service_pb2 as pb
from dunwell.v1 import approval_pb2, firm_pb2, money_pb2, options_pb2, provider_pb2
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, decode, encode, uuid7
from dunwell_server.payments.jobs.gateways import Gateways
from dunwell_server.payments.store.methods import accounts
from dunwell_server.platform.approvals import ApprovalDesk, ApprovalKind, ApprovalState, PendingApproval
from dunwell_server.platform.context import Role
from dunwell_server.platform.crypto import Vault, account_aad
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.providers.registry import ProviderRegistry
from dunwell_server.providers.stripe import StripeProvider
from tests import support
from tests.rpc.admin.conftest import KEYS, Served, new_firm
from tests.rpc.floor.fakes import failure

TEST, LIVE = provider_pb2.ACCOUNT_MODE_TEST, provider_pb2.ACCOUNT_MODE_LIVE
CANARY = "CANARY5f2c"
VAULT = Vault.of(KEYS)


def setup(credentials: dict[str, str] | None = None, provider: str = "stripe", **fields: Any) -> Any:
    return pb.ConfigureProviderRequest(
        **{"provider": provider, "mode": TEST, "credentials": credentials or {}, **fields}
    )


GOOD = {
    "secret_key": f"sk_test_{CANARY}a",
    "publishable_key": f"pk_test_{CANARY}b",
    "webhook_secret": f"whsec_{CANARY}c",
}


async def rows(served: Served, firm: UUID | None, provider: str = "stripe") -> list[dict[str, Any]]:
    """The accounts with their credentials opened."""
    async with served.db.transaction(support.context(None), write=False) as uow:
        found = await uow.fetch_all(
            "SELECT * FROM control.provider_account WHERE firm_id IS NOT DISTINCT FROM %s AND provider = %s ORDER BY create_time",
            (firm, provider),
        )
    aad = account_aad(firm, provider)
    return [{**row, "opened": VAULT.decrypt(bytes(row["credentials"]), row["key_id"], aad)} for row in found]


async def refusal(
    served: Served, request: Any, role: Role = Role.FIRM_ADMIN, firm: UUID | None = None
) -> tuple[str, Any]:
    found = await failure(served.call("ConfigureProvider", request, role, firm))
    assert CANARY not in str(found)
    return found.reason, found.details["ErrorInfo"].metadata


async def test_an_account_is_set_up_merged_rotated_and_disabled(served: Served) -> None:
    firm = await served.firm()
    answer = await served.call("ConfigureProvider", setup(GOOD, make_default=True), Role.FIRM_ADMIN, firm)
    shown = answer.provider
    assert (shown.name, shown.configured, shown.mode, shown.shared_account, shown.is_default) == (
        "stripe",
        True,
        TEST,
        False,
        True,
    )
    [row] = await rows(served, firm)
    assert row["opened"] == GOOD
    # Only the webhook secret is named: the others stay, and the old one goes on verifying for the time that was asked for.
    change = setup({"webhook_secret": f"whsec_{CANARY}d", "publishable_key": ""}, previous_secret_seconds=600)
    await served.call("ConfigureProvider", change, Role.FIRM_ADMIN, firm)
    [row] = await rows(served, firm)
    until = datetime.fromisoformat(row["opened"].pop("webhook_secret_previous_until"))
    assert timedelta(minutes=9) < until - datetime.now(UTC) < timedelta(minutes=11)
    assert row["opened"] == {
        "secret_key": GOOD["secret_key"], "webhook_secret": f"whsec_{CANARY}d", "webhook_secret_previous": GOOD["webhook_secret"],
    }  # fmt: skip
    off = await served.call("ConfigureProvider", setup(disable=True), Role.FIRM_ADMIN, firm)
    assert not off.provider.configured
    [row] = await rows(served, firm)
    assert (row["state"], row["version"]) == ("DISABLED", 3)
    # Set up again it is the same account: what belongs to it is found again.
    await served.call("ConfigureProvider", setup(), Role.FIRM_ADMIN, firm)
    [again] = await rows(served, firm)
    assert (again["id"], again["state"], again["opened"]["secret_key"]) == (row["id"], "ACTIVE", GOOD["secret_key"])


async def test_a_repeat_is_the_same_change(served: Served) -> None:
    firm, request = await served.firm(), setup(GOOD, request_id=str(uuid4()))
    metadata = await served.metadata(Role.FIRM_ADMIN, firm)
    first = await served.call("ConfigureProvider", request, metadata=metadata)
    assert await served.call("ConfigureProvider", request, metadata=metadata) == first
    [row] = await rows(served, firm)
    assert row["version"] == 1


@pytest.mark.parametrize(
    ("request_", "reason", "metadata"),
    [
        (setup({"secret_key": f"sk_live_{CANARY}"}), "CREDENTIAL_INVALID", {"credential": "secret_key"}),
        (setup({"publishable_key": f"pk_test_{CANARY}"}), "CREDENTIAL_INVALID", {"credential": "secret_key"}),
        (setup({**GOOD, "api_password": CANARY}), "CREDENTIAL_INVALID", {"credential": "api_password"}),
        (
            setup({**GOOD, "webhook_secret_previous": CANARY}),
            "CREDENTIAL_INVALID",
            {"credential": "webhook_secret_previous"},
        ),
        (setup({"secret_key": f"sk_live_{CANARY}"}, mode=LIVE), "PROVIDER_MODE_MISMATCH", {"account_mode": "LIVE"}),
        (setup({"secret_key": "x"}, provider="manual"), "CREDENTIAL_INVALID", {"credential": "secret_key"}),
        (setup(GOOD, provider="nobody"), "PROVIDER_NOT_CONFIGURED", {"provider": "nobody"}),
        (setup(disable=True), "PROVIDER_NOT_CONFIGURED", {"provider": "stripe"}),
        (setup(disable=True, make_default=True), "FIELD_INVALID", {}),
        (setup(GOOD, shared=True), "PERMISSION_DENIED", {}),
    ],
)
async def test_what_is_refused(served: Served, request_: Any, reason: str, metadata: dict[str, str]) -> None:
    firm = await served.firm()
    told, details = await refusal(served, replace_id(request_), Role.FIRM_ADMIN, firm)
    assert told == reason
    assert metadata.items() <= dict(details).items()
    assert await rows(served, firm) == []


def replace_id(request: Any) -> Any:
    copy = type(request)()
    copy.CopyFrom(request)
    copy.request_id = str(uuid4())
    return copy


async def test_a_live_account_never_comes_near_a_test_clock(served: Served) -> None:
    firm = await served.firm()
    await served.call("CreateTestClock", pb.CreateTestClockRequest(), Role.FIRM_ADMIN, firm)
    reason, _ = await refusal(served, setup({"secret_key": f"sk_live_{CANARY}"}, mode=LIVE), Role.FIRM_ADMIN, firm)
    assert reason == "PROVIDER_MODE_MISMATCH"
    live = decode(
        Prefix.FIRM, (await served.call("CreateFirm", pb.CreateFirmRequest(firm=new_firm(mode=LIVE)))).firm.id, "firm"
    )
    reason, _ = await refusal(served, setup(GOOD), Role.FIRM_ADMIN, live)
    assert reason == "PROVIDER_MODE_MISMATCH"
    await served.call("ConfigureProvider", setup({"secret_key": f"sk_live_{CANARY}"}, mode=LIVE), Role.FIRM_ADMIN, live)
    assert [row["mode"] for row in await rows(served, live)] == ["LIVE"]


async def test_the_shared_account_serves_firms_without_one(served: Served) -> None:
    other = await served.firm()
    shared = await served.call("ConfigureProvider", setup(GOOD, shared=True))
    assert (shared.provider.configured, shared.provider.shared_account, shared.provider.is_default) == (
        True,
        True,
        False,
    )
    listed = await served.call("ListProviders", pb.ListProvidersRequest(), Role.READER, other)
    [stripe] = [each for each in listed.providers if each.name == "stripe"]
    assert (stripe.configured, stripe.shared_account, stripe.mode, stripe.breaker_open) == (True, True, TEST, False)
    assert provider_pb2.PROVIDER_CAPABILITY_REFUND in stripe.capabilities
    await served.call("ConfigureProvider", setup(GOOD), Role.FIRM_ADMIN, other)
    listed = await served.call("ListProviders", pb.ListProvidersRequest(), Role.READER, other)
    [stripe] = [each for each in listed.providers if each.name == "stripe"]
    assert not stripe.shared_account
    reason, _ = await refusal(served, setup(GOOD, shared=True, make_default=True), Role.ADMIN)
    assert reason == "FIELD_INVALID"
    reason, _ = await refusal(served, setup(GOOD, shared=True), Role.ADMIN, other)
    assert reason == "FIELD_INVALID"
    reason, _ = await refusal(served, setup(GOOD), Role.ADMIN)
    assert reason == "FIRM_REQUIRED"
    async with served.db.transaction(support.context(None), write=False) as uow:
        told = await uow.fetch_all("SELECT metadata FROM control.audit_event WHERE action = 'provider_configured'")
    assert told
    await served.call("ConfigureProvider", setup(shared=True, disable=True))


async def test_a_rotation_is_seen_by_the_next_use_in_every_process(served: Served) -> None:
    firm = await served.firm()
    registry = ProviderRegistry()
    registry.register("stripe", StripeProvider)
    processes = [Gateways(registry, VAULT) for _ in range(2)]

    async def keys() -> list[str]:
        async with served.db.transaction(support.context(firm), write=False) as uow:
            [stored] = [each for each in await accounts(uow, "stripe") if each.firm_id == firm]
        return [gateways.gateway(stored).account.credentials["secret_key"] for gateways in processes]

    await served.call("ConfigureProvider", setup({"secret_key": "sk_test_one"}), Role.FIRM_ADMIN, firm)
    assert await keys() == ["sk_test_one"] * 2
    await served.call("ConfigureProvider", setup({"secret_key": "sk_test_two"}), Role.FIRM_ADMIN, firm)
    assert await keys() == ["sk_test_two"] * 2
    await registry.close()


async def test_secrets_are_nowhere(
    served: Served,
    database_urls: support.DatabaseUrls,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    firm = await served.firm()
    with caplog.at_level(logging.DEBUG):
        await served.call("ConfigureProvider", setup(GOOD), Role.FIRM_ADMIN, firm)
        await served.call("ConfigureProvider", setup({"webhook_secret": f"whsec_{CANARY}d"}), Role.FIRM_ADMIN, firm)
        await refusal(served, setup({"secret_key": f"sk_live_{CANARY}"}), Role.FIRM_ADMIN, firm)
        listed = await served.call("ListProviders", pb.ListProvidersRequest(), Role.FIRM_ADMIN, firm)
    captured = capfd.readouterr()
    assert CANARY not in caplog.text + captured.out + captured.err + str(listed)
    with psycopg.connect(database_urls.owner) as connection:
        names = connection.execute(
            "SELECT quote_ident(table_schema) || '.' || quote_ident(table_name) FROM information_schema.tables"
            " WHERE table_schema IN ('public', 'control') AND table_type = 'BASE TABLE'"
        ).fetchall()
        found = [
            name for (name,) in names
            if connection.execute(
                f"SELECT 1 FROM {name} t WHERE t::text ILIKE %s OR t::text ILIKE %s LIMIT 1",
                (f"%{CANARY}%", f"%{CANARY.encode().hex()}%"),
            ).fetchone()
        ]  # fmt: skip
        audited = connection.execute(
            "SELECT metadata FROM audit_event WHERE firm_id = %s AND action = 'provider_configured' ORDER BY sequence",
            (firm,),
        ).fetchall()
    assert found == []
    assert [row[0]["credentials_changed"] for row in audited] == [
        ["publishable_key", "secret_key", "webhook_secret"],
        ["webhook_secret"],
    ]


# Breakers


async def test_a_breaker_is_shown_and_reset_by_a_person(served: Served) -> None:
    firm = await served.firm()
    async with served.db.transaction(support.context(firm)) as uow:
        account = await uow.fetch_value("SELECT id FROM control.provider_account WHERE firm_id = %s", (firm,))
        await uow.execute(
            "INSERT INTO provider_breaker (firm_id, account_id, cause, detail, trip_time) VALUES (%s, %s, 'decline_ratio', '{}', now())",
            (firm, account),
        )
    listed = await served.call("ListProviders", pb.ListProvidersRequest(), Role.READER, firm)
    assert {each.name for each in listed.providers if each.breaker_open} == {"sandbox"}
    request = pb.ResetBreakerRequest(provider="sandbox", note="the card issuer was down")
    answer = await served.call("ResetBreaker", replace_id(request), metadata=await acting(served, firm))
    assert not answer.provider.breaker_open
    async with served.db.transaction(support.context(firm), write=False) as uow:
        entry = await uow.fetch_one("SELECT actor, metadata FROM audit_event WHERE action = 'breaker_reset'")
    assert entry is not None
    assert (entry["actor"], entry["metadata"]["note"]) == ("maria@example.com", "the card issuer was down")
    assert (
        await failure(served.call("ResetBreaker", replace_id(request), metadata=await acting(served, firm)))
    ).reason == "STATE_CONFLICT"
    assert (
        await failure(
            served.call(
                "ResetBreaker", pb.ResetBreakerRequest(provider="nobody", note="x"), metadata=await acting(served, firm)
            )
        )
    ).reason == "RESOURCE_NOT_FOUND"


async def acting(served: Served, firm: UUID, person: str = "maria@example.com") -> tuple[tuple[str, str], ...]:
    """A credential that may name persons, naming one."""
    key = pb.CreateApiKeyRequest()
    key.api_key.display_name, key.api_key.role, key.api_key.may_name_actor = "desk", options_pb2.ROLE_OPERATOR, True
    secret = (await served.call("CreateApiKey", key, Role.ADMIN, firm)).secret
    return (("authorization", f"Bearer {secret}"), ("dunwell-actor", person))


# Approvals


class Desk:
    """Stands for those who propose."""

    def __init__(self) -> None:
        at = datetime(2026, 3, 1, tzinfo=UTC)
        self.waiting = [
            PendingApproval(
                uuid7(), kind, ApprovalState.PENDING, uuid4(), uuid4(), 125000, "USD", "a refund", "eve@example.com", None, None,
                at + timedelta(minutes=number), None,
            )
            for number, kind in enumerate((ApprovalKind.REFUND, ApprovalKind.RESOLVE_ATTEMPT, ApprovalKind.REFUND), start=1)
        ]  # fmt: skip

    async def list_pending(
        self, uow: UnitOfWork, *, kinds: Sequence[ApprovalKind], after: tuple[datetime, UUID] | None, limit: int
    ) -> list[PendingApproval]:
        chosen = [each for each in self.waiting if not kinds or each.kind in kinds]
        return [each for each in chosen if after is None or (each.create_time, each.id) > after][:limit]

    async def decide(self, uow: UnitOfWork, approval_id: UUID, *, approve: bool, note: str = "") -> PendingApproval:
        if uow.context.actor.label == "eve@example.com":
            raise DunwellError(Reason.APPROVAL_REQUIRED, "somebody else must", metadata={"actor": "eve@example.com"})
        [found] = [each for each in self.waiting if each.id == approval_id]
        state = ApprovalState.APPROVED if approve else ApprovalState.REJECTED
        return replace(
            found, state=state, decider=uow.context.actor.label, note=note, decide_time=datetime(2026, 3, 2, tzinfo=UTC)
        )


async def test_approvals_are_listed_and_decided(served: Served) -> None:
    firm = await served.firm()
    desk = Desk()
    served.db.bus.provide(ApprovalDesk, desk)  # type: ignore[type-abstract]
    page = await served.call("ListPendingApprovals", pb.ListPendingApprovalsRequest(page_size=2), Role.OPERATOR, firm)
    rest = await served.call(
        "ListPendingApprovals",
        pb.ListPendingApprovalsRequest(page_size=2, page_token=page.next_page_token),
        Role.OPERATOR,
        firm,
    )
    ids = [each.id for each in (*page.approvals, *rest.approvals)]
    assert ids == [encode(Prefix.APPROVAL, each.id) for each in desk.waiting]
    first = page.approvals[0]
    assert (first.subject_id[:4], first.amount.amount_minor, first.proposer) == ("ref_", 125000, "eve@example.com")
    assert page.approvals[1].subject_id.startswith("att_")
    kinds = pb.ListPendingApprovalsRequest(kinds=[approval_pb2.APPROVAL_KIND_RESOLVE_ATTEMPT])
    assert [each.id for each in (await served.call("ListPendingApprovals", kinds, Role.OPERATOR, firm)).approvals] == [
        ids[1]
    ]
    request = pb.ApproveActionRequest(approval_id=ids[0], decision=approval_pb2.APPROVAL_DECISION_APPROVE, note="fine")
    decided = (await served.call("ApproveAction", replace_id(request), metadata=await acting(served, firm))).approval
    assert (decided.state, decided.decider, decided.note) == (
        approval_pb2.APPROVAL_STATE_APPROVED,
        "maria@example.com",
        "fine",
    )
    assert (
        await failure(
            served.call("ApproveAction", replace_id(request), metadata=await acting(served, firm, "eve@example.com"))
        )
    ).reason == "APPROVAL_REQUIRED"
    assert (
        await failure(served.call("ListPendingApprovals", pb.ListPendingApprovalsRequest(), Role.READER, firm))
    ).reason == "PERMISSION_DENIED"


# Settings


async def test_refund_limits_and_the_breaker_policy_are_settings(served: Served) -> None:
    firm = await served.firm()
    shown = (await served.call("GetFirm", pb.GetFirmRequest(), Role.FIRM_ADMIN, firm)).firm
    policy = shown.breaker_policy
    assert (policy.charges_per_hour, policy.same_amount_per_day, policy.decline_percent, policy.disabled) == (
        100_000,
        20,
        90,
        False,
    )
    change = firm_pb2.Firm(
        id=shown.id, refund_approval_limits=[money_pb2.Money(currency_code="USD", amount_minor=50_000)],
        breaker_policy=firm_pb2.BreakerPolicy(charges_per_hour=10, decline_percent=40),
    )  # fmt: skip
    mask = FieldMask(paths=["refund_approval_limits", "breaker_policy"])
    answer = await served.call("UpdateFirm", pb.UpdateFirmRequest(firm=change, update_mask=mask), Role.FIRM_ADMIN, firm)
    assert answer.firm.breaker_policy == firm_pb2.BreakerPolicy(
        charges_per_hour=10, same_amount_per_day=20, decline_percent=40
    )
    assert [each.amount_minor for each in answer.firm.refund_approval_limits] == [50_000]
    one = FieldMask(paths=["breaker_policy.disabled"])
    off = firm_pb2.Firm(id=shown.id, breaker_policy=firm_pb2.BreakerPolicy(disabled=True))
    answer = await served.call("UpdateFirm", pb.UpdateFirmRequest(firm=off, update_mask=one), Role.FIRM_ADMIN, firm)
    assert (answer.firm.breaker_policy.disabled, answer.firm.breaker_policy.charges_per_hour) == (True, 10)
    wrong = firm_pb2.Firm(id=shown.id, refund_approval_limits=[money_pb2.Money(currency_code="XXX", amount_minor=1)])
    mask = FieldMask(paths=["refund_approval_limits"])
    assert (
        await failure(
            served.call("UpdateFirm", pb.UpdateFirmRequest(firm=wrong, update_mask=mask), Role.FIRM_ADMIN, firm)
        )
    ).reason == "UNKNOWN_CURRENCY"
