"""`demo`: from an empty folder to a firm that was billed and collected, then warm."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from dunwell_server.cli.installation import free_port
from dunwell_server.platform.embedded import EmbeddedPostgres
from tests.integration.cli.command import Command, Result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder that only this module has."""
    path = tmp_path_factory.mktemp("demo")
    yield path
    EmbeddedPostgres(path).destroy()


def demo(folder: Path, *arguments: str) -> Result:
    ports = {"DUNWELL_PORT": str(free_port()), "DUNWELL_SANDBOX_PORT": str(free_port())}
    return Command(None, folder).from_nothing("demo", "--once", *arguments, timeout=220, **ports)


@pytest.fixture(scope="module")
def first(folder: Path) -> Result:
    """The first start."""
    return demo(folder)


@pytest.mark.slow
def test_the_first_start_shows_every_outcome(first: Result, folder: Path) -> None:
    assert first.code == 0, first.err + (folder / "demo.log").read_text(encoding="utf-8")[-3000:]
    for words in (
        "Harbour & Vale Advisory", "INR 1,50,000.00", "JPY 960,000", "EUR 7,000.00", "insufficient funds", "expired card",
        "card declined", "outcome unknown", "client must confirm", "bank is slow", "paid", "failed", "retry 20", "dw_test_",
    ):  # fmt: skip
        assert words in first.out, words
    assert "Traceback" not in first.err


@pytest.mark.slow
def test_its_keys_are_for_its_owner_only(first: Result, folder: Path) -> None:
    state = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    assert state["complete"] is True
    assert {firm["key"] in first.out for firm in state["firms"].values()} == {True}
    for name in ("demo.json", "demo.env", "admin-key", "secret_key", "demo.log"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600, name
    assert "DUNWELL_KEY=dw_test_" in (folder / "demo.env").read_text(encoding="utf-8")
    assert not EmbeddedPostgres(folder).is_running()


@pytest.mark.slow
def test_the_books_hold(first: Result, folder: Path) -> None:
    result = Command(None, folder)("verify", "--json", DUNWELL_SANDBOX_PORT=str(free_port()))
    failed = [check for check in result.json["checks"] if not check["ok"]]
    assert [check["name"] for check in failed if check["name"] != "audit_sealed"] == []


@pytest.mark.slow
def test_the_second_start_finds_everything(first: Result, folder: Path) -> None:
    again = demo(folder)
    assert again.code == 0, again.err
    assert "the demonstration's data from before is there" in again.out
    assert "The package run" not in again.out
    assert "dw_test_" not in again.out
    first_table, second_table = (text[text.index("how it stands") :] for text in (first.out, again.out))
    assert first_table.splitlines()[2:12] == second_table.splitlines()[2:12]


def test_it_is_not_for_production_and_not_for_other_machines(tmp_path: Path) -> None:
    dunwell = Command(None, tmp_path)
    production = {
        "DUNWELL_ENVIRONMENT": "production", "DUNWELL_SECRET_KEY": "x" * 40, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
    }  # fmt: skip
    for settings, words in (
        (production, "not for production"),
        ({"DUNWELL_HOST": "0.0.0.0"}, "plaintext on loopback"),
        ({"ENABLE_SANDBOX": "false"}, "needs the sandbox gateway"),
    ):
        result = dunwell("demo", "--once", timeout=220, **settings)
        assert result.code == 2
        assert words in result.err
    reset = dunwell("demo", "--reset", DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert reset.code == 2
    assert "embedded database only" in reset.err
