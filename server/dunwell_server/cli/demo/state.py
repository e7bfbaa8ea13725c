"""What the demonstration remembers between two starts: its firms and their keys, in files that only their owner can read."""

from __future__ import annotations

import json
import os
import secrets
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path

FILE = "demo.json"
ENVIRONMENT = "demo.env"


@dataclass(slots=True)
class DemoFirm:
    """One demonstration firm and a key of role FIRM_ADMIN for it."""

    firm_id: str
    name: str
    key: str


@dataclass(slots=True)
class DemoState:
    """`complete` says that everything was set up, billed and collected once."""

    address: str = ""
    complete: bool = False
    firms: dict[str, DemoFirm] = field(default_factory=dict)


def load(data_dir: Path) -> DemoState:
    """What is remembered; nothing where there is no file, or one that cannot be read as ours."""
    try:
        data = json.loads((data_dir / FILE).read_text(encoding="utf-8"))
        firms = {name: DemoFirm(**firm) for name, firm in data["firms"].items()}
        return DemoState(data["address"], data["complete"], firms)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return DemoState()


def save(data_dir: Path, state: DemoState, variables: dict[str, str]) -> None:
    """Write both files anew: the JSON for programs, `demo.env` for shells (`source .dunwell/demo.env`)."""
    _write(data_dir / FILE, json.dumps(asdict(state), indent=2, ensure_ascii=False) + "\n")
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    _write(data_dir / ENVIRONMENT, "\n".join(lines) + "\n")


def forget(data_dir: Path) -> None:
    """Delete both files."""
    for name in (FILE, ENVIRONMENT):
        (data_dir / name).unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)
