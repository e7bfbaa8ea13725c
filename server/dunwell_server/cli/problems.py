"""What goes wrong, as one clear line and an exit code: 1 for what failed, 2 for how the command was called or configured.

Every command loads this module, the sidecar too, which must load nothing that reaches a database: so it loads little.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

import typer
from pydantic import ValidationError

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform.logging import configure_logging, redact_text
from dunwell_server.sidecar_config import SidecarSettings

if TYPE_CHECKING:
    from dunwell_server.config import Settings

FAILED: Final = 1
USAGE: Final = 2

_CALLERS_FAULT: Final = frozenset(
    {
        Reason.FIELD_INVALID, Reason.INVALID_ID, Reason.RESOURCE_NOT_FOUND, Reason.FIRM_REQUIRED, Reason.FIRM_SUSPENDED,
        Reason.CLOCK_NOT_TEST, Reason.CLOCK_BACKWARDS, Reason.UNKNOWN_TIME_ZONE, Reason.UNKNOWN_CURRENCY, Reason.PERIOD_INVALID,
    }
)  # fmt: skip


_MALFUNCTIONS: Final = (
    ("dunwell_server.platform.embedded", "EmbeddedPostgresError"),
    ("dunwell_server.platform.migrate", "MigrationError"),
    ("dunwell_server.supervisor", "SupervisorError"),
)
_MISCONFIGURATIONS: Final = (
    ("dunwell_server.platform.keys", "SecretError"),
    ("dunwell_server.rpc.startup", "StartupError"),
    ("dunwell_server.webhooks.server", "SidecarError"),
)
"""Exceptions whose text is the line, by module and name."""


class CommandError(Exception):
    """A command cannot do what it was asked. The text is one line that says what to change; `code` is the exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def load_settings(**overrides: Any) -> Settings:
    """The settings of the environment, with the options of the command line over them.

    Raises CommandError naming every variable that is wrong.
    """
    from dunwell_server.config import Settings

    try:
        settings = Settings()
    except ValidationError as error:
        raise CommandError(_configuration(error), USAGE) from None
    given = {name: value for name, value in overrides.items() if value is not None}
    return settings.model_copy(update=given) if given else settings


def configure(settings: Settings, *, process: str) -> None:
    """Logging of a command that a person watches: errors only, unless the environment asks for more."""
    level = settings.log_level if "log_level" in settings.model_fields_set else "ERROR"
    configure_logging(level=level, levels=levels(settings), form=settings.log_format, process=process)


def levels(settings: SidecarSettings) -> dict[str, str]:
    """Log levels per module: those configured, and quiet for libraries that tell of every request."""
    return {"httpx": "WARNING", "alembic": "WARNING", "apscheduler": "WARNING", **settings.log_levels}


def run_async(work: Callable[[], Coroutine[Any, Any, int]]) -> None:
    """Run a command's coroutine and exit with the code it returns; every failure becomes one line."""
    finish(lambda: asyncio.run(work()))


def finish(work: Callable[[], int]) -> None:
    """Run a command's body and exit with the code it returns; every failure becomes one line."""
    try:
        code = work()
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = 130
    except BrokenPipeError:
        # Whoever read our output has gone; nothing more can be said, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    except typer.Exit:
        raise
    except Exception as error:
        text, code = describe(error)
        print(f"error: {redact_text(text)}", file=sys.stderr)
        if os.environ.get("DUNWELL_LOG_LEVEL", "").upper() == "DEBUG":
            print(redact_text("".join(traceback.format_exception(error))), file=sys.stderr)
    raise typer.Exit(code)


def describe(error: Exception) -> tuple[str, int]:
    """One line about an exception, and the exit code it calls for."""
    if isinstance(error, CommandError):
        return str(error), error.code
    if isinstance(error, DunwellError):
        where = f"{error.field}: " if error.field and error.field not in error.message else ""
        return f"{where}{error.message} ({error.reason})", USAGE if error.reason in _CALLERS_FAULT else FAILED
    if isinstance(error, ValidationError):
        return _configuration(error), USAGE
    if _is_one_of(error, *_MALFUNCTIONS):
        return str(error), FAILED
    if _is_one_of(error, *_MISCONFIGURATIONS):
        return str(error), USAGE
    if _is_one_of(error, ("psycopg", "OperationalError")):
        return f"the database does not answer: {_first_line(error)}", FAILED
    if _is_one_of(error, ("psycopg", "Error")):
        return f"the database refuses: {_first_line(error)}", FAILED
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(filter(None, (str(error.filename or ""), error.strerror))), FAILED
    return (
        f"unexpected {type(error).__name__}: {_first_line(error)} (DUNWELL_LOG_LEVEL=DEBUG shows where it comes from)",
        FAILED,
    )


def _is_one_of(error: Exception, *kinds: tuple[str, str]) -> bool:
    """Whether the error is of one of these classes. What was never loaded cannot have been raised."""
    classes = (getattr(sys.modules.get(module), name, None) for module, name in kinds)
    return isinstance(error, tuple(filter(None, classes)))


def _configuration(error: ValidationError) -> str:
    parts = []
    for problem in error.errors(include_url=False, include_input=False):
        name = ".".join(str(part) for part in problem["loc"])
        text = str(problem["msg"]).removeprefix("Value error, ")
        parts.append(f"{name}: {text}" if name else text)
    return "; ".join(parts)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
