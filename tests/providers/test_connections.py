"""The adapters' HTTP/1.1 connections against servers that answer in every permitted way, and some others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from dunwell_server.providers import connections, http
from dunwell_server.providers.connections import Origin

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(answer: Answer, host: str = "127.0.0.1") -> AsyncIterator[tuple[http.Client, list[int]]]:
    """A client of a server that treats every connection with `answer`; and how many connections there were."""
    made: list[int] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.append(1)
        try:
            await answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, host, 0)
    port = server.sockets[0].getsockname()[1]
    async with server, http.new_client(f"http://127.0.0.1:{port}", max_connections=4, connect_timeout=1.0) as client:
        yield client, made


async def request_of(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes]:
    """Request line, headers by lower-case name, and body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
    return head[0], headers, await reader.readexactly(int(headers.get("content-length", "0")))


def always(text: bytes) -> Answer:
    """The same bytes to every request, on one connection after the other."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request_of(reader)
            writer.write(text)

    return answer


async def get(client: http.Client) -> str:
    response = await http.exchange(client, "GET", "/v1/things", total_timeout=5.0)
    return f"{response.status_code} {response.text}"


async def test_what_goes_out() -> None:
    seen = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await request_of(reader))
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with served(answer) as (client, made):
        await http.exchange(
            client, "POST", "/v1/x?a=1", json={"ä": None}, params={"b": "c d", "n": 2}, headers={"Idempotency-Key": "k"}
        )
        await http.exchange(client, "POST", "/v1/y", content="a=b", headers={"Content-Type": "text/odd"})
        await http.exchange(client, "GET", "/v1/z")
        await http.exchange(client, "POST", "/v1/z")
    assert [line for line, _, _ in seen] == [
        "POST /v1/x?a=1&b=c+d&n=2 HTTP/1.1", "POST /v1/y HTTP/1.1", "GET /v1/z HTTP/1.1", "POST /v1/z HTTP/1.1",
    ]  # fmt: skip
    assert [body for _, _, body in seen] == ['{"ä":null}'.encode(), b"a=b", b"", b""]
    first, second, third, fourth = (headers for _, headers, _ in seen)
    assert (first["content-type"], first["idempotency-key"]) == ("application/json", "k")
    assert first["host"].startswith("127.0.0.1:")
    assert (second["content-type"], second["content-length"]) == ("text/odd", "3")
    assert "content-length" not in third
    assert fourth["content-length"] == "0"
    assert made == [1]


@pytest.mark.parametrize(
    "text",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ],
    ids=["length", "chunked", "early hints"],
)
async def test_answers_of_every_form_keep_the_connection(text: bytes) -> None:
    async with served(always(text)) as (client, made):
        assert [await get(client) for _ in range(3)] == ["200 hello"] * 3
    assert made == [1]


@pytest.mark.parametrize(
    "text",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged",
    ],
    ids=["told to close", "a second answer that nobody asked for"],
)
async def test_connections_that_must_not_be_used_again(text: bytes) -> None:
    async with served(always(text)) as (client, made):
        assert [await get(client) for _ in range(3)] == ["200 hello"] * 3
    assert made == [1, 1, 1]


async def test_an_answer_that_ends_with_its_connection_is_whole() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhel")
        await writer.drain()
        writer.write(b"lo")

    async with served(answer) as (client, _):
        assert [await get(client) for _ in range(2)] == ["200 hello"] * 2


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"220 smtp.example.com\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000,
    ],
    ids=["nothing", "half a head", "half a body", "half a chunk", "no HTTP", "another protocol", "a head without end"],
)
async def test_answers_that_break_off_are_no_answer(text: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(text)
        await writer.drain()

    async with served(answer) as (client, made):
        for _ in range(2):
            with pytest.raises(http.NoAnswer):
                await get(client)
    assert made == [1, 1]


async def test_a_connection_that_the_server_has_closed_meanwhile_is_not_used() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    async with served(answer) as (client, made):
        for _ in range(5):
            assert await get(client) == "200 hello"
            await asyncio.sleep(0.02)
    assert made == [1] * 5


async def test_connections_that_have_rested_too_long_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "KEEP_ALIVE_SECONDS", 0.01)
    async with served(always(b"HTTP/1.1 204 No Content\r\n\r\n")) as (client, made):
        for _ in range(2):
            await get(client)
            await asyncio.sleep(0.03)
    assert made == [1, 1]


async def test_the_next_address_is_tried_where_the_first_says_nothing() -> None:
    """A host with two addresses, the first of which swallows everything: a backlog that is full."""
    async with served(always(b"HTTP/1.1 204 No Content\r\n\r\n")) as (client, _):
        origin = Origin(False, "127.0.0.1", int(client.base_url.rpartition(":")[2]))
        silent = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 9))
        refusing = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 9))
        answering = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", origin.port))
        async with asyncio.timeout(5):
            for order in ([silent, answering], [refusing, answering], [answering, silent]):
                found = await connections._first_connected(order)
                assert found.getpeername() == ("127.0.0.1", origin.port)
                found.close()
            with pytest.raises(ConnectionRefusedError):
                await connections._first_connected([refusing])
            with pytest.raises(OSError, match="no address"):
                await connections._first_connected([])


def test_families_take_turns() -> None:
    six, four = socket.AF_INET6, socket.AF_INET
    found = [(family, 1, 6, "", number) for number, family in enumerate((six, six, four, four, four))]
    assert [each[4] for each in connections._interleaved(found)] == [0, 2, 1, 3, 4]
