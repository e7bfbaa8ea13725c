"""Logs: one JSON object a line, levels per module, and nothing secret in them, whichever way it comes."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from dunwell_server.platform.logging import FastLog, configure_logging, default_logging, get_logger, redact, redact_text

CANARIES = (
    "dw_live_01h455vb4pex5vsknk084sn02q_abcdefghijklmnopqrstuvwxyz",
    "sk_live_51H8abcdefghijk",
    "whsec_abcdefghijk",
    "rzp_live_abcdefghijk",
    "Bearer abcdefghijklmnop",
    "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhZGEifQ.c2ln",
    "4242 4242 4242 4242",
)


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the log goes; the standard module's handlers come back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:], root.level = handlers, level
    default_logging()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """The lines, parsed."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("canary", CANARIES)
def test_canaries_never_reach_the_log(stream: io.StringIO, form: str, canary: str) -> None:
    configure_logging(form=form, stream=stream, level="DEBUG")
    log = get_logger("test")
    log.info(f"text {canary}", value=canary, nested={"list": [canary, {"deep": canary}]}, key=(canary,))
    logging.getLogger("library").warning("formatted %s", canary)
    try:
        raise ValueError(canary)
    except ValueError as error:
        log.error("failed", exc_info=error)
        logging.getLogger("library").exception("failed")
    assert stream.getvalue().count("[redacted]") >= 6
    assert canary not in stream.getvalue()
    assert canary[-10:] not in stream.getvalue()


def test_sensitive_names(stream: io.StringIO) -> None:
    configure_logging(form="json", stream=stream)
    values = {
        "password": "a",
        "api_key": "b",
        "Authorization": "c",
        "card_number": "d",
        "nested": {"client_secret": "e"},
    }
    get_logger("test").info("x", **values, key_id="key_1", count=3)
    (line,) = lines(stream)
    assert {line[name] for name in ("password", "api_key", "Authorization", "card_number")} == {"[redacted]"}
    assert line["nested"] == {"client_secret": "[redacted]"}
    assert (line["key_id"], line["count"]) == ("key_1", 3)


def test_a_database_url() -> None:
    assert redact_text("postgresql://user:pw@host/db?x=1") == "postgresql://[redacted]@host/db?x=1"
    assert redact_text("connection failed: user=x password=hunter2 host=y").count("hunter2") == 0
    assert redact([1, None, True, 1.5, "plain text, no secret"]) == [1, None, True, 1.5, "plain text, no secret"]


def test_levels_per_module(stream: io.StringIO) -> None:
    configure_logging(
        form="json", stream=stream, level="WARNING", levels={"a.b": "DEBUG", "a": "ERROR"}, process="jobs-1"
    )
    for name in ("a", "a.b", "a.b.c", "a.bc", "other"):
        for level in ("debug", "info", "warning", "error"):
            getattr(get_logger(name), level)("ours")
            getattr(logging.getLogger(name), level)("theirs")
    seen: dict[str, list[str]] = {}
    for line in lines(stream):
        seen.setdefault(line["module"], []).append(line["level"])
        assert line["process"] == "jobs-1"
    everything = ["debug"] * 2 + ["info"] * 2 + ["warning"] * 2 + ["error"] * 2
    assert seen == {
        "a": ["error"] * 2, "a.b": everything, "a.b.c": everything, "a.bc": ["error"] * 2,
        "other": ["warning"] * 2 + ["error"] * 2,
    }  # fmt: skip


@pytest.mark.parametrize("form", ["json", "console"])
def test_the_fast_way(stream: io.StringIO, form: str) -> None:
    configure_logging(form=form, stream=stream, levels={"quiet": "WARNING"}, process="rpc-0")
    FastLog("loud", "call").write({"method": "A.B", "ms": 1.5})
    FastLog("quiet", "call").write({"method": "A.C", "ms": 1.5})
    assert "A.B" in stream.getvalue()
    assert "A.C" not in stream.getvalue()
    if form == "json":
        (line,) = lines(stream)
        assert line.keys() == {"event", "module", "level", "process", "timestamp", "method", "ms"}
