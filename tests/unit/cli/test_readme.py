"""The README agrees with the program."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from dunwell_server.cli.app import app
from dunwell_server.cli.settings_table import as_markdown

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_configuration_table_is_the_programs() -> None:
    found = re.search(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", README, re.DOTALL)
    assert found is not None
    assert found.group(1).strip() == as_markdown(), (
        "put the output of `dunwell settings --markdown` between the markers"
    )


def test_every_command_that_is_not_hidden_is_in_the_readme() -> None:
    for command in app.registered_commands:
        name = command.name or (command.callback.__name__.replace("_", "-") if command.callback else "")
        if not command.hidden:
            assert f"dunwell {name}" in README, name


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", README))
    assert named
    assert named <= targets


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(((?!http|#)[^)#]+)", README))))
def test_links_lead_somewhere(path: str) -> None:
    assert (ROOT / path).exists()


def test_the_tour_names_rpcs_of_the_contract() -> None:
    contract = {
        f"dunwell.v1.{service}/{rpc}"
        for path in (ROOT / "protos/dunwell/v1").glob("*_service.proto")
        for service in re.findall(r"^service (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        for rpc in re.findall(r"^  rpc (\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    named = set(re.findall(r"dunwell\.v1\.\w+Service/\w+", README))
    assert len(named) >= 8
    assert named <= contract


def test_the_tours_commands_are_whole() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        shlex.split(block, comments=True)  # raises for a quote that does not close
