"""Where a reconciliation stands: its place, kept in the run's row, and what a worker holds in memory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from dunwell_server.payments.jobs.gateways import Gateway
from dunwell_server.payments.store.methods import ProviderAccount
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database
from dunwell_server.platform.runs import Run

WINDOW: Final = timedelta(days=3)
"""What a run covers where it is not told."""
LONGEST_WINDOW: Final = timedelta(days=400)
OVERLAP: Final = timedelta(hours=1)
"""How much earlier than the window the lists begin: clocks differ, and a payment is sent before it is made."""
UNREACHABLE: Final = timedelta(minutes=10)
"""For how long an account that gives no answer is asked again. Then it is told as not compared: others, and the firm's other runs, wait no longer."""
LAG: Final = timedelta(seconds=60)
"""How long after our sending the provider's payment may appear in its list and still be found without asking for it."""


@dataclass(slots=True)
class Place:
    """How far a run is: the accounts to go through, the one it is at, the stage and page there, and up to when ours were compared."""

    accounts: list[str]
    index: int = 0
    stage: str = "payments"
    page: str | None = None
    compared: str | None = None
    unreachable: str | None = None
    """Since when (machine time) the account's provider gives no answer; None once it has given one."""

    def as_json(self) -> dict[str, Any]:
        """The form in the run's row."""
        failing = {} if self.unreachable is None else {"unreachable": self.unreachable}
        return {
            "accounts": self.accounts, "index": self.index, "stage": self.stage, "page": self.page, "compared": self.compared, **failing,
        }  # fmt: skip

    def gives_up(self, now: datetime) -> bool:
        """Whether the provider has given no answer for so long that the run goes on without it."""
        return self.unreachable is not None and now - datetime.fromisoformat(self.unreachable) >= UNREACHABLE


@dataclass(slots=True)
class Work:
    """What one worker holds of a run at one account."""

    database: Database
    context: CallContext
    run: Run
    account: ProviderAccount
    gateway: Gateway
    since: datetime
    until: datetime
    seen: deque[tuple[datetime, str]] = field(default_factory=deque)
    """References of the list, with their times: those of the last minute."""

    def saw(self, created: datetime, reference: str) -> None:
        """Note what the list has."""
        self.seen.append((created, reference))

    def has_seen(self) -> set[str]:
        """What the list had, of the last while."""
        return {reference for _, reference in self.seen}

    def forget(self, before: datetime) -> None:
        """Drop what nothing of ours can be compared with any more."""
        while self.seen and self.seen[0][0] < before - LAG:
            self.seen.popleft()


def window(params: dict[str, Any], now: datetime) -> tuple[datetime, datetime]:
    """The run's window by the provider's clock: as told, else the last days until `now`, this second included."""
    until = datetime.fromisoformat(params["until"]) if params.get("until") else now + timedelta(seconds=1)
    since = datetime.fromisoformat(params["since"]) if params.get("since") else until - WINDOW
    return since, until
