"""Runs the `dunwell` command as people do: as a process of its own."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import support
from tests.integration.cli.loaded import Loaded

ROOT = Path(__file__).parents[3]
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "SYSTEMROOT")
READ_AT_LOAD = frozenset(
    {"DUNWELL_LEASE_SECONDS", "DUNWELL_FAILPOINTS", "DUNWELL_FAILPOINT_SEED", "DUNWELL_FAILPOINT_LOG"}
)
"""Variables that modules read as they load: only a process that starts from nothing sees them."""


@functools.cache
def _loaded() -> Loaded:
    """The process of these tests that commands are forked from."""
    return Loaded(_bare())


def _bare() -> dict[str, str]:
    """What every command sees of our environment, and where its modules are."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    path = os.pathsep.join([str(ROOT / "server"), str(ROOT / "clients/python/src")])
    return kept | {"PYTHONPATH": path, "NO_COLOR": "1", "COLUMNS": "160"}


@dataclass(frozen=True)
class Result:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON document and nothing else."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Command:
    """The command on one database, with a data folder of its own."""

    urls: support.DatabaseUrls | None
    folder: Path

    def environment(self, **more: str) -> dict[str, str]:
        """What the process sees: nothing of ours but the database and the secret."""
        environment = _bare() | {
            "DUNWELL_DATA_DIR": str(self.folder),
            "DUNWELL_METRICS_PORT": "0",
            "DUNWELL_SIDECAR_PORT": "0",
        }
        if self.urls is not None:
            environment |= {
                "DATABASE_URL": self.urls.application,
                "DUNWELL_OWNER_DATABASE_URL": self.urls.owner,
                "DUNWELL_AUDIT_DATABASE_URL": self.urls.auditor,
                "DUNWELL_SECRET_KEY": "the tests' root secret, long enough",
            }
        return environment | more

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """Start it and return at once."""
        return subprocess.Popen(
            [sys.executable, "-m", "dunwell_server", *arguments], cwd=self.folder, env=self.environment(**more), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def __call__(self, *arguments: str, timeout: float = 120, **more: Any) -> Result:
        """Run it to its end, forked from a process that has loaded the modules which every command loads."""
        assert not READ_AT_LOAD & more.keys(), "such a command must start from nothing: use `from_nothing`"
        return Result(*_loaded().run(arguments, self.folder, self.environment(**more), timeout))

    def from_nothing(self, *arguments: str, timeout: float = 120, **more: Any) -> Result:
        """Run it to its end in a new interpreter, as an operator's shell does."""
        process = self.start(*arguments, **more)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return Result(process.returncode, out, err)
