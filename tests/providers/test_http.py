"""The adapters' HTTP: what is proven about sending, and connections that are always given back."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from dunwell_server.providers import http
from tests import support
from tests.providers.gateway import GatewayProcess, start_gateway

HEADERS = {"Authorization": "Bearer sk_test_http"}
BODY = {"amount": 5, "currency": "USD", "payment_method": "pm_card_visa"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = start_gateway(tmp_path_factory.mktemp("gateway"))
    yield process
    process.stop()


@pytest.fixture
async def client(gateway: GatewayProcess) -> AsyncIterator[http.Client]:
    """Two connections, and two seconds of patience for one of them."""
    async with http.new_client(gateway.url, max_connections=2, connect_timeout=2.0) as ready:
        yield ready


async def charge(client: http.Client, method: str = "pm_card_visa", patience: float = 5.0) -> int:
    body = BODY | {"payment_method": method}
    response = await http.exchange(client, "POST", "/v1/payments", total_timeout=patience, json=body, headers=HEADERS)
    return response.status_code


async def test_many_requests_share_few_connections(client: http.Client) -> None:
    assert await asyncio.gather(*(charge(client) for _ in range(60))) == [200] * 60


async def test_connections_come_back_after_every_kind_of_failure(gateway: GatewayProcess, client: http.Client) -> None:
    before = gateway.ledger("http")["movements"]
    for _ in range(4):  # More failures of each kind than there are connections.
        for method in ("pm_sandbox_dropBeforeAccept", "pm_sandbox_acceptThenTimeout"):
            with pytest.raises(http.NoAnswer):
                await charge(client, method, patience=0.6)
        canceled = asyncio.create_task(charge(client, "pm_sandbox_acceptThenTimeout"))
        moved = gateway.ledger("http")["movements"]
        await support.eventually(lambda: gateway.ledger("http")["movements"] > moved)  # noqa: B023
        canceled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await canceled
    assert await asyncio.gather(*(charge(client) for _ in range(10))) == [200] * 10
    assert gateway.ledger("http")["movements"] == before + 18


async def test_no_free_connection_is_proof_that_nothing_was_sent(gateway: GatewayProcess, client: http.Client) -> None:
    before = gateway.ledger("http")["movements"]
    held = [asyncio.create_task(charge(client, "pm_sandbox_acceptThenTimeout", patience=6.0)) for _ in range(2)]
    await support.eventually(lambda: gateway.ledger("http")["movements"] == before + 2)
    with pytest.raises(http.NothingSent):
        await charge(client)
    assert gateway.ledger("http")["movements"] == before + 2
    assert {type(result) for result in await asyncio.gather(*held, return_exceptions=True)} == {http.NoAnswer}


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://no-such-host.invalid", "ftp://127.0.0.1:9"])
async def test_where_no_connection_can_be_made_nothing_was_sent(url: str) -> None:
    async with http.new_client(url, max_connections=1) as nowhere:
        with pytest.raises(http.NothingSent):
            await charge(nowhere)


async def test_a_failed_tls_handshake_is_proof_that_nothing_was_sent(gateway: GatewayProcess) -> None:
    async with http.new_client(gateway.url.replace("http:", "https:"), max_connections=1) as wrong:
        with pytest.raises(http.NothingSent):
            await charge(wrong)


async def test_a_listener_that_never_answers_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with http.new_client(url, max_connections=1) as mute:
            with pytest.raises(http.NoAnswer):
                await charge(mute, patience=0.3)


@pytest.mark.parametrize(
    ("text", "seconds"), [("7", 7.0), ("0", 0.0), ("-1", None), ("soon", None), ("1e9", None), ("9" * 40, None)]
)
def test_retry_after_is_whole_seconds_or_nothing(text: str, seconds: float | None) -> None:
    assert http.retry_after(httpx.Response(429, headers={"Retry-After": text})) == seconds
    assert http.retry_after(httpx.Response(429)) is None


async def test_requests_that_are_cancelled_at_any_moment_leave_working_connections(client: http.Client) -> None:
    for step in range(120):
        calls = [asyncio.ensure_future(charge(client)) for _ in range(2)]
        await asyncio.sleep(step * 0.0002)
        for call in calls:
            call.cancel()
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert outcome == 200 or isinstance(outcome, asyncio.CancelledError), repr(outcome)
    assert await asyncio.gather(*(charge(client, patience=5.0) for _ in range(8))) == [200] * 8
