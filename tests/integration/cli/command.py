"""Runs the `dunwell` command as people do: as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import support

ROOT = Path(__file__).parents[3]
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "SYSTEMROOT")


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
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        environment |= {
            "PYTHONPATH": os.pathsep.join([str(ROOT / "server"), str(ROOT / "clients/python/src")]),
            "DUNWELL_DATA_DIR": str(self.folder),
            "DUNWELL_METRICS_PORT": "0",
            "DUNWELL_SIDECAR_PORT": "0",
            "NO_COLOR": "1",
            "COLUMNS": "160",
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

    def __call__(self, *arguments: str, timeout: float = 60, **more: Any) -> Result:
        """Run it to its end."""
        process = self.start(*arguments, **more)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return Result(process.returncode, out, err)
