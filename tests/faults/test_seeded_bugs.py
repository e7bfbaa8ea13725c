"""The suites' power, shown by bugs planted on purpose: each of the mistakes that lose or double money must fail the tests named beside it.

A bug is one replacement in a copy of the source. The copy's tests run against the session's own cluster; they must fail, and not for want of
collecting. A replacement that no longer fits the source fails here too: it is to be found anew, not dropped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVER = "server/dunwell_server"
TESTS_FAILED = 1
"""Pytest's exit code when tests ran and some failed."""


@dataclass(frozen=True)
class Bug:
    """A mistake: `old` becomes `new` in `file`, `times` times; `tests` are what must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    times: int = 1


BUGS = (
    Bug(
        "the fence is dropped: whoever comes late sends too",
        f"{SERVER}/payments/service/sending.py",
        "(attempt.owner, attempt.fence) != (claim.owner, claim.fence)",
        "False",
        "tests/integration/payments/test_together.py",
    ),
    Bug(
        "a repeat after a server error goes under a new key",
        f"{SERVER}/payments/jobs/translation.py",
        "        key=order.key,\n",
        "        key=order.key + __import__('uuid').uuid4().hex,\n",
        "tests/integration/payments/test_unknown.py",
    ),
    Bug(
        "an unclear answer counts as a refusal to send",
        f"{SERVER}/payments/reading.py",
        "            return Unknown(_why(outcome), _other_money(outcome))\n",
        "            return NotSent(_why(outcome))\n",
        "tests/integration/payments/test_unknown.py",
    ),
    Bug(
        "a refused repeat says something about the sending before it",
        f"{SERVER}/providers/outcomes.py",
        "    if outcome.executed and outcome.outcome is not OutcomeClass.NOT_SENT:\n        return outcome\n",
        "    return outcome\n",
        "tests/unit/providers/test_outcomes.py",
    ),
    Bug(
        "payments have random ids: after a restore the provider is asked under new keys",
        f"{SERVER}/payments/model.py",
        'return derive_uuid("payment", firm_id, invoice_id, cycle, slot, revision)',
        "return __import__('uuid').uuid4()",
        "tests/integration/payments/test_restore.py",
    ),
    Bug(
        "another amount than was asked for counts as success",
        f"{SERVER}/providers/outcomes.py",
        "    if said is None or said == asked:\n        return outcome\n",
        "    return outcome\n",
        "tests/unit/providers",
    ),
    Bug(
        "a unique key that is not led by the firm",
        "migrations/sql/0001_tables.sql",
        "UNIQUE (firm_id, external_id)",
        "UNIQUE (external_id)",
        "tests/integration/platform/test_invariants.py",
        times=3,
    ),
    Bug(
        "row security is not forced",
        "migrations/sql/0001_behaviour.sql",
        "    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', name);\n",
        "",
        "tests/integration/platform/test_invariants.py",
    ),
    Bug(
        "the ledger need not balance",
        "migrations/sql/0001_behaviour.sql",
        "HAVING sum(amount_minor) <> 0) THEN",
        "HAVING false) THEN",
        "tests/integration/ledger",
    ),
    Bug(
        "halves are rounded down",
        f"{SERVER}/kernel/money.py",
        "ROUND_HALF_UP",
        "ROUND_HALF_DOWN",
        "tests/unit/kernel/test_money.py",
        times=0,
    ),
    Bug(
        "what is being refunded is not kept back: two refunds at once give more than was received",
        f"{SERVER}/payments/store/refunds.py",
        "refund_pending_minor = refund_pending_minor + %(amount)s,",
        "refund_pending_minor = refund_pending_minor + 0 * %(amount)s,",
        "tests/integration/payments/test_refunds.py",
    ),
    Bug(
        "an event counts as applied although what it tells of is not known yet",
        f"{SERVER}/inbox/service/applying.py",
        "            await self._postpone(database, context, event, error.why, read)\n",
        "            await database.run(context, lambda uow: self._take(uow, event, read, [], [str(error)]))\n",
        "tests/integration/inbox/test_applying.py",
    ),
    Bug(
        "a signature from the future is taken",
        f"{SERVER}/providers/stripe/signature.py",
        "    if age < -tolerance_seconds:\n        raise SignatureRefused(IN_FUTURE)\n",
        "",
        "tests/unit/providers/stripe",
    ),
    Bug(
        "an account without a secret takes every webhook",
        f"{SERVER}/providers/stripe/signature.py",
        "    if not live:\n        raise SignatureRefused(NO_SECRET)\n",
        "    if not live:\n        return now\n",
        "tests/unit/providers/stripe",
    ),
    Bug(
        "a duplicate is another event",
        f"{SERVER}/inbox/model.py",
        "        return dedupe_key(self.event_id, self.body)\n",
        "        return dedupe_key(str(self.id), self.body)\n",
        "tests/integration/inbox/test_ingest.py",
    ),
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of what the tests need, to plant bugs in."""
    root = tmp_path_factory.mktemp("seeded")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "node_modules")
    for name in ("server", "tests", "migrations", "protos", "clients/python", "scripts", "benchmarks"):
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    for name in ("pyproject.toml", "buf.yaml", "README.md", "Makefile"):
        shutil.copy(ROOT / name, root / name)
    yield root
    shutil.rmtree(root, ignore_errors=True)


def run_tests(copy: Path, tests: str) -> subprocess.CompletedProcess[str]:
    """The copy's tests, stopped at the first failure."""
    paths = [str(copy), str(copy / "server"), str(copy / "clients/python/src")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("DUNWELL_LEASE_SECONDS", None)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests.split()]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_the_suite_catches_a_planted_bug(copy: Path, bug: Bug) -> None:
    path = copy / bug.file
    sound = path.read_text()
    found = sound.count(bug.old)
    assert found == bug.times if bug.times else found > 0, f"{bug.file} has the place {found} times"
    path.write_text(sound.replace(bug.old, bug.new))
    try:
        done = run_tests(copy, bug.tests)
    finally:
        path.write_text(sound)
    print(done.stdout[-2000:])
    assert done.returncode == TESTS_FAILED, done.stdout[-4000:] + done.stderr[-2000:]
    assert "failed" in done.stdout.splitlines()[-1], done.stdout[-2000:]


def test_there_are_enough() -> None:
    assert len(BUGS) >= 10
    assert len({bug.name for bug in BUGS}) == len(BUGS)
