"""Backends are asked for what they can do; nothing outside their rooms compares a kind's name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import actors
import agentiso
from actors.machine.choice import Choice
from actors.machine.network.choice import networks
from actors.model import backends
from actors.model.errors import HostUnfit, InvalidArgument

NAMES = {*backends.NETWORKS, *backends.CHANNELS, *backends.ACCELERATORS}
HOUSES = [Path(house.__file__ or "").parent for house in (actors, agentiso)]


def compared(tree: ast.AST) -> Iterator[ast.Constant]:
    """Yield the constants that something is compared with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.match_case):
            yield from (part for part in ast.walk(node) if isinstance(part, ast.Constant))


@pytest.mark.parametrize("house", HOUSES, ids=lambda house: house.name)
def test_no_name_of_a_backend_is_compared_anywhere(house: Path) -> None:
    found = [
        f"{path.relative_to(house.parent)}:{constant.lineno}"
        for path in house.rglob("*.py")
        for constant in compared(ast.parse(path.read_text()))
        if constant.value in NAMES
    ]
    assert found == []


def test_a_name_that_this_version_does_not_know_is_refused_with_those_that_it_knows() -> None:
    with pytest.raises(HostUnfit, match="no network 'tap'; it has user, none"):
        networks().named("tap")
    with pytest.raises(InvalidArgument) as caught:
        networks().check("tap")
    assert "user, none" in caught.value.remedy
    assert networks().get("tap") is None


def test_the_order_of_a_choice_is_that_in_which_it_was_made() -> None:
    made = Choice("network", *networks())
    assert made.names == tuple(network.name for network in made) == backends.NETWORKS
