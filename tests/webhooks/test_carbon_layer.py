"""Webhooks as carbon-layer sends them: a tool that this project did not write, as a process of its own, on a Stripe account's endpoint.

It makes payments, disputes and refunds in its own book and tells of them in Stripe's format under Stripe's scheme of signatures: each one
several times, in any order, and with signatures that are missing, corrupted or another secret's. None of them is ours, and some of them
are nothing that Stripe would send; all that are signed are kept once, none is believed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from dunwell_server.inbox.ports import EventApplier
from dunwell_server.inbox.service.mirror import MirrorApplier
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.payments.jobs import Charger, Gateways
from dunwell_server.payments.jobs.notices import payment_appliers
from dunwell_server.payments.service.refund_notices import RefundNotices
from dunwell_server.platform.crypto import Vault, account_aad
from dunwell_server.platform.database import Database
from dunwell_server.providers.registry import ProviderRegistry
from dunwell_server.providers.stripe import StripeProvider
from tests import support
from tests.webhooks.house import House, open_house, refused

PYTHON = os.environ.get("DUNWELL_CARBON_PYTHON", sys.executable)
"""The interpreter that has carbon-layer, for who keeps such tools in environments of their own."""
VAULT = Vault({"test": b"k" * 32})
SECRET = "whsec_known_to_both"
ORDERS, DISPUTES, REFUNDS, REPEAT = 90, 25, 25, 5
# The tool would ask Stripe itself for its payments; with its own book it needs no account there.
COMMAND = """
import carbon.cli
from carbon.adapters.mock import get_mock_adapter
carbon.cli.get_adapter = lambda *_, **__: get_mock_adapter()
carbon.cli.app()
"""
SCENARIO = f"""
name: everything
category: dispute
phases:
  - name: payments
    actions:
      - create_orders: {{count: {ORDERS}, amount_paise: 2500}}
      - create_payments: {{for_each: orders, success_rate: 1.0}}
      - capture_payments: {{for_each: successful_payments, amount_paise: 2500}}
  - name: trouble
    depends_on: payments
    actions:
      - create_disputes: {{count: {DISPUTES}, "on": captured_payments, sample: random}}
      - create_refunds: {{count: {REFUNDS}, "on": captured_payments, sample: random}}
"""

pytestmark = pytest.mark.skipif(
    "DUNWELL_CARBON_PYTHON" not in os.environ and importlib.util.find_spec("carbon") is None,
    reason="carbon-layer is not installed",
)


@pytest.fixture
async def house(db: Database, tmp_path: Path) -> AsyncIterator[House]:
    """What takes webhooks in, for Stripe."""
    registry = ProviderRegistry()
    stripe = StripeProvider(None)
    registry.register("stripe", lambda: stripe)
    charger = Charger(Gateways(registry, VAULT))
    appliers: list[EventApplier] = [MirrorApplier(), RefundNotices(), *payment_appliers(charger.gateways)]
    async with open_house(db, registry, VAULT, appliers, tmp_path) as made:
        yield made
    await registry.close()


async def firm_with_account(db: Database) -> tuple[UUID, str]:
    """A firm with an account at Stripe, and the path of its webhooks."""
    context = await support.add_firm(db)
    assert context.firm_id is not None
    account_id = uuid7()
    sealed, key_id = VAULT.encrypt(
        {"secret_key": "sk_test_carbon", "webhook_secret": SECRET}, account_aad(context.firm_id, "stripe")
    )
    async with db.transaction(support.context(None)) as uow:
        await uow.execute(
            "INSERT INTO control.provider_account (id, firm_id, provider, mode, credentials, key_id) VALUES (%s, %s, 'stripe', 'TEST', %s, %s)",
            (account_id, context.firm_id, sealed, key_id),
        )
    return context.firm_id, f"/webhooks/stripe/{encode(Prefix.PROVIDER_ACCOUNT, account_id)}"


async def carbon(folder: Path, url: str, *options: str) -> dict[str, Any]:
    """One run of the tool; its report. With `--ci` it fails where anything was answered 5xx or not at all."""
    scenarios = folder / "scenarios"
    scenarios.mkdir(exist_ok=True)
    (scenarios / "everything.yaml").write_text(SCENARIO)
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "CARBON_SCENARIOS_DIR": str(scenarios), "STRIPE_API_KEY": "sk_test_carbon",
        "DATABASE_URL": f"sqlite:///{folder / 'carbon.db'}",
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        PYTHON, "-c", COMMAND, "run", "everything", "--provider", "stripe", "--webhook-url", url, "--webhook-secret", SECRET, "--ci",
        "--output", "json", *options,
        cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, errors = await process.communicate()
    assert process.returncode == 0, (said + errors).decode()
    report: dict[str, Any] = json.loads(said)["webhooks"]
    return report


async def stored(db: Database, firm_id: UUID) -> Counter[tuple[str, str]]:
    """The firm's events by type and what became of them."""
    async with db.transaction(support.context(firm_id), write=False) as uow:
        return Counter(
            (row["type"], row["state"]) for row in await uow.fetch_all("SELECT type, state FROM provider_event", ())
        )


async def due(db: Database, firm_id: UUID) -> bool:
    """Whether an event is still to be applied."""
    return any(state == "RECEIVED" for _, state in await stored(db, firm_id))


async def test_repeated_and_shuffled_each_is_kept_once(db: Database, house: House, tmp_path: Path) -> None:
    firm, path = await firm_with_account(db)
    url = f"{house.sidecar.client.base_url}".rstrip("/") + path
    events = ORDERS + DISPUTES + REFUNDS
    async with house.working(firm):
        report = await carbon(tmp_path, url, "--webhook-repeat", str(REPEAT), "--webhook-order", "random")
    assert (report["total"], report["ok"]) == (events * REPEAT, events * REPEAT)
    while await due(db, firm):
        await house.work(firm)
    # Its refunds are no objects of Stripe's: what was signed and cannot be read waits for a person. The rest is about nothing of ours.
    assert await stored(db, firm) == {
        ("payment_intent.succeeded", "IGNORED"): ORDERS,
        ("charge.dispute.created", "IGNORED"): DISPUTES,
        ("charge.refunded", "QUARANTINED"): REFUNDS,
    }


@pytest.mark.parametrize("signature", ["missing", "corrupted", "wrong_secret"])
async def test_what_is_not_signed_is_refused_and_counted(
    db: Database, house: House, tmp_path: Path, signature: str
) -> None:
    firm, path = await firm_with_account(db)
    url, before = f"{house.sidecar.client.base_url}".rstrip("/") + path, refused()
    report = await carbon(tmp_path, url, "--webhook-signature", signature)
    assert (report["total"], report["ok"], report["failed_5xx"]) == (ORDERS + DISPUTES + REFUNDS, 0, 0)
    assert not await stored(db, firm)
    assert refused() - before == report["total"]
