"""The installation's own provider accounts, as the environment configures them, and the key of its own sidecar."""

from __future__ import annotations

import asyncio
import stat
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from dunwell_server.admin.jobs import ensure_admin_key, ensure_sidecar_key, settle_platform_accounts
from dunwell_server.admin.model import NewFirm
from dunwell_server.admin.service import firms
from dunwell_server.admin.service.firms import Installation
from dunwell_server.admin.service.platform_accounts import PlatformAccount
from dunwell_server.bootstrap import platform_accounts
from dunwell_server.config import Settings
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.platform.context import Role
from dunwell_server.platform.crypto import Vault, account_aad
from dunwell_server.platform.database import Database
from dunwell_server.platform.firms import FirmSettings
from dunwell_server.platform.keys import Keys
from dunwell_server.providers.registry import ProviderRegistry
from dunwell_server.providers.stripe import StripeProvider
from dunwell_server.rpc.auth import ApiKeys, DatabaseKeyStore
from tests import support

KEYS = Keys(b"the root secret of these tests, long", ())
VAULT = Vault.of(KEYS)
STRIPE = ("stripe",)


def stripe(mode: str = "TEST", **credentials: str) -> PlatformAccount:
    return PlatformAccount("stripe", mode, {"secret_key": f"sk_{mode.lower()}_1", **credentials})


async def settle(db: Database, *wanted: PlatformAccount, vault: Vault = VAULT) -> None:
    await settle_platform_accounts(db, wanted, STRIPE, vault)


async def rows(db: Database) -> list[dict[str, Any]]:
    async with db.transaction(support.context(None), write=False) as uow:
        return await uow.fetch_all(
            "SELECT id, provider, mode, state, credentials, key_id, version FROM control.provider_account WHERE firm_id IS NULL ORDER BY mode"
        )


def opened(row: dict[str, Any], vault: Vault = VAULT) -> dict[str, str]:
    found = vault.decrypt(row["credentials"], row["key_id"], account_aad(None, row["provider"]))
    found.pop("source", None)
    return found


async def trail(db: Database) -> list[tuple[str, dict[str, Any]]]:
    async with db.transaction(support.context(None), write=False) as uow:
        found = await uow.fetch_all(
            "SELECT action, metadata FROM control.audit_event WHERE action LIKE 'provider_account%%' ORDER BY create_time, id",
            {},
        )
    return [(row["action"], row["metadata"]) for row in found]


@pytest.fixture(autouse=True)
async def empty(db: Database) -> None:
    """No account of the installation is in use when a test begins."""
    async with db.transaction(support.context(None)) as uow:
        await uow.execute(
            "UPDATE control.provider_account SET state = 'DISABLED', provider = 'gone' WHERE firm_id IS NULL", {}
        )


async def current(db: Database) -> list[dict[str, Any]]:
    return [row for row in await rows(db) if row["provider"] == "stripe"]


async def test_it_appears_once_and_stays_as_it_is(db: Database) -> None:
    before = len(await trail(db))
    for _ in range(3):
        await settle(db, stripe(webhook_secret="whsec_CANARY1"))
    [row] = await current(db)
    assert (row["state"], row["mode"], row["version"]) == ("ACTIVE", "TEST", 1)
    assert opened(row) == {"secret_key": "sk_test_1", "webhook_secret": "whsec_CANARY1"}
    assert b"CANARY" not in row["credentials"]
    [(action, metadata)] = (await trail(db))[before:]
    assert (action, metadata["provider_account_id"]) == (
        "provider_account_configured",
        encode(Prefix.PROVIDER_ACCOUNT, row["id"]),
    )
    assert metadata["changed"] == ["secret_key", "webhook_secret"]
    assert "CANARY" not in str(metadata)


async def test_a_webhook_secret_that_is_replaced_goes_on_for_a_day(db: Database) -> None:
    await settle(db, stripe(webhook_secret="whsec_one"))
    await settle(db, stripe(webhook_secret="whsec_two", publishable_key="pk_test_1"))
    [row] = await current(db)
    found = opened(row)
    until = datetime.fromisoformat(found.pop("webhook_secret_previous_until"))
    assert timedelta(hours=23) < until - datetime.now(until.tzinfo) <= timedelta(hours=24)
    assert found == {
        "secret_key": "sk_test_1", "publishable_key": "pk_test_1", "webhook_secret": "whsec_two", "webhook_secret_previous": "whsec_one",
    }  # fmt: skip
    assert row["version"] == 2
    await settle(db, stripe(webhook_secret="whsec_two", publishable_key="pk_test_1"))
    assert (await current(db))[0]["version"] == 2
    await settle(db, stripe())
    assert opened((await current(db))[0]) == {"secret_key": "sk_test_1"}


async def test_what_leaves_the_environment_is_taken_out_of_use_and_comes_back_as_the_same(db: Database) -> None:
    await settle(db, stripe())
    [first] = await current(db)
    await settle(db)
    [row] = await current(db)
    assert (row["state"], row["version"]) == ("DISABLED", 2)
    await settle(db)
    assert (await current(db))[0]["version"] == 2
    await settle(db, stripe())
    [row] = await current(db)
    assert (row["id"], row["state"], row["version"]) == (first["id"], "ACTIVE", 3)
    assert [action for action, _ in (await trail(db))[-3:]] == [
        "provider_account_configured", "provider_account_disabled", "provider_account_configured",
    ]  # fmt: skip


async def test_test_and_live_are_never_one_account(db: Database) -> None:
    await settle(db, stripe("TEST"))
    await settle(db, stripe("LIVE"))
    live, test = await current(db)
    assert (live["mode"], live["state"], opened(live)) == ("LIVE", "ACTIVE", {"secret_key": "sk_live_1"})
    assert (test["mode"], test["state"], opened(test)) == ("TEST", "DISABLED", {"secret_key": "sk_test_1"})


async def test_an_account_that_was_set_up_by_hand_stays(db: Database) -> None:
    by_hand = await _shared_account(db, {"secret_key": "sk_live_hand", "note": "x"})
    await settle(db, stripe("TEST"))
    await settle(db)
    live, _ = await current(db)
    assert (live["id"], live["state"], live["version"], opened(live)["secret_key"]) == (
        by_hand, "ACTIVE", 1, "sk_live_hand",
    )  # fmt: skip
    await settle(db, stripe("LIVE"))
    live, _ = await current(db)
    assert (live["id"], live["version"], opened(live)) == (by_hand, 2, {"secret_key": "sk_live_1", "note": "x"})


async def test_a_new_root_secret_seals_anew_without_a_new_version(db: Database) -> None:
    await settle(db, stripe())
    later = Vault.of(Keys(b"the next root secret of these tests!", (b"the root secret of these tests, long",)))
    await settle(db, stripe(), vault=later)
    [row] = await current(db)
    assert (row["key_id"], row["version"]) == (later.newest_key_id, 1)
    lost = Vault.of(Keys(b"a root secret that has forgotten all", ()))
    await settle(db, stripe(), vault=lost)
    [row] = await current(db)
    assert (opened(row, lost), row["version"]) == ({"secret_key": "sk_test_1"}, 2)


async def _shared_account(db: Database, credentials: dict[str, str]) -> UUID:
    account = uuid7()
    sealed, key_id = VAULT.encrypt(credentials, account_aad(None, "stripe"))
    async with db.transaction(support.context(None)) as uow:
        await uow.execute(
            "INSERT INTO control.provider_account (id, provider, mode, credentials, key_id) VALUES (%s, 'stripe', 'LIVE', %s, %s)",
            (account, sealed, key_id),
        )
    return account


async def test_several_at_once_make_one(db: Database) -> None:
    await asyncio.gather(*(settle(db, stripe()) for _ in range(6)))
    assert [(row["state"], row["version"]) for row in await current(db)] == [("ACTIVE", 1)]


async def test_the_installations_default_provider_is_its_account_at_stripe(db: Database) -> None:
    await settle(db, stripe())
    registry = ProviderRegistry()
    registry.register("stripe", StripeProvider)
    installation = Installation(VAULT, registry, "stripe")
    admin = support.context(None, role=Role.ADMIN)
    for mode, provider in (("TEST", "stripe"), ("LIVE", "manual")):
        async with db.transaction(admin) as uow:
            firm = await firms.create(
                uow, NewFirm(None, mode, mode, FirmSettings(currency_code="USD", default_provider="")), installation
            )
        assert firm.settings.default_provider == provider, mode


def test_what_the_environment_says() -> None:
    def wanted(**values: str) -> list[PlatformAccount]:
        return platform_accounts(Settings(_env_file=None, **values))  # type: ignore[arg-type]

    assert wanted() == []
    [account] = wanted(
        stripe_secret_key="rk_live_1", stripe_publishable_key="pk_live_1", stripe_webhook_secret="whsec_1"
    )
    assert account == PlatformAccount(
        "stripe", "LIVE", {"secret_key": "rk_live_1", "publishable_key": "pk_live_1", "webhook_secret": "whsec_1"}
    )
    assert "rk_live_1" not in repr(account)


async def test_the_sidecars_key_is_made_once_and_again_when_it_is_revoked(db: Database, tmp_path: Path) -> None:
    file, peppers = tmp_path / "data" / "sidecar-key", KEYS.api_key_peppers
    await ensure_sidecar_key(db, peppers, file)
    text = file.read_text(encoding="ascii").strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    principal = await ApiKeys(DatabaseKeyStore(db), peppers).verify(text)
    assert (principal.role, principal.firm_id) == (Role.SIDECAR, None)
    await ensure_sidecar_key(db, peppers, file)
    assert file.read_text(encoding="ascii").strip() == text
    async with db.transaction(support.context(None)) as uow:
        await uow.execute("UPDATE control.api_key SET revoke_time = clock_timestamp()", {})
    await ensure_sidecar_key(db, peppers, file)
    assert file.read_text(encoding="ascii").strip() != text
    # A key of another role is not taken for it.
    await ensure_admin_key(db, peppers, tmp_path / "admin-key")
    file.write_text((tmp_path / "admin-key").read_text(encoding="ascii"), encoding="ascii")
    await ensure_sidecar_key(db, peppers, file)
    again = await ApiKeys(DatabaseKeyStore(db), peppers).verify(file.read_text(encoding="ascii").strip())
    assert again.role is Role.SIDECAR
