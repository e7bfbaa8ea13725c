"""One house for the whole folder: its tests use firms and clients of their own, or firms that they leave as they found them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from prometheus_client import REGISTRY

from dunwell.v1 import admin_service_pb2, api_key_pb2, firm_pb2, options_pb2, provider_pb2
from dunwell_server.admin.jobs import create_admin_key
from dunwell_server.bootstrap import Application, open_application, prepare_installation, resolve_urls
from dunwell_server.config import Settings
from dunwell_server.webhooks.server import Sidecar
from tests import support
from tests.integration.stripe_house.house import (
    OWN_KEY,
    OWN_SECRET,
    PLATFORM_KEY,
    PLATFORM_SECRET,
    Firm,
    House,
)
from tests.integration.stripe_house.stand_in import StripeAccount
from tests.providers.stripe.localstripe import start_localstripe
from tests.providers.stripe.loopback import Reply, Seen, serving


def settings_of(urls: support.DatabaseUrls, folder: Path, stripe: str) -> Settings:
    values: dict[str, Any] = {
        "DATABASE_URL": urls.application, "DUNWELL_DATA_DIR": folder, "DUNWELL_SECRET_KEY": support.SECRET.decode(), "DUNWELL_PORT": 0,
        "DUNWELL_METRICS_PORT": 0, "DUNWELL_SIDECAR_PORT": 0, "DUNWELL_SIDECAR_METRICS_PORT": 0, "DUNWELL_LOG_LEVEL": "ERROR",
        "DUNWELL_DRAIN_DELAY": 0, "DUNWELL_SIDECAR_KEY_FILE": folder / "sidecar.key", "PAYMENT_PROVIDER": "stripe",
        "STRIPE_SECRET_KEY": PLATFORM_KEY, "STRIPE_PUBLISHABLE_KEY": "pk_test_of_the_installation_0123", "STRIPE_WEBHOOK_SECRET": PLATFORM_SECRET,
        "DUNWELL_STRIPE_API_BASE": stripe, "DUNWELL_RETURN_URL": "https://firm.example/back",
    }  # fmt: skip
    return Settings(_env_file=None, **values)


@pytest.fixture(scope="package")
async def house(cluster_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """Everything, running in this process; Stripe's stand-ins are processes of their own."""
    known = set(REGISTRY._collector_to_names)
    folder = tmp_path_factory.mktemp("house")
    books = []
    for name in ("platform", "own"):
        (folder / name).mkdir()
        books.append(start_localstripe(folder / name))
    platform, own = (StripeAccount(book.url, key) for book, key in zip(books, (PLATFORM_KEY, OWN_KEY), strict=True))

    async def stripe(seen: Seen) -> Reply:
        mine = seen.headers.get("authorization") == f"Bearer {OWN_KEY}"
        return await (own if mine else platform)(seen)

    with support.fresh_database(cluster_url) as urls:
        async with serving(stripe) as api:
            settings = settings_of(urls, folder, api.url)
            await prepare_installation(
                settings.model_copy(update={"sidecar_key_file": None}), resolve_urls(settings), folder / "sidecar.key"
            )
            async with open_application(settings, name="house", pool_size=16) as app:
                async for running in _running(app, settings, platform, own):
                    yield running
    for account, book in zip((platform, own), books, strict=True):
        await account.close()
        book.stop()
    for collector in set(REGISTRY._collector_to_names) - known:
        REGISTRY.unregister(collector)  # A process has one house; this one may have another after this.


async def _running(
    app: Application, settings: Settings, platform: StripeAccount, own: StripeAccount
) -> AsyncIterator[House]:
    server, worker, router, sealer = app.rpc_server(), app.job_worker(), app.router(), app.sealer()
    worker._idle_seconds = 0.05  # There is one house and no load: what waits for a look is looked at soon.
    await server.start()
    address = f"127.0.0.1:{server.port}"
    sidecar = Sidecar(settings.model_copy(update={"sidecar_server": address}))
    await sidecar.start()
    jobs = [asyncio.create_task(worker.run()), asyncio.create_task(router.run()), asyncio.create_task(sealer.run())]
    key = await create_admin_key(app.database, settings.keys.api_key_peppers[0], "tests")
    try:
        async with (
            grpc.aio.insecure_channel(address) as channel,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{sidecar.port}", trust_env=False, timeout=20) as http,
        ):
            yield House(channel, key, http, app.database, platform, own)
    finally:
        worker.stop()
        router.stop()
        sealer.stop()
        await asyncio.wait(jobs, timeout=20)
        for job in jobs:
            job.cancel()
        async with asyncio.timeout(60):
            await sidecar.stop()
            await server.stop()


async def new_firm(house: House, name: str) -> Firm:
    """A firm in test mode with an admin's key, on the installation's account."""
    fields: dict[str, Any] = {
        "display_name": name,
        "currency_code": "USD",
        "time_zone": "UTC",
        "mode": provider_pb2.ACCOUNT_MODE_TEST,
    }
    firm = (await house.call(admin_service_pb2.CreateFirmRequest(firm=firm_pb2.Firm(**fields)), house.admin_key)).firm
    key = api_key_pb2.ApiKey(display_name="tests", role=options_pb2.ROLE_FIRM_ADMIN, may_name_actor=True)
    made = await house.call(admin_service_pb2.CreateApiKeyRequest(api_key=key), house.admin_key, firm=firm.id)
    return Firm(house, firm.id, made.secret, house.platform, "/webhooks/stripe", PLATFORM_SECRET)


@pytest.fixture(scope="package")
async def firm(house: House) -> Firm:
    """A firm on the installation's account."""
    return await new_firm(house, "Harbour & Vale")


@pytest.fixture(scope="package")
async def neighbour(house: House) -> Firm:
    """Another firm on the same account."""
    return await new_firm(house, "Next Door")


@pytest.fixture(scope="package")
async def owner(house: House) -> Firm:
    """A firm with an account of its own, set up by its admin."""
    return await configured(await new_firm(house, "Own Account"), OWN_SECRET)


@pytest.fixture(scope="package")
def firms(firm: Firm, neighbour: Firm, owner: Firm) -> dict[str, Firm]:
    """All three by their names here."""
    return {"firm": firm, "neighbour": neighbour, "owner": owner}


@pytest.fixture(scope="module", autouse=True)
async def balanced(firms: dict[str, Firm]) -> AsyncIterator[None]:
    """After each file every invariant of every firm's ledger holds."""
    yield
    for firm in firms.values():
        answer = await firm.call(admin_service_pb2.VerifyLedgerRequest())
        assert answer.ok, [check for check in answer.checks if not check.ok]


async def configured(firm: Firm, secret: str, *, overlap: int = 0, stripe_key: str = OWN_KEY) -> Firm:
    """The firm with an own account at Stripe whose endpoint has that secret."""
    request = admin_service_pb2.ConfigureProviderRequest(
        provider="stripe", mode=provider_pb2.ACCOUNT_MODE_TEST, make_default=True, previous_secret_seconds=overlap,
        credentials={"secret_key": stripe_key, "publishable_key": "pk_test_of_the_firm_0123456", "webhook_secret": secret},
    )  # fmt: skip
    provider = (await firm.call(request)).provider
    assert provider.configured
    assert not provider.shared_account
    firm.stripe, firm.secret = firm.house.own, secret
    firm.path = f"/webhooks/stripe/{provider.provider_account_id}"
    return firm
