"""What the library promises is what `agentiso.__all__` names, and the examples need no more."""

from __future__ import annotations

import ast
from pathlib import Path

import agentiso

EXAMPLES = sorted(Path(__file__).parents[2].glob("examples/*.py"))


def test_each_public_name_is_there_and_named_once() -> None:
    assert len(agentiso.__all__) == len(set(agentiso.__all__))
    assert all(hasattr(agentiso, name) for name in agentiso.__all__)


def test_the_examples_use_nothing_but_public_names() -> None:
    assert EXAMPLES
    for path in EXAMPLES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                assert not node.attr.startswith("_"), path
                if isinstance(node.value, ast.Name) and node.value.id == "agentiso":
                    assert node.attr in agentiso.__all__, path
            elif isinstance(node, ast.ImportFrom):
                assert node.module not in ("actors", "guest", "imagebuild"), path
