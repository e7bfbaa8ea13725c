"""Named places where a crash test may kill the process.

`DUNWELL_FAILPOINTS` is `name=probability[,name=probability…]`; `*` stands for every name. When a failpoint fires, its name is appended to
`DUNWELL_FAILPOINT_LOG` (so that a test can prove that each was hit) and the process kills itself with SIGKILL: no handler, no flush, no
`finally`. Without the variable a failpoint is one dictionary look-up on an empty dictionary.
"""

from __future__ import annotations

import os
import random
import signal

_PROBABILITIES: dict[str, float] = {
    name.strip(): float(probability)
    for name, _, probability in (
        part.partition("=") for part in os.environ.get("DUNWELL_FAILPOINTS", "").split(",") if part
    )
}
_LOG = os.environ.get("DUNWELL_FAILPOINT_LOG")
_RANDOM = random.Random(os.environ.get("DUNWELL_FAILPOINT_SEED"))


def failpoint(name: str) -> None:
    """Kill the process here with the configured probability; do nothing where none is configured."""
    if not _PROBABILITIES:
        return
    probability = _PROBABILITIES.get(name, _PROBABILITIES.get("*", 0.0))
    if probability and _RANDOM.random() < probability:
        if _LOG:
            with open(_LOG, "a", encoding="utf-8") as log:
                log.write(name + "\n")
        os.kill(os.getpid(), signal.SIGKILL)
