"""Structured logs with redaction: one JSON object a line, or readable text on a terminal.

`get_logger(__name__)` gives a logger; `configure_logging` is called once per process. What libraries log through the
standard module goes the same way. Nothing secret may ever be handed to a logger; the redaction here is the net under
that rule: it blanks values under sensitive names, credentials of known form, and card numbers, also in tracebacks.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TextIO, cast

import structlog
from pydantic_core import to_json
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from dunwell_server.kernel.luhn import contains_card_number

REDACTED = "[redacted]"

_SENSITIVE_NAME = re.compile(
    r"secret|passw|token|authorization|credential|api_?key|private|cookie|pepper|card|cvc|cvv|iban|account_number|signature",
    re.IGNORECASE,
)
_HARMLESS_NAMES = frozenset({"key_id", "tokens", "credential_id", "card_brand", "card_last4"})
_SECRET_TEXT = re.compile(
    r"""
      dw_(?:test|live)_[0-9a-z]+_[0-9A-Za-z_-]+          # our API keys
    | (?<![0-9A-Za-z])(?:sk|rk|pk|whsec)_[0-9A-Za-z_]{8,}                # Stripe
    | rzp_(?:test|live)_[0-9A-Za-z]{8,}                  # Razorpay
    | (?:Bearer|Basic)\s+[0-9A-Za-z._~+/=-]{8,}
    | eyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]+\.[0-9A-Za-z_-]*  # JWT
    | (?<=://)[^\s:/@]*:[^\s@]+(?=@)                     # user and password of a URL
    | \bpassword=\S+
    """,
    re.VERBOSE | re.IGNORECASE,
)
_DIGIT_RUN = re.compile(r"\d(?:[\s\u00a0-]?\d){12,}")


def redact_text(text: str) -> str:
    """The text with credentials and card numbers blanked."""
    if len(text) < 8:
        return text
    text = _SECRET_TEXT.sub(REDACTED, text)
    if contains_card_number(text):
        text = _DIGIT_RUN.sub(REDACTED, text)
    return text


def redact(value: Any) -> Any:
    """The same for a value of any shape that a log line may hold."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return {name: REDACTED if _is_sensitive(str(name)) else redact(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact_text(str(value))


def _is_sensitive(name: str) -> bool:
    return name not in _HARMLESS_NAMES and _SENSITIVE_NAME.search(name) is not None


def _redact_event(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        kind = type(value)
        if kind is int or kind is float or value is None:
            continue
        event[name] = REDACTED if _is_sensitive(name) else redact(value)
    return event


_TALKATIVE: Final = {"alembic": "WARNING", "apscheduler": "WARNING", "httpx": "WARNING", "httpcore": "WARNING"}
"""Libraries that tell at INFO of every step they take."""


class _LevelFilter:
    """Drops what is below the level of its module: the longest configured prefix of the logger's name decides."""

    def __init__(self, default: str, levels: Mapping[str, str]) -> None:
        self._numbers = {name: logging.getLevelNamesMapping()[level] for name, level in levels.items()}
        self._default = logging.getLevelNamesMapping()[default]
        self._known: dict[str, int] = {}

    @property
    def lowest(self) -> int:
        """The lowest level that any module logs."""
        return min([self._default, *self._numbers.values()])

    def __call__(self, _: WrappedLogger, method: str, event: EventDict) -> EventDict:
        name = cast(str, event.get("module", ""))
        threshold = self._known.get(name)
        if threshold is None:
            threshold = self._known[name] = self.threshold(name)
        if logging.getLevelNamesMapping().get(event["level"].upper(), 0) < threshold:
            raise structlog.DropEvent
        return event

    def threshold(self, name: str) -> int:
        """The level number from which the module's lines are written."""
        while name:
            if name in self._numbers:
                return self._numbers[name]
            name = name.rpartition(".")[0]
        return self._default


def _dump(event: Any, **_: Any) -> str:
    return to_json(event, fallback=str, inf_nan_mode="strings").decode()


@dataclass(slots=True)
class _State:
    """The configuration in force, for loggers that bypass structlog."""

    stream: TextIO | None = None
    console: bool = True
    process: str | None = None
    levels: _LevelFilter | None = None


_state = _State()


def configure_logging(
    *, level: str = "INFO", levels: Mapping[str, str] | None = None, form: str = "auto", stream: TextIO | None = None,
    process: str | None = None,
) -> None:  # fmt: skip
    """Set up structlog and the standard logging module for this process.

    `levels` maps module prefixes to levels; `form` is `auto`, `json` or `console`; `process` is named in every line.
    """
    stream = stream or sys.stderr
    console = form == "console" or (form == "auto" and stream.isatty())
    level_filter = _LevelFilter(level, {**_TALKATIVE, **(levels or {})})
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        level_filter,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact_event,
    ]
    if process is not None:
        shared.insert(2, _Constant("process", process))
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty()) if console else structlog.processors.JSONRenderer(_dump)
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level_filter.lowest),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    _state.stream, _state.console, _state.process, _state.levels = stream, console, process, level_filter
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_name_of_record, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _redact_event, renderer],
        )
    )
    handler.addFilter(_StandardFilter(level_filter))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level_filter.lowest)


class FastLog:
    """Writes lines of one event and module at a tenth of the usual cost, for the one line that every call writes.

    It skips redaction: the fields must be the server's own words and ids; pass what a caller chose through
    `redact_text` first. Level and format follow the configuration at the time of construction.
    """

    def __init__(self, module: str, event: str, level: str = "INFO") -> None:
        self._log = get_logger(module)
        self._event = event
        number = logging.getLevelNamesMapping()[level]
        self._number = number
        self._head = {"event": event, "module": module, "level": level.lower()}
        if _state.process is not None:
            self._head["process"] = _state.process
        self._write = None if _state.console or _state.stream is None else _state.stream.write
        self.enabled = _state.levels is None or number >= _state.levels.threshold(module)

    def write(self, fields: dict[str, Any]) -> None:
        """One line, unless its level is switched off."""
        if not self.enabled:
            return
        if self._write is None:
            self._log.log(self._number, self._event, **fields)
            return
        now = datetime.now(UTC).isoformat()
        self._write(_dump({**self._head, "timestamp": now, **fields}) + "\n")


class _Constant:
    """Adds one name and value to every line."""

    def __init__(self, name: str, value: str) -> None:
        self._name, self._value = name, value

    def __call__(self, _: WrappedLogger, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event[self._name] = self._value
        return event


def _name_of_record(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    event["module"] = event["_record"].name
    return event


class _StandardFilter(logging.Filter):
    """The module levels for records of the standard module, which must not raise DropEvent in a handler."""

    def __init__(self, levels: _LevelFilter) -> None:
        super().__init__()
        self._levels = levels

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            self._levels(None, "", {"module": record.name, "level": record.levelname})
        except structlog.DropEvent:
            return False
        return True


def get_logger(name: str) -> FilteringBoundLogger:
    """A structured logger for a module: `log.info("what happened", invoice_id=…)`."""
    return cast(FilteringBoundLogger, structlog.get_logger(module=name))


def default_logging() -> None:
    """The state before `configure_logging`: plain redacted text on standard error, the standard module left alone.

    Structlog's own default would print the local variables of every traceback.
    """
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _redact_event,
            structlog.dev.ConsoleRenderer(colors=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    _state.stream, _state.console, _state.process, _state.levels = None, True, None, None


if not structlog.is_configured():
    default_logging()
