"""Places where the gateway can be told to die, so that it can be seen what a crash there leaves behind.

``DUNWELL_SANDBOX_FAILPOINTS=name=3,other=1``: the process kills itself (as with ``kill -9``) the third time it passes
``name``. Not set, nothing happens.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Final

VARIABLE: Final = "DUNWELL_SANDBOX_FAILPOINTS"
BEFORE_SEND: Final = "sandbox.webhook.before_send"
AFTER_ACK: Final = "sandbox.webhook.after_ack"
NAMES: Final = (BEFORE_SEND, AFTER_ACK)


class Failpoints:
    """How often each armed place may still be passed."""

    def __init__(self, text: str = "") -> None:
        """``text`` as in the variable. Raises ValueError for what is no list of names and numbers."""
        self._left: dict[str, int] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, count = part.partition("=")
            if name not in NAMES or not (count or "1").isdigit():
                raise ValueError(f"{VARIABLE}: {part!r} is none of {', '.join(NAMES)}, with =<number>")
            self._left[name] = int(count or "1")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Failpoints:
        return cls((os.environ if environment is None else environment).get(VARIABLE, ""))

    def reach(self, name: str) -> None:
        """Passes a place, or dies there."""
        left = self._left.get(name)
        if left is None:
            return
        if left <= 1:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left[name] = left - 1
