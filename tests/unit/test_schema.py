"""Schemas of classes, whole and as the list of tools has them, and strict values."""

from __future__ import annotations

import attrs
import jsonschema
import pytest

from actors.model.errors import InvalidArgument
from agentiso.mcp.schema import describe, listed_schema, outline, schema_for, structure
from agentiso.mcp.tools import TOOLS, Tool
from agentiso.mcp.tools.commands import ExecArguments
from agentiso.mcp.tools.lifecycle import LifetimeArguments
from agentiso.mcp.tools.network import PolicyArguments


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_every_tool_has_portable_schemas(tool: Tool) -> None:
    for cls in (tool.arguments, tool.result):
        for schema in (schema_for(cls), listed_schema(cls)):
            jsonschema.Draft202012Validator.check_schema(schema)


@attrs.frozen
class Part:
    size_mb: int
    kind: str = describe("file or dir")


@attrs.frozen
class Whole:
    first: Part | None = outline("The first")
    rest: list[Part] = outline()
    gone: list[Part] = outline("As rest", parts=False)
    count: int = describe("How many", 1, minimum=1)
    order: str | None = describe("By what", None, enum=["name", None])


def test_the_list_says_less_than_what_holds() -> None:
    listed = listed_schema(Whole)
    assert listed["properties"] == {
        "count": {"type": "integer", "description": "How many"},
        "order": {"type": "string", "description": "By what", "enum": ["name"]},
        "first": {"type": ["object", "null"], "description": "The first: size_mb, kind (file or dir)"},
        "rest": {"type": "array", "items": {"type": "object"}, "description": "size_mb, kind (file or dir)"},
        "gone": {"type": "array", "items": {"type": "object"}, "description": "As rest"},
    }
    assert (listed["required"], listed["additionalProperties"]) == (["first", "rest", "gone"], False)
    assert set(listed_schema(Whole, closed=False)) == {"type", "properties"}
    whole = schema_for(Whole)["properties"]
    assert whole["count"]["minimum"] == 1
    assert whole["order"]["enum"] == ["name", None]
    assert whole["rest"]["items"]["required"] == ["size_mb", "kind"]


def test_arguments_are_not_coerced_and_every_fault_is_named() -> None:
    with pytest.raises(InvalidArgument, match=r"workspace_id.*nonsense|nonsense.*workspace_id"):
        structure(ExecArguments, {"workspace_id": 7, "command": "true", "nonsense": 1})
    assert structure(ExecArguments, {"workspace_id": "a", "command": "true"}).max_output_bytes == 16384


def test_a_whole_number_may_be_spelled_with_a_point_and_nothing_else_becomes_one() -> None:
    for value in (1000.0, 1e3, 1000):
        exact = structure(ExecArguments, {"workspace_id": "a", "command": "true", "max_output_bytes": value})
        assert isinstance(exact.max_output_bytes, int)
    ports = structure(PolicyArguments, {"workspace_id": "a", "allowed_ports": [80.0, 81]}).allowed_ports
    assert [type(port) for port in ports] == [int, int]
    for wrong in (1000.5, "1000", True, 10.0**30, 10**30, float("nan"), float("inf"), [1000]):
        with pytest.raises(InvalidArgument, match="max_output_bytes"):
            structure(ExecArguments, {"workspace_id": "a", "command": "true", "max_output_bytes": wrong})
    for seconds in (10**400, 1e300, float("inf")):
        with pytest.raises(InvalidArgument, match="ttl_secs"):
            structure(LifetimeArguments, {"workspace_id": "a", "ttl_secs": seconds})
    for given in ({"timeout_secs": float("nan")}, {"command": "\udcff"}, {"env": {"A": "\ud800"}}):
        with pytest.raises(InvalidArgument, match="not finite, or a text has lone surrogates"):
            structure(ExecArguments, {"workspace_id": "a", "command": "true", **given})


def test_text_has_a_bound_and_a_fault_repeats_little_of_it() -> None:
    with pytest.raises(InvalidArgument, match=r"workspace_id: 'x+'\.\.\. \(50000 characters\) is too long") as caught:
        structure(ExecArguments, {"workspace_id": "x" * 50_000, "command": "y" * 50_000})
    assert len(str(caught.value)) < 400
    with pytest.raises(InvalidArgument) as caught:
        structure(ExecArguments, {f"{number}" * 5000: 1 for number in range(100)})
    assert len(str(caught.value)) < 4000
