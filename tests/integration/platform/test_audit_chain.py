"""The audit chain: complete under concurrent writers, and no tampering goes unnoticed."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from dunwell_server.platform import audit_chain
from dunwell_server.platform.anchors import Anchor, AnchorStore
from dunwell_server.platform.audit_chain import ChainReport, ProblemKind
from dunwell_server.platform.context import CallContext, system_context
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.journal import Category, Change, record
from dunwell_server.platform.keys import Keys
from dunwell_server.platform.sealer import AuditSealer
from dunwell_server.platform.tables import audit_event
from tests import support
from tests.integration.platform.horizon import past_horizon

MakeFirm = Callable[..., Awaitable[CallContext]]
KEYS = Keys(support.SECRET)


async def write(db: Database, firm: CallContext, count: int = 1, pause: float = 0.0) -> None:
    """One transaction with `count` audit entries."""
    async with db.transaction(firm) as uow:
        for n in range(count):
            metadata = {"n": n, "naïve": "ünïcode ₹", "nested": {"b": [1, 2.50, None], "a": True}}
            await record(uow, Change(Category.BILLING, "client_created", "client", uuid.uuid4(), metadata=metadata))
            await asyncio.sleep(pause)


async def seal(db: Database, firm: CallContext, limit: int = audit_chain.BATCH) -> int:
    await past_horizon(db)
    return await seal_now(db, firm, limit)


async def seal_now(db: Database, firm: CallContext, limit: int = audit_chain.BATCH) -> int:
    context = system_context(firm.firm_id, "job:seal", upkeep=True)
    return (await db.run(context, lambda uow: audit_chain.seal_batch(uow, limit))).count


async def verify(db: Database, firm: CallContext, store: AnchorStore | None = None) -> ChainReport:
    assert firm.firm_id is not None
    known = store.read(firm.firm_id) if store else None

    async def work(uow: UnitOfWork) -> ChainReport:
        return await audit_chain.verify(uow.fetch_all, uow.firm_id, known)

    return await db.run(firm, work, write=False)


def test_the_canonical_form_has_every_column() -> None:
    assert set(audit_chain.COLUMNS) == {column.name for column in audit_event.columns}
    assert all(f"e.{column}" in audit_chain.CANONICAL for column in audit_chain.COLUMNS)


async def test_batches_make_one_chain(db: Database, make_firm: MakeFirm) -> None:
    firm = await make_firm()
    await write(db, firm, 25)
    assert [await seal(db, firm, 10) for _ in range(4)] == [10, 10, 5, 0]
    await write(db, firm, 3)
    assert (await verify(db, firm)).unsealed == 3
    assert await seal(db, firm) == 3
    report = await verify(db, firm)
    assert report.ok
    assert (report.verified, report.unsealed) == (28, 0)
    assert report.head is not None
    assert report.head.seq == 28


async def test_firms_have_chains_of_their_own(db: Database, make_firm: MakeFirm) -> None:
    one, other = await make_firm(), await make_firm()
    await write(db, one, 3)
    await write(db, other, 5)
    assert (await seal(db, one), await seal(db, other)) == (3, 5)
    assert ((await verify(db, one)).verified, (await verify(db, other)).verified) == (3, 5)


async def test_nothing_above_the_horizon_is_sealed(db: Database, make_firm: MakeFirm) -> None:
    """An earlier transaction that commits later must not be left out of the chain, nor come before what is sealed."""
    firm = await make_firm()
    async with db.transaction(firm) as slow:
        await record(slow, Change(Category.BILLING, "slow", "client", uuid.uuid4()))
        await write(db, firm, 2)
        assert await seal_now(db, firm) == 0
    assert await seal(db, firm) == 3
    assert (await verify(db, firm)).ok


async def test_the_chain_is_complete_under_eight_writers_and_three_sealers(db: Database, make_firm: MakeFirm) -> None:
    firm = await make_firm()
    rng = random.Random(11)
    done = asyncio.Event()

    async def writer() -> None:
        for _ in range(15):
            await write(db, firm, rng.randint(1, 4), pause=rng.random() * 0.004)

    async def sealer() -> None:
        while not done.is_set():
            await seal_now(db, firm, 7)

    sealers = [asyncio.create_task(sealer()) for _ in range(3)]
    await asyncio.gather(*(writer() for _ in range(8)))
    done.set()
    await asyncio.gather(*sealers)
    while await seal(db, firm):
        pass
    report = await verify(db, firm)
    async with db.transaction(firm, write=False) as uow:
        written = await uow.fetch_value("SELECT count(*) FROM audit_event")
    assert report.ok, report.problems
    assert report.verified == written > 100


async def test_an_advancing_clock_and_a_suspended_firm_are_sealed_too(db: Database, make_firm: MakeFirm) -> None:
    firm = await make_firm()
    await write(db, firm)
    async with db.transaction(support.context(None)) as uow:
        await uow.execute("UPDATE control.firm SET state = 'SUSPENDED' WHERE id = %s", (firm.firm_id,))
    assert await seal(db, firm) == 1


async def test_the_loop_seals_within_five_seconds_and_rests_when_nothing_is_written(
    db: Database, make_firm: MakeFirm
) -> None:
    firm = await make_firm()
    sealer = AuditSealer(db, interval=0.2)
    task = asyncio.create_task(sealer.run())
    try:
        for _ in range(3):
            await write(db, firm, 2)
            for _ in range(100):
                if not (await verify(db, firm)).unsealed:
                    break
                await asyncio.sleep(0.05)
            else:
                pytest.fail("not sealed within five seconds")
        await support.eventually(lambda: sealer._quiet.confirmed)
    finally:
        sealer.stop()
        await task
    assert (await verify(db, firm)).verified == 6


async def test_the_loop_finds_what_a_long_transaction_wrote_before_it_rested(db: Database, make_firm: MakeFirm) -> None:
    """The sequence moved when the row was written; it must not be forgotten until its transaction has ended."""
    firm = await make_firm()
    sealer = AuditSealer(db)
    async with db.transaction(firm) as slow:
        await record(slow, Change(Category.BILLING, "slow", "client", uuid.uuid4()))
        for _ in range(4):
            assert await sealer.tick() == 0
        assert not sealer._quiet.confirmed
    await past_horizon(db)
    assert await sealer.tick() == 1
    while not sealer._quiet.confirmed:
        await past_horizon(db)
        assert await sealer.tick() == 0


async def test_the_application_cannot_touch_what_is_written(db: Database, make_firm: MakeFirm) -> None:
    firm = await make_firm()
    await write(db, firm)
    await seal(db, firm)
    for attack in (
        "UPDATE audit_event SET actor = 'nobody'", "DELETE FROM audit_event", "TRUNCATE audit_event", "UPDATE audit_seal SET seq = 9", "DELETE FROM audit_seal",
    ):  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with db.transaction(firm) as uow:
                await uow.execute(attack)


# Tampering: as the superuser, with every trigger off.

LENGTH = 40


def _edit(cursor: psycopg.Cursor[Any], firm: uuid.UUID, rng: random.Random) -> None:
    column, value = rng.choice([
        ("actor", "'mallory'"), ("metadata", "metadata || '{\"n\": 99}'"), ("action", "'client_updated'"), ("severity", "'CRITICAL'"),
        ("object_id", "gen_random_uuid()"), ("create_time", "create_time - interval '1 microsecond'"), ("request_id", "gen_random_uuid()"),
        ("firm_time", "firm_time + interval '1 day'"), ("method", "method || ' '"), ("actor_role", "'ADMIN'"), ("object_type", "'invoice'"),
        ("category", "'admin'"), ("sequence", "sequence"),
    ])  # fmt: skip
    if column == "sequence":  # an identity cannot be updated: move the entry to another transaction instead
        column, value = "xact", "'1'::xid8"
    cursor.execute(
        f"UPDATE audit_event SET {column} = {value} WHERE id = (SELECT audit_id FROM audit_seal WHERE firm_id = %s AND seq = %s)",
        (firm, rng.randint(1, LENGTH)),
    )


def _delete(cursor: psycopg.Cursor[Any], firm: uuid.UUID, rng: random.Random) -> None:
    seq = rng.randint(1, LENGTH - 1)
    entry = "DELETE FROM audit_event WHERE id = (SELECT audit_id FROM audit_seal WHERE firm_id = %s AND seq = %s)"
    link = "DELETE FROM audit_seal WHERE firm_id = %s AND seq = %s"
    for statement in rng.choice([[entry], [link], [entry, link]]):
        cursor.execute(statement, (firm, seq))


def _reorder(cursor: psycopg.Cursor[Any], firm: uuid.UUID, rng: random.Random) -> None:
    a, b = rng.sample(range(1, LENGTH + 1), 2)
    what = rng.choice(["seq", "audit_id", "hash"])
    rows = {
        s: r
        for s, *r in cursor.execute("SELECT seq, audit_id, hash FROM audit_seal WHERE firm_id = %s", (firm,)).fetchall()
    }
    cursor.execute("DELETE FROM audit_seal WHERE firm_id = %s AND seq IN (%s, %s)", (firm, a, b))
    swapped = {"seq": (rows[b], rows[a]), "audit_id": ([rows[b][0], rows[a][1]], [rows[a][0], rows[b][1]]),
               "hash": ([rows[a][0], rows[b][1]], [rows[b][0], rows[a][1]])}[what]  # fmt: skip
    for seq, (audit_id, hashed) in zip((a, b), swapped, strict=True):
        cursor.execute(
            "INSERT INTO audit_seal (firm_id, seq, audit_id, hash) VALUES (%s, %s, %s, %s)",
            (firm, seq, audit_id, hashed),
        )


def _truncate(cursor: psycopg.Cursor[Any], firm: uuid.UUID, rng: random.Random) -> None:
    keep = rng.randint(0, LENGTH - 1)
    if rng.random() < 0.7:
        cursor.execute(
            "DELETE FROM audit_event WHERE id IN (SELECT audit_id FROM audit_seal WHERE firm_id = %s AND seq > %s)",
            (firm, keep),
        )
    cursor.execute("DELETE FROM audit_seal WHERE firm_id = %s AND seq > %s", (firm, keep))


def _remake(cursor: psycopg.Cursor[Any], firm: uuid.UUID, rng: random.Random) -> None:
    """Change an entry and compute every later link anew: only the anchor knows."""
    _edit(cursor, firm, random.Random(1))
    previous = audit_chain.genesis(firm)
    statement = f"SELECT s.seq, {audit_chain.CANONICAL} FROM audit_seal s JOIN audit_event e ON e.id = s.audit_id WHERE s.firm_id = %s ORDER BY seq"
    for seq, canonical in cursor.execute(statement, (firm,)).fetchall():
        previous = audit_chain.next_hash(previous, canonical)
        cursor.execute("UPDATE audit_seal SET hash = %s WHERE firm_id = %s AND seq = %s", (previous, firm, seq))


def _insert(cursor: psycopg.Cursor[Any], firm: uuid.UUID, rng: random.Random) -> None:
    """Slip an entry in behind the head."""
    cursor.execute(
        "INSERT INTO audit_event (firm_id, id, xact, category, action, severity, object_type, object_id, actor, actor_role, method, metadata, firm_time)"
        " SELECT firm_id, gen_random_uuid(), '10'::xid8, category, action, severity, object_type, object_id, actor, actor_role, method, metadata, firm_time"
        " FROM audit_event WHERE firm_id = %s LIMIT 1", (firm,)
    )  # fmt: skip


ATTACKS = [_edit, _delete, _reorder, _truncate, _remake, _insert]


@pytest.fixture(scope="module")
async def sealed_firm(db: Database, tmp_path_factory: pytest.TempPathFactory) -> tuple[CallContext, AnchorStore]:
    firm = await support.add_firm(db)
    assert firm.firm_id is not None
    store = AnchorStore(tmp_path_factory.mktemp("anchors"), KEYS)
    for _ in range(LENGTH // 4):
        await write(db, firm, 4)
        await seal(db, firm)
    assert await AuditSealer(db, store).anchor(firm.firm_id)
    return firm, store


@pytest.mark.parametrize("seed", range(108))
async def test_tampering_is_found(
    seed: int, sealed_firm: tuple[CallContext, AnchorStore], database_urls: support.DatabaseUrls
) -> None:
    firm, store = sealed_firm
    assert firm.firm_id is not None
    attack, rng = ATTACKS[seed % len(ATTACKS)], random.Random(seed)
    async with await psycopg.AsyncConnection.connect(database_urls.owner, row_factory=dict_row) as connection:

        async def fetch(statement: Any, params: dict[str, Any]) -> list[dict[str, Any]]:
            return await (await connection.execute(statement, params)).fetchall()

        before = await audit_chain.verify(fetch, firm.firm_id, store.read(firm.firm_id))
        assert before.ok, before.problems
        await connection.execute("SET LOCAL session_replication_role = replica")
        await _attack(connection, attack, firm.firm_id, rng)
        report = await audit_chain.verify(fetch, firm.firm_id, store.read(firm.firm_id))
        await connection.rollback()
    assert not report.ok, f"{attack.__name__} with seed {seed} went unnoticed"


async def _attack(connection: psycopg.AsyncConnection[Any], attack: Any, firm: uuid.UUID, rng: random.Random) -> None:
    """Run a synchronous attack in the connection's transaction: its statements are collected one by one."""

    class Cursor:
        def execute(self, statement: Any, params: Any = None) -> Any:
            loop_cursor = connection.cursor(row_factory=psycopg.rows.tuple_row)
            coroutine = loop_cursor.execute(statement, params)
            future = asyncio.run_coroutine_threadsafe(coroutine, loop)
            self._cursor = future.result()
            return self

        def fetchall(self) -> Any:
            return asyncio.run_coroutine_threadsafe(self._cursor.fetchall(), loop).result()

    loop = asyncio.get_running_loop()
    await asyncio.to_thread(attack, Cursor(), firm, rng)


async def test_the_first_bad_link_is_named(
    sealed_firm: tuple[CallContext, AnchorStore], database_urls: support.DatabaseUrls
) -> None:
    firm, store = sealed_firm
    assert firm.firm_id is not None
    async with await psycopg.AsyncConnection.connect(database_urls.owner, row_factory=dict_row) as connection:

        async def fetch(statement: Any, params: dict[str, Any]) -> list[dict[str, Any]]:
            return await (await connection.execute(statement, params)).fetchall()

        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(
            "UPDATE audit_event SET actor = 'x' WHERE id = (SELECT audit_id FROM audit_seal WHERE firm_id = %s AND seq = 17)",
            (firm.firm_id,),
        )
        report = await audit_chain.verify(fetch, firm.firm_id, store.read(firm.firm_id))
        await connection.rollback()
    assert [(problem.seq, problem.kind) for problem in report.problems] == [(17, ProblemKind.ALTERED)]


async def test_a_chain_that_differs_from_its_anchor_is_not_anchored_again(
    db: Database, make_firm: MakeFirm, tmp_path: Path
) -> None:
    firm = await make_firm()
    assert firm.firm_id is not None
    await write(db, firm, 3)
    await seal(db, firm)
    store = AnchorStore(tmp_path, KEYS)
    sealer = AuditSealer(db, store)
    assert await sealer.anchor(firm.firm_id)
    assert not await sealer.anchor(firm.firm_id), "nothing new"
    async with db.transaction(firm, write=False) as uow:
        now = uow.machine_now
    store.append(Anchor(firm.firm_id, 3, b"x" * 32, now))
    await write(db, firm, 1)
    await seal(db, firm)
    assert not await sealer.anchor(firm.firm_id)
    assert {problem.kind for problem in (await verify(db, firm, store)).problems} == {ProblemKind.ANCHOR_MISMATCH}
