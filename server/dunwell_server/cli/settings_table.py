"""`settings`: every variable, what it is here, and what it means. The README's table is made by the same function."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr
from rich.markup import escape

from dunwell_server.cli.output import Output, table
from dunwell_server.cli.problems import load_settings
from dunwell_server.config import Settings, describe_settings


def show(*, markdown: bool, as_json: bool) -> int:
    """Print the table."""
    if markdown:
        print(as_markdown())
        return 0
    settings, output = load_settings(), Output(as_json=as_json)
    names = {str(field.validation_alias): name for name, field in Settings.model_fields.items()}
    shown = {row.variable: _value(getattr(settings, names[row.variable])) for row in describe_settings()}
    output.result(
        {
            "command": "settings",
            "settings": [
                {
                    "variable": row.variable,
                    "value": shown[row.variable],
                    "default": row.default,
                    "description": row.description,
                }
                for row in describe_settings()
            ],
        }
    )
    rows = table("Variable", "Value", "Meaning")
    for row in describe_settings():
        value = escape(shown[row.variable])
        rows.add_row(
            row.variable,
            value if shown[row.variable] == row.default else f"[bold]{value}[/bold]",
            escape(row.description),
        )
    output.say(rows)
    return 0


def as_markdown() -> str:
    """The table of the README."""
    lines = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for row in describe_settings():
        default = f"`{row.default}`" if row.default else ""
        description = row.description.replace("|", "\\|")
        lines.append(f"| `{row.variable}` | {default} | {description}{' (secret)' if row.secret else ''} |")
    return "\n".join(lines)


def _value(value: Any) -> str:
    if value is None or value in ((), {}):
        return ""
    if isinstance(value, SecretStr) or (
        isinstance(value, tuple) and any(isinstance(part, SecretStr) for part in value)
    ):
        return "(set)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ",".join(f"{name}={part}" for name, part in value.items())
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
