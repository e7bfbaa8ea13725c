"""Every failure is one line with the right exit code, and tells no secret."""

from __future__ import annotations

import psycopg
import pytest
import typer

from dunwell_server.cli.problems import FAILED, USAGE, CommandError, describe, finish, load_settings
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform.migrate import MigrationError
from dunwell_server.rpc.startup import StartupError


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (
            DunwellError(Reason.INVALID_ID, "must be an id", field="--firm-id"),
            USAGE,
            "--firm-id: must be an id (INVALID_ID)",
        ),
        (DunwellError(Reason.RESOURCE_NOT_FOUND, "There is no such firm."), USAGE, "RESOURCE_NOT_FOUND"),
        (DunwellError(Reason.DATABASE_UNAVAILABLE, "The database does not answer."), FAILED, "does not answer"),
        (CommandError("do it otherwise", USAGE), USAGE, "do it otherwise"),
        (MigrationError("PostgreSQL 14 is too old"), FAILED, "too old"),
        (StartupError("run `dunwell migrate`"), USAGE, "dunwell migrate"),
        (psycopg.OperationalError("connection refused\nmore"), FAILED, "connection refused"),
        (FileNotFoundError(2, "No such file or directory", "cert.pem"), FAILED, "cert.pem: No such file or directory"),
        (ZeroDivisionError("division by zero"), FAILED, "unexpected ZeroDivisionError: division by zero"),
    ],
)
def test_an_error_is_one_line_with_its_exit_code(error: Exception, code: int, words: str) -> None:
    text, found = describe(error)
    assert found == code
    assert words in text
    assert "\n" not in text


def test_a_failure_is_printed_without_traceback_and_without_passwords(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise psycopg.OperationalError('connection to "postgresql://owner:hunter2secret@db/x" failed')

    with pytest.raises(typer.Exit) as caught:
        finish(work)
    captured = capsys.readouterr()
    assert caught.value.exit_code == FAILED
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert "hunter2secret" not in captured.err


def test_the_exit_code_of_the_work_is_passed_on() -> None:
    for code in (0, 1):
        with pytest.raises(typer.Exit) as caught:
            finish(lambda code=code: code)  # type: ignore[misc]
        assert caught.value.exit_code == code


def test_wrong_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUNWELL_PORT", "many")
    monkeypatch.setenv("DUNWELL_SECRET_KEY", "short-secret")
    with pytest.raises(CommandError) as caught:
        load_settings()
    assert caught.value.code == USAGE
    assert "DUNWELL_PORT" in str(caught.value)
    assert "DUNWELL_SECRET_KEY: needs at least 32 characters" in str(caught.value)
    assert "short-secret" not in str(caught.value)


def test_options_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUNWELL_WORKERS", "3")
    assert load_settings(workers=None).workers == 3
    assert load_settings(workers=5).workers == 5
