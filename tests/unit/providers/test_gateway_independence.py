"""The gateway is independent evidence: it imports nothing of the house."""

from __future__ import annotations

import ast
from pathlib import Path

import dunwell_server.sandbox

FOLDER = Path(dunwell_server.sandbox.__file__).parent


def test_the_gateway_imports_nothing_of_the_house() -> None:
    modules = sorted(FOLDER.rglob("*.py"))
    assert len(modules) > 5
    for module in modules:
        for node in ast.walk(ast.parse(module.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                inside = name.startswith("dunwell_server.sandbox")
                assert inside or not name.startswith(("dunwell", "tests")), f"{module.name} imports {name}"
