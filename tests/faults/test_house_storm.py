"""Every process of the house under SIGKILL, with webhooks duplicated, shuffled and late: money in and out exactly once, nothing lost."""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from dunwell_server.admin.jobs import create_admin_key, ensure_sidecar_key
from dunwell_server.platform.database import Database
from tests import support
from tests.faults import caller
from tests.faults.house import House, Role, free_port
from tests.faults.storm import aimed_at
from tests.providers.gateway import start_gateway

KILLS = int(os.environ.get("DUNWELL_HOUSE_KILLS", "700"))
FIRMS = 3
SECONDS = 700.0
CALM_SECONDS = 240.0
COUNTS = {Role.RPC: 2, Role.JOB: 2, Role.SIDECAR: 1}
SOURCE = Path(__file__).parents[2] / "server" / "dunwell_server"
ELSEWHERE = ("packages.", "clock.", "resolver.", "migration.", "shutdown.")
"""What only the storm of months passes."""


LIKELY = {
    "webhook": 0.01,
    "page": 0.3,
    "setup": 0.3,
    "customer": 0.15,
    "reconcile": 0.3,
    "refund": 0.15,
    "resolver": 0.2,
}
"""Rare where every webhook passes, likely at the seldom steps."""


def probabilities(left: Collection[str] = ()) -> str:
    """What each failpoint kills with; rare at commits, which are many. Those `left` that have killed nobody yet are likelier."""
    named = {name: LIKELY.get(name.partition(".")[0], 0.05) for name in declared_failpoints()}
    named |= {name: min(0.6, 4 * named[name]) for name in left}
    return ",".join(["*=0.004", *(f"{name}={probability}" for name, probability in sorted(named.items()))])


def declared_failpoints() -> set[str]:
    """The names in the source that this house passes."""
    found = {name for path in SOURCE.rglob("*.py") for name in re.findall(r'failpoint\("([a-z._]+)"', path.read_text())}
    return {name for name in found if not name.startswith(ELSEWHERE)}


def hits() -> Counter[str]:
    """How often each failpoint has killed."""
    log = Path(os.environ["DUNWELL_FAILPOINT_LOG"])
    return Counter(log.read_text().split()) if log.exists() else Counter()


def unhit() -> set[str]:
    """Failpoints that have killed nobody yet."""
    return declared_failpoints() - set(hits())


def is_enough(house: House) -> bool:
    """Whether enough have died, at every failpoint. Past half way, those that nobody has died at yet become likelier; once enough have
    died, new processes die at those only."""
    left = unhit()
    if house.kills >= KILLS:
        house.probabilities = aimed_at(left)
    elif house.kills > KILLS // 2:
        house.probabilities = probabilities(left)
    return house.kills >= KILLS and not left


@pytest.fixture
def house(cluster_url: str, tmp_path: Path) -> Iterator[House]:
    seed = int(os.environ.get("DUNWELL_STORM_SEED", random.SystemRandom().randrange(1_000_000)))
    print(f"\nstorm seed {seed} (repeat with DUNWELL_STORM_SEED={seed})")
    sidecar_port = free_port()
    gateway = start_gateway(tmp_path, webhook_url=f"http://127.0.0.1:{sidecar_port}/webhooks/sandbox/{{account}}")
    Path(os.environ["DUNWELL_FAILPOINT_LOG"]).unlink(missing_ok=True)
    with support.fresh_database(cluster_url) as urls:
        made = House(urls, gateway, tmp_path, seed, free_port(), sidecar_port, probabilities())
        try:
            yield made
        finally:
            made.kill_all()
            gateway.stop()


async def keys(house: House) -> str:
    """The sidecar's key in its file, and an ADMIN's for the caller."""
    database = await Database.open(house.urls.application, max_size=2)
    peppers = house.settings().keys.api_key_peppers
    await ensure_sidecar_key(database, peppers, house.folder / "sidecar.key")
    text = await create_admin_key(database, peppers[0], "storm")
    await database.close()
    return text


def wait_until(house: House, met: Path | None, seconds: float) -> None:
    """Faults off: until the file is there, or nothing is open any more."""
    until = time.monotonic() + seconds
    while not (met.exists() if met is not None else not house.open_work()):
        assert time.monotonic() < until, f"not settled after {seconds} s (seed {house.seed}): {house.open_work()}"
        house.keep(COUNTS, deadly=False)
        time.sleep(0.2)
        for role, code in house.reap():
            assert role is Role.CALLER, f"{role} ended with {code}: {house.log(role)}"
            assert code == 0, house.log(role)


@pytest.mark.timeout(1500)
def test_a_dying_house_keeps_its_books(house: House) -> None:
    admin_key = asyncio.run(keys(house))
    address = f"127.0.0.1:{house.rpc_port}"
    house.keep(COUNTS, deadly=False)
    house.spawn(
        Role.CALLER, deadly=False,
        life=lambda: caller.live(address, house.gateway.url, admin_key, house.seed, FIRMS, house.folder),
    )  # fmt: skip
    wait_until(house, house.folder / "ready", 60)
    for account in (house.folder / "accounts").read_text().split():
        house.gateway.control(
            "webhooks", account=account, duplicates=1, duplicates_at_most=5, reorder_seconds=1.5, retry_seconds=0.3
        )
    replace_all(house)
    house.weather(COUNTS, lambda: is_enough(house), seconds=SECONDS)
    (house.folder / "stop").touch()
    replace_all(house)
    while any(role is Role.CALLER for role in house.children.values()):
        wait_until(house, house.folder / "stop", 1)
        house.keep(COUNTS, deadly=False)
        time.sleep(0.1)
        for role, code in house.reap():
            assert (role, code) == (Role.CALLER, 0), f"{role} ended with {code}: {house.log(role)}"
    house.gateway.control("webhooks/flush", timeout_seconds=60)
    wait_until(house, None, CALM_SECONDS)
    problems = asyncio.run(house.problems())
    assert not problems, "\n".join(f"{check.name}: {row}" for check in problems for row in check.rows)
    print(f"{house.kills} kills; {len(hits())} failpoints hit: {dict(hits().most_common())}")
    assert house.kills >= KILLS, f"only {house.kills} kills in {SECONDS} s"
    assert not unhit(), f"never hit: {sorted(unhit())} (seed {house.seed})"


def replace_all(house: House) -> None:
    """Kill everyone but the caller, who goes on calling."""
    spared: dict[int, Role] = {pid: role for pid, role in house.children.items() if role is Role.CALLER}
    house.children = {pid: role for pid, role in house.children.items() if role is not Role.CALLER}
    house.kill_all()
    house.children = spared
