"""The platform's account, shared by firms that have none of their own: whose an object is, is noted; nobody adopts another firm's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from dunwell_server.billing.model import InvoiceState
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform.crypto import account_aad
from dunwell_server.platform.provider_references import owner_of
from tests import support
from tests.integration.payments.pages_world import Pages
from tests.integration.payments.world import VAULT, World


async def share(world: World) -> None:
    """Make the world's account the platform's, and the only one."""
    sealed, key_id = VAULT.encrypt({"secret_key": f"sk_test_{world.account}"}, account_aad(None, "sandbox"))
    async with world.db.transaction(support.context(None)) as uow:
        await uow.execute(
            "UPDATE control.provider_account SET firm_id = NULL, credentials = %s, key_id = %s, version = version + 1 WHERE firm_id = %s",
            (sealed, key_id, world.firm_id),
        )


async def test_references_are_noted_and_other_firms_objects_stay_theirs(
    make_world: Callable[..., Awaitable[World]],
) -> None:
    world = await make_world()
    await share(world)
    pages = Pages(world)
    client, [method] = await world.client("pm_card_visa", autopay=False)
    customer = await pages.customer(client.id)
    invoice = await world.invoice(client)
    session = await pages.invoice_page(invoice)
    setup = await pages.open_setup(client)
    pages.complete(session)
    await pages.expire(session)
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    assert session.payment_id is not None
    [attempt] = (await world.payment(session.payment_id)).attempts
    references = [
        customer,
        method.provider_reference,
        session.provider_reference,
        setup.provider_reference,
        attempt.provider_reference,
    ]
    async with world.db.transaction(world.context, write=False) as uow:
        owners = [await owner_of(uow, session.account_id, reference or "") for reference in references]
    assert owners == [world.firm_id] * 5

    other = await support.add_firm(world.db)
    stranger = World(world.db, world.gateway, other, world.account, world.workers)
    theirs, _ = await stranger.client(autopay=False)
    keeper = world.workers.keeper.customers
    with pytest.raises(DunwellError) as refused:
        await keeper.adoptable(world.db, stranger.call(), theirs.id, None, customer)
    assert refused.value.reason is Reason.RESOURCE_NOT_FOUND
    # Not noted, but the object itself says whose it is.
    unnoted = pages.post("/v1/customers", name="X", metadata={"firm": "firm_01h455vb4pex5vsknk084sn02q"})["id"]
    with pytest.raises(DunwellError) as refused:
        await keeper.adoptable(world.db, stranger.call(), theirs.id, None, unnoted)
    assert refused.value.reason is Reason.RESOURCE_NOT_FOUND
    free = pages.post("/v1/customers", name="Y")["id"]
    live = await keeper.adoptable(world.db, stranger.call(), theirs.id, None, free)
    assert live.reference == free
