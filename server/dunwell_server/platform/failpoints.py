"""Named places where a crash test may kill the process.

`DUNWELL_FAILPOINTS` is `name=probability[,name=probability…]`; `*` stands for every name. When a failpoint fires, its name is appended to
`DUNWELL_FAILPOINT_LOG` (so that a test can prove that each was hit) and the process kills itself with SIGKILL: no handler, no flush, no
`finally`. Without the variable a failpoint is one dictionary look-up on an empty dictionary.
"""

from __future__ import annotations

import os
import random
import signal

_probabilities: dict[str, float] = {}
_random = random.Random()


def configure(text: str, seed: str | int | None = None) -> None:
    """Set the failpoints of this process: `name=probability[,…]`, empty for none. A seed makes the kills repeatable."""
    _probabilities.clear()
    for part in filter(None, text.split(",")):
        name, _, probability = part.partition("=")
        _probabilities[name.strip()] = float(probability)
    _random.seed(seed)


def failpoint(name: str) -> None:
    """Kill the process here with the configured probability; do nothing where none is configured."""
    if not _probabilities:
        return
    probability = _probabilities.get(name, _probabilities.get("*", 0.0))
    if probability and _random.random() < probability:
        if path := os.environ.get("DUNWELL_FAILPOINT_LOG"):
            with open(path, "a", encoding="utf-8") as log:
                log.write(name + "\n")
        os.kill(os.getpid(), signal.SIGKILL)


configure(os.environ.get("DUNWELL_FAILPOINTS", ""), os.environ.get("DUNWELL_FAILPOINT_SEED"))
