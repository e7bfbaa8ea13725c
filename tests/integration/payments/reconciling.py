"""What the reconciliation tests share: runs, their items, and payments made at the provider behind the book's back."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import httpx

from dunwell_server.billing.model import Client
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.jobs import ReconciliationExecutor
from dunwell_server.payments.jobs.reconciling import start
from dunwell_server.payments.model import PaymentMethod
from dunwell_server.platform import runs
from dunwell_server.platform.runs import Run, RunItem
from tests.integration.payments.world import World


async def queue(world: World, *, dry_run: bool = False, **params: Any) -> Run:
    """Queue a reconciliation of the world's firm, until a moment from now unless told otherwise."""
    params.setdefault("until", (world.now + timedelta(minutes=1)).isoformat())
    async with world.db.transaction(world.call()) as uow:
        return await start(uow, params, dry_run=dry_run)


async def reconcile(world: World, *, dry_run: bool = False, **params: Any) -> tuple[Run, list[RunItem]]:
    """Reconcile the world's firm; the run as it ended, and its items."""
    run = await queue(world, dry_run=dry_run, **params)
    await ReconciliationExecutor(world.workers.charger).execute(world.db, world.context, run)
    return await ended(world, run.id)


async def ended(world: World, run_id: UUID) -> tuple[Run, list[RunItem]]:
    """A run and its items."""
    async with world.db.transaction(world.context, write=False) as uow:
        items, _ = await runs.items_after(uow, run_id, runs.ItemCursor(), 1000, settled=True)
        return await runs.get(uow, run_id), items


async def customer_of(world: World, client_id: UUID) -> str:
    """The provider's id of a client."""
    reference: str = await world.scalar(
        "SELECT provider_reference FROM provider_customer WHERE firm_id = %s AND client_id = %s",
        world.firm_id,
        client_id,
    )
    return reference


async def paid_there(
    world: World,
    method: PaymentMethod,
    amount_minor: int,
    *,
    key: str,
    metadata: dict[str, str],
    account: str | None = None,
) -> str:
    """Charge a method at the sandbox without telling the book; the provider's id of the payment."""
    body = {
        "amount": amount_minor, "currency": "USD", "payment_method": method.provider_reference, "off_session": True,
        "customer": await customer_of(world, method.client_id), "metadata": metadata,
    }  # fmt: skip
    headers = {"Authorization": f"Bearer sk_test_{account or world.account}", "Idempotency-Key": key}
    async with httpx.AsyncClient(base_url=world.gateway.url, trust_env=False) as client:
        response = await client.post("/v1/payments", json=body, headers=headers)
    answer = response.json()
    reference: str = answer["id"] if response.status_code == 200 else answer["error"]["payment"]["id"]
    return reference


def metadata_of(world: World, payment_id: UUID, key: str) -> dict[str, str]:
    """What an object of ours carries at the provider."""
    return {"firm": encode(Prefix.FIRM, world.firm_id), "payment": encode(Prefix.PAYMENT, payment_id), "key": key}


async def paid(world: World, client: Client, amount: str = "120.00", due: datetime | None = None) -> UUID:
    """An invoice that has been charged; its id."""
    invoice = await world.invoice(client, amount)
    await world.charge(invoice.id)
    return invoice.id
