"""Firms through a real channel: success, every refusal, repeats, other firms, missing permission."""

from __future__ import annotations

from uuid import uuid4

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from dunwell.v1 import admin_service_pb2 as pb
from dunwell.v1 import firm_pb2, provider_pb2, tax_pb2
from dunwell_server.kernel.errors import DunwellError
from dunwell_server.kernel.ids import Prefix, decode, encode, uuid7
from dunwell_server.platform.context import Role
from dunwell_server.platform.crypto import Vault, account_aad
from dunwell_server.platform.features import Feature, is_enabled, require_feature
from tests import support
from tests.rpc.admin.conftest import KEYS, Served, new_firm
from tests.rpc.floor.fakes import failure


async def test_a_firm_gets_every_default(served: Served) -> None:
    firm = (await served.call("CreateFirm", pb.CreateFirmRequest(firm=new_firm()))).firm
    assert firm.id.startswith("firm_")
    assert (firm.locale, firm.payment_terms_days, firm.default_provider) == ("en", 30, "sandbox")
    assert (firm.numbering.prefix, firm.numbering.padding, firm.numbering.yearly_reset) == ("INV", 6, True)
    assert (list(firm.retry_policy.wait_days), firm.retry_policy.disabled) == ([3, 7, 14], False)
    assert (firm.run_schedule.package_run_time, firm.run_schedule.collection_run_time) == ("02:00", "03:00")
    assert (firm.state, firm.mode) == (firm_pb2.FIRM_STATE_ACTIVE, provider_pb2.ACCOUNT_MODE_TEST)
    assert firm.tax == tax_pb2.TaxSettings(rounding=tax_pb2.TAX_ROUNDING_LINE, behavior=tax_pb2.TAX_BEHAVIOR_EXCLUSIVE)
    assert firm.etag
    assert (await served.call("GetFirm", pb.GetFirmRequest(firm_id=firm.id))).firm == firm


async def test_a_firm_keeps_everything_it_is_given(served: Served) -> None:
    given = new_firm(
        external_id="crm-1", legal_name="Harbour & Vale B.V.", tax_id="NL 123", notice_email="admin@example.com", locale="nl-NL",
        payment_terms_days=0, default_provider="manual",
        address={"lines": ["Quay 1"], "city": "Rotterdam", "country_code": "NL"},
        numbering={"prefix": "HV", "padding": 3, "yearly_reset": False},
        retry_policy={"wait_days": [1, 2], "retry_on_new_method": True}, run_schedule={"package_run_time": "01:30"},
        approval_limits=[{"currency_code": "JPY", "amount_minor": 0}, {"currency_code": "USD", "amount_minor": 50000}],
        branding={"logo_url": "https://example.com/logo.png", "color": "#112233"}, features={"enable_annual_billing": False},
        tax={"rounding": "TAX_ROUNDING_RATE", "behavior": "TAX_BEHAVIOR_INCLUSIVE"},
    )  # fmt: skip
    firm = (await served.call("CreateFirm", pb.CreateFirmRequest(firm=given))).firm
    for field in ("external_id", "legal_name", "tax_id", "notice_email", "locale", "payment_terms_days", "default_provider", "address", "numbering",
                  "branding", "features", "tax"):  # fmt: skip
        assert getattr(firm, field) == getattr(given, field), field
    assert list(firm.approval_limits) == list(given.approval_limits)
    assert firm.retry_policy == firm_pb2.RetryPolicy(wait_days=[1, 2], disabled=False, retry_on_new_method=True)
    assert firm.run_schedule == firm_pb2.RunSchedule(package_run_time="01:30", collection_run_time="03:00")


async def test_creating_leaves_an_account_a_trail_and_no_secret(served: Served) -> None:
    firm = await served.firm()
    async with served.db.transaction(support.context(firm), write=False) as uow:
        [entry] = await uow.fetch_all("SELECT action, object_id, actor_role, metadata FROM audit_event")
        account = await uow.fetch_one(
            "SELECT id, provider, mode, credentials, key_id FROM control.provider_account WHERE firm_id = %s", (firm,)
        )
        events = await uow.fetch_value("SELECT count(*) FROM event WHERE type = 'firm.created'")
    assert (entry["action"], entry["object_id"], entry["actor_role"], events) == ("firm_created", firm, "ADMIN", 1)
    assert account is not None
    assert (account["provider"], account["mode"]) == ("sandbox", "TEST")
    opened = Vault.of(KEYS).decrypt(account["credentials"], account["key_id"], account_aad(firm, "sandbox"))
    # The gateway knows the account by our id of it, so that its webhooks come to /webhooks/sandbox/pva_…
    name = encode(Prefix.PROVIDER_ACCOUNT, account["id"])
    assert opened == {"secret_key": f"sk_test_{name}", "webhook_secret": f"whsec_{name}"}
    assert b"sk_test" not in account["credentials"]
    assert "sk_test" not in str(entry)


async def test_a_live_firm_gets_no_test_account(served: Served) -> None:
    firm = (
        await served.call("CreateFirm", pb.CreateFirmRequest(firm=new_firm(mode=provider_pb2.ACCOUNT_MODE_LIVE)))
    ).firm
    assert firm.default_provider == "manual"
    providers = (
        await served.call("ListProviders", pb.ListProvidersRequest(), firm=decode(Prefix.FIRM, firm.id, "firm"))
    ).providers
    assert [(provider.name, provider.configured) for provider in providers] == [
        ("manual", True),
        ("sandbox", False),
        ("stripe", False),
    ]


async def test_a_repeat_creates_no_second_firm(served: Served) -> None:
    metadata = await served.metadata()
    request = pb.CreateFirmRequest(firm=new_firm(), request_id=str(uuid4()))
    first = await served.call("CreateFirm", request, metadata=metadata)
    again = served.stub.CreateFirm(request, metadata=metadata)
    assert await again == first
    assert ("dunwell-replayed", "true") in list(await again.trailing_metadata())
    other = pb.CreateFirmRequest(firm=new_firm(display_name="Another"), request_id=request.request_id)
    assert (await failure(served.call("CreateFirm", other, metadata=metadata))).reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"currency_code": "XXX"}, "UNKNOWN_CURRENCY", "firm.currency_code"),
        ({"time_zone": "Europe/Atlantis"}, "UNKNOWN_TIME_ZONE", "firm.time_zone"),
        ({"default_provider": "stripe"}, "PROVIDER_NOT_CONFIGURED", "firm.default_provider"),
        ({"mode": provider_pb2.ACCOUNT_MODE_LIVE, "default_provider": "sandbox"}, "PROVIDER_NOT_CONFIGURED", "firm.default_provider"),
        ({"approval_limits": [{"currency_code": "XXX", "amount_minor": 1}]}, "UNKNOWN_CURRENCY", "firm.approval_limits[0].currency_code"),
        ({"approval_limits": [{"currency_code": "USD", "amount_minor": -1}]}, "FIELD_INVALID", "firm.approval_limits[0].amount_minor"),
        ({"approval_limits": [{"currency_code": "USD", "amount_minor": 1}] * 2}, "FIELD_INVALID", "firm.approval_limits[1].currency_code"),
        ({"retry_policy": {"wait_days": [0]}}, "FIELD_INVALID", "firm.retry_policy.wait_days[0]"),
        ({"run_schedule": {"package_run_time": "24:00"}}, "FIELD_INVALID", "firm.run_schedule.package_run_time"),
        ({"display_name": ""}, "FIELD_INVALID", "firm.display_name"),
        ({"locale": "no locale"}, "FIELD_INVALID", "firm.locale"),
    ],
)  # fmt: skip
async def test_bad_settings_are_refused_by_field(
    fields: dict[str, object], reason: str, field: str, served: Served
) -> None:
    found = await failure(served.call("CreateFirm", pb.CreateFirmRequest(firm=new_firm(**fields))))
    assert found.reason == reason
    if "BadRequest" in found.details:
        named = [violation.field for violation in found.details["BadRequest"].field_violations]
        assert any(field.startswith(name) for name in named if name), named
    async with served.db.transaction(support.context(None), write=False) as uow:
        assert not await uow.fetch_value("SELECT count(*) FROM control.idempotency WHERE response IS NULL")


async def test_external_ids_are_unique_among_firms(served: Served) -> None:
    name = uuid4().hex
    firm = (await served.call("CreateFirm", pb.CreateFirmRequest(firm=new_firm(external_id=name)))).firm
    taken = await failure(served.call("CreateFirm", pb.CreateFirmRequest(firm=new_firm(external_id=name))))
    assert (taken.reason, taken.metadata["resource_id"]) == ("EXTERNAL_ID_TAKEN", firm.id)
    other = (await served.call("CreateFirm", pb.CreateFirmRequest(firm=new_firm()))).firm
    change = pb.UpdateFirmRequest(
        firm=firm_pb2.Firm(id=other.id, external_id=name), update_mask=FieldMask(paths=["external_id"])
    )
    assert (await failure(served.call("UpdateFirm", change))).reason == "EXTERNAL_ID_TAKEN"


async def test_update_changes_what_the_mask_names(served: Served) -> None:
    firm = await served.firm(payment_terms_days=10)
    text = encode(Prefix.FIRM, firm)
    request = pb.UpdateFirmRequest(
        firm=firm_pb2.Firm(id=text, display_name="New name", payment_terms_days=99, numbering=firm_pb2.InvoiceNumbering(prefix="HV"), features=firm_pb2.FeatureOverrides(enable_free_trial=False)),
        update_mask=FieldMask(paths=["display_name", "numbering.prefix", "features"]),
    )  # fmt: skip
    changed = (await served.call("UpdateFirm", request, Role.FIRM_ADMIN, firm)).firm
    assert (changed.display_name, changed.payment_terms_days) == ("New name", 10)
    assert (changed.numbering.prefix, changed.numbering.padding) == ("HV", 6)
    assert changed.features.enable_free_trial is False
    assert changed.features.HasField("enable_free_trial")
    assert not changed.features.HasField("enable_proration")
    async with served.db.transaction(support.context(firm), write=False) as uow:
        assert uow.firm.settings.numbering.prefix == "HV"
        metadata = await uow.fetch_value("SELECT metadata FROM audit_event WHERE action = 'firm_updated'")
    assert metadata == {"fields": ["display_name", "features", "numbering"]}


async def test_switching_retries_off_and_on_keeps_their_days(served: Served) -> None:
    firm = await served.firm(retry_policy={"wait_days": [2, 4]})
    text = encode(Prefix.FIRM, firm)

    async def switch(disabled: bool) -> firm_pb2.RetryPolicy:
        request = pb.UpdateFirmRequest(
            firm=firm_pb2.Firm(id=text, retry_policy=firm_pb2.RetryPolicy(disabled=disabled)),
            update_mask=FieldMask(paths=["retry_policy.disabled"]),
        )
        policy: firm_pb2.RetryPolicy = (await served.call("UpdateFirm", request)).firm.retry_policy
        return policy

    off = await switch(True)
    async with served.db.transaction(support.context(firm), write=False) as uow:
        assert uow.firm.settings.retry.wait_days == ()
    assert (off.disabled, list(off.wait_days)) == (True, [2, 4])
    on = await switch(False)
    assert (on.disabled, list(on.wait_days)) == (False, [2, 4])


@pytest.mark.parametrize("path", ["mode", "id", "state", "etag", "no_such_field", "*", "test_clock_id"])
async def test_masks_that_name_what_cannot_change_are_refused(path: str, served: Served) -> None:
    text = encode(Prefix.FIRM, await served.firm())
    request = pb.UpdateFirmRequest(firm=firm_pb2.Firm(id=text), update_mask=FieldMask(paths=[path]))
    assert (await failure(served.call("UpdateFirm", request))).reason == "UPDATE_MASK_INVALID"


async def test_an_old_etag_is_refused(served: Served) -> None:
    firm = (await served.call("CreateFirm", pb.CreateFirmRequest(firm=new_firm()))).firm

    def change(name: str) -> pb.UpdateFirmRequest:
        return pb.UpdateFirmRequest(
            firm=firm_pb2.Firm(id=firm.id, display_name=name),
            update_mask=FieldMask(paths=["display_name"]),
            etag=firm.etag,
        )

    await served.call("UpdateFirm", change("One"))
    stale = await failure(served.call("UpdateFirm", change("Two")))
    assert stale.reason == "ETAG_MISMATCH"
    assert (await served.call("GetFirm", pb.GetFirmRequest(firm_id=firm.id))).firm.etag == stale.metadata["etag"]


async def test_other_firms_are_not_found(served: Served) -> None:
    mine, other = await served.firm(), encode(Prefix.FIRM, await served.firm())
    change = pb.UpdateFirmRequest(
        firm=firm_pb2.Firm(id=other, display_name="Mine now"), update_mask=FieldMask(paths=["display_name"])
    )
    for rpc, request in (("GetFirm", pb.GetFirmRequest(firm_id=other)), ("UpdateFirm", change)):
        found = await failure(served.call(rpc, request, Role.FIRM_ADMIN, mine))
        assert found.reason == "RESOURCE_NOT_FOUND", rpc
    unknown = pb.GetFirmRequest(firm_id=encode(Prefix.FIRM, uuid7()))
    assert (await failure(served.call("GetFirm", unknown))).reason == "RESOURCE_NOT_FOUND"
    assert (await failure(served.call("GetFirm", pb.GetFirmRequest()))).reason == "FIRM_REQUIRED"
    own = await served.call("GetFirm", pb.GetFirmRequest(), Role.READER, mine)
    assert own.firm.id == encode(Prefix.FIRM, mine)


async def test_a_suspended_firm_is_read_and_not_changed(served: Served) -> None:
    firm = await served.firm()
    await served.set_state(firm, "SUSPENDED")
    text = encode(Prefix.FIRM, firm)
    change = pb.UpdateFirmRequest(
        firm=firm_pb2.Firm(id=text, display_name="x"), update_mask=FieldMask(paths=["display_name"])
    )
    assert (await failure(served.call("UpdateFirm", change))).reason == "FIRM_SUSPENDED"
    assert (await served.call("GetFirm", pb.GetFirmRequest(firm_id=text))).firm.state == firm_pb2.FIRM_STATE_SUSPENDED


@pytest.mark.parametrize("role", [Role.FIRM_ADMIN, Role.OPERATOR, Role.SERVICE, Role.READER])
async def test_only_an_admin_sees_all_firms(role: Role, served: Served) -> None:
    firm = await served.firm()
    for rpc, request in (("CreateFirm", pb.CreateFirmRequest(firm=new_firm())), ("ListFirms", pb.ListFirmsRequest())):
        assert (await failure(served.call(rpc, request, role, firm))).reason == "PERMISSION_DENIED"


async def test_firms_are_listed_page_by_page(served: Served) -> None:
    made = [encode(Prefix.FIRM, await served.firm()) for _ in range(5)]
    seen: list[str] = []
    token, metadata = "", await served.metadata()
    while True:
        page = await served.call("ListFirms", pb.ListFirmsRequest(page_size=2, page_token=token), metadata=metadata)
        assert len(page.firms) <= 2
        seen += [firm.id for firm in page.firms]
        token = page.next_page_token
        if not token:
            break
    assert seen[:5] == made[::-1]
    assert len(seen) == len(set(seen))
    name = uuid4().hex
    await served.firm(external_id=name)
    assert len((await served.call("ListFirms", pb.ListFirmsRequest(external_id=name))).firms) == 1
    suspended = pb.ListFirmsRequest(states=[firm_pb2.FIRM_STATE_SUSPENDED], external_id=name)
    assert not (await served.call("ListFirms", suspended)).firms
    forged = pb.ListFirmsRequest(page_token="AAAA")
    assert (await failure(served.call("ListFirms", forged))).reason == "PAGE_TOKEN_INVALID"


async def test_features_follow_the_firm_then_the_installation(served: Served) -> None:
    firm = await served.firm(features={"enable_annual_billing": False, "enable_card_payments": True})
    async with served.db.transaction(support.context(firm), write=False) as uow:
        assert is_enabled(uow, Feature.CARD_PAYMENTS)
        assert is_enabled(uow, Feature.PRORATION)
        with pytest.raises(DunwellError) as off:
            require_feature(uow, Feature.ANNUAL_BILLING)
    assert off.value.metadata == {"feature": "ENABLE_ANNUAL_BILLING"}
