"""What can be set about an account's webhooks, and what that makes of an event that is to be sent."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from dunwell_server.sandbox.answers import Json, invalid
from dunwell_server.sandbox.fields import url_field

MAX_COPIES = 5
MAX_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Where an account's events go and what befalls them on the way. All seconds are real time."""

    url: str | None = None
    """None: the gateway's own template, if it has one. Empty: nothing is sent."""
    secrets: tuple[str, ...] | None = None
    """None: ``whsec_<account>``. Several, while one is being replaced: each signs."""
    delay_seconds: float = 0.0
    """Every event waits so long."""
    duplicates: int = 1
    """How often every event is sent at least, 1 to 5."""
    duplicates_at_most: int = 1
    """Each event is sent between ``duplicates`` and so many times."""
    reorder_seconds: float = 0.0
    """Every sending waits a further time drawn from 0 to this: what happens within it is shuffled."""
    loss: float = 0.0
    """This fraction of events is never sent."""
    lose_next: int = 0
    """The next so many events are never sent."""
    paused: bool = False
    """Events are kept until it is False again."""
    retry_seconds: float = 1.0
    """First wait after an answer that was not 2xx; it doubles each time, to a minute at most."""
    seed: int = 0

    def changed(self, values: Json) -> WebhookSettings:
        """A copy with the given values. Raises Refusal for what cannot be."""
        unknown = set(values) - {item.name for item in fields(self)}
        if unknown:
            raise invalid("parameter_unknown", f"Unknown webhook settings: {', '.join(sorted(unknown))}.")
        given: dict[str, Any] = dict(values)
        if given.get("url"):
            url_field(given, "url")
        if given.get("secrets") is not None:
            given["secrets"] = _secrets(given["secrets"])
        made = replace(self, **given)
        made = replace(made, duplicates_at_most=max(made.duplicates, given.get("duplicates_at_most", made.duplicates)))
        made.check()
        return made

    def check(self) -> None:
        """Raises Refusal for a value out of its bounds."""
        for name in ("delay_seconds", "reorder_seconds", "retry_seconds"):
            _number(name, getattr(self, name), MAX_SECONDS)
        _number("loss", self.loss, 1)
        for name, least, most in (
            ("duplicates", 1, MAX_COPIES),
            ("duplicates_at_most", 1, MAX_COPIES),
            ("lose_next", 0, 10**9),
            ("seed", -(10**18), 10**18),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise invalid("parameter_invalid", f"{name} is a whole number from {least} to {most}.", name)
        if not isinstance(self.paused, bool):
            raise invalid("parameter_invalid", "paused is true or false.", "paused")
        if self.url is not None and not isinstance(self.url, str):
            raise invalid("parameter_invalid", "url is an address, empty, or null.", "url")

    def signing_secrets(self, account: str) -> tuple[str, ...]:
        """What signs the account's events, each on its own."""
        return self.secrets if self.secrets is not None else (f"whsec_{account}",)

    def waits(self, nth: int) -> tuple[float, ...]:
        """How long each sending of the book's ``nth`` event waits, in seconds; empty when it is lost.

        What is drawn depends on the seed and that number only.
        """
        dice = random.Random(f"{self.seed}:{nth}")
        if dice.random() < self.loss:
            return ()
        copies = dice.randint(self.duplicates, self.duplicates_at_most)
        return tuple(self.delay_seconds + dice.random() * self.reorder_seconds for _ in range(copies))

    def dump(self) -> Json:
        return asdict(self)

    @classmethod
    def load(cls, body: Json) -> WebhookSettings:
        secrets = body.get("secrets")
        return cls(**{**body, "secrets": None if secrets is None else tuple(secrets)})


def _secrets(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= 4:
        raise invalid("parameter_invalid", "secrets is a list of one to four texts.", "secrets")
    if not all(isinstance(secret, str) and secret.strip() and len(secret) <= 200 for secret in value):
        raise invalid("parameter_invalid", "a secret is a text that is not blank.", "secrets")
    return tuple(value)


def _number(name: str, value: Any, most: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
        raise invalid("parameter_invalid", f"{name} lies between 0 and {most:g}.", name)
