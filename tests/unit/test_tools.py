"""The list of tools as clients get it: schemas, hints, the two profiles and their size."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import trio
from mcp import Client as McpClient

import actors
import agentiso
import guest
import imagebuild
from actors.model.errors import AgentisoError
from actors.model.settings import Settings
from agentiso.access.gate import Gate
from agentiso.library.system import System
from agentiso.mcp.profiles import CORE, MAX_CORE, is_shown
from agentiso.mcp.schema import listed_schema, schema_for
from agentiso.mcp.server import make_server
from agentiso.mcp.tools import TOOLS
from agentiso.protocol.sessions import Client
from tests.standins import Caller, open_stopped

LIMIT_S = 30
BYTES_PER_TOKEN = 4
"""An estimate, as good as any without a vocabulary to download: compact JSON in English takes 3.5 to 4.5."""
MOST = {"full": 9000, "core": 3500}
"""Tokens of the whole list, results and hints included."""
GIVEN_TO_A_MODEL = ("name", "description", "inputSchema")
DRIFT = 0.1
"""By how much the documentation's figures may be off before somebody has to look."""
PAGE = Path(__file__).parents[2] / "docs" / "mcp.md"
SAY_ALL = frozenset(
    {
        "workspace_id", "job_id", "vcpus", "memory_mb", "disk_gb", "allow_internet", "env", "message", "content",
        "new_string", "replace_all", "ignore_case",
    }
)  # fmt: skip
"""Arguments whose names need no description."""
HOUSES = (actors, agentiso, guest, imagebuild)
HINTS = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    async with open_stopped(Settings(state_dir=tmp_path), {}) as opened:
        yield opened


async def listed(system: System, profile: str) -> list[dict[str, Any]]:
    """Return the tools as a client of a profile gets them."""
    server = make_server(system, Gate(system.settings), Client("ann", "memory", profile))
    with trio.fail_after(LIMIT_S):
        async with McpClient(server, raise_exceptions=True) as client:
            found = await client.list_tools()
    return [tool.model_dump(by_alias=True, exclude_none=True, mode="json") for tool in found.tools]


def undescribed(schema: dict[str, Any]) -> Iterator[str]:
    """Yield the fields of a schema that say nothing of themselves."""
    for name, field in schema.get("properties", {}).items():
        if not field.get("description"):
            yield name
        yield from undescribed(field)
        yield from undescribed(field.get("items", {}))


async def test_every_tool_describes_itself_its_arguments_and_its_result(system: System) -> None:
    tools = await listed(system, "full")
    assert [tool["name"] for tool in tools] == [tool.name for tool in TOOLS if not tool.hidden]
    for tool in tools:
        assert re.fullmatch(r"[a-z][a-z0-9_]{1,40}", tool["name"])
        assert 10 < len(tool["description"]) < 400
        for kind in ("inputSchema", "outputSchema"):
            jsonschema.Draft202012Validator.check_schema(tool[kind])
            assert tool[kind]["type"] == "object"
        assert set(undescribed(tool["inputSchema"])) <= SAY_ALL
        assert tool["inputSchema"]["additionalProperties"] is False


def names_in(schema: dict[str, Any]) -> Iterator[str]:
    """Yield the fields of a schema, and of what is in them."""
    for name, field in schema.get("properties", {}).items():
        yield name
        yield from names_in(field)
        yield from names_in(field.get("items", {}))


def test_what_the_list_does_not_say_of_results_is_in_the_documentation() -> None:
    documented = set(re.findall(r"`(\w+)`", PAGE.read_text()))
    for tool in TOOLS:
        if not tool.hidden:
            listed = listed_schema(tool.result, closed=False)
            unnamed = {name for name in names_in(schema_for(tool.result)) if name not in json.dumps(listed)}
            assert unnamed | set(undescribed(listed)) <= documented, tool.name


async def test_every_tool_has_all_four_hints_and_they_do_not_contradict_each_other(system: System) -> None:
    for tool in await listed(system, "full"):
        hints = tool["annotations"]
        assert set(HINTS) <= set(hints), tool["name"]
        if hints["readOnlyHint"]:
            assert hints["idempotentHint"], tool["name"]
            assert not hints["destructiveHint"], tool["name"]


async def test_a_client_of_the_core_profile_is_shown_a_few_tools_and_has_no_others(system: System) -> None:
    names = [tool["name"] for tool in await listed(system, "core")]
    assert set(names) == CORE & {tool.name for tool in TOOLS}
    assert len(names) <= len(CORE) <= MAX_CORE
    server = make_server(system, Gate(system.settings), Client("ann", "memory", "core"))
    with trio.fail_after(LIMIT_S):
        async with McpClient(server, raise_exceptions=True) as client:
            error = await Caller(client).refused("workspace_adopt_all")
    assert error["code"] == "unknown_tool"
    assert error["remedy"] == f"There are: {', '.join(names)}."


def tokens(value: Any) -> int:
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()) // BYTES_PER_TOKEN


@pytest.mark.parametrize("profile", ["full", "core"])
async def test_the_list_is_as_small_as_the_documentation_says(system: System, profile: str) -> None:
    tools = await listed(system, profile)
    given = sum(tokens({key: tool[key] for key in GIVEN_TO_A_MODEL}) for tool in tools)
    whole = sum(tokens(tool) for tool in tools)
    assert whole <= MOST[profile]
    said = re.search(rf"^\| {profile} \| (\d+) \| (\d+) \|$", PAGE.read_text(), re.MULTILINE)
    assert said is not None
    row = f"| {profile} | {round(given, -2)} | {round(whole, -2)} |"
    for measured, documented in zip((given, whole), said.groups(), strict=True):
        assert abs(measured - int(documented)) <= DRIFT * measured, f"write into {PAGE.name}: {row}"


def test_tools_of_the_command_line_are_its_own() -> None:
    for tool in TOOLS:
        assert is_shown(tool, Client("cli", "unix"))
        assert is_shown(tool, Client("ann", "unix")) is not tool.hidden


def failures() -> dict[str, type[AgentisoError]]:
    """Return all anticipated failures of the project, by their classes' names."""
    for package in HOUSES:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)

    def kinds(kind: type[AgentisoError]) -> Iterator[type[AgentisoError]]:
        for sub in kind.__subclasses__():
            yield sub
            yield from kinds(sub)

    return {kind.__name__: kind for kind in kinds(AgentisoError)}


def test_every_failure_says_what_to_do_next() -> None:
    kinds, silent = failures(), []
    sources = [path for house in HOUSES for path in sorted(Path(house.__path__[0]).rglob("*.py"))]
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds:
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                # What is made of another failure's fields has that one's, which has one.
                said = "remedy" in given and not (
                    isinstance(given["remedy"], ast.Constant) and not given["remedy"].value
                )
                if not (said or None in given or kinds[node.func.id].usual_remedy):
                    silent.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    assert len(sources) > 100
    assert not silent, "\n".join(silent)


def test_every_failure_has_a_code_of_its_own() -> None:
    codes: dict[str, type[AgentisoError]] = {}
    for kind in failures().values():
        # An error of the command line's own hands on the code that it was told.
        if "code" in vars(kind):
            assert re.fullmatch(r"[a-z][a-z_]+", kind.code)
            assert codes.setdefault(kind.code, kind) is kind
    assert {"not_owner", "quota_exceeded", "rate_limited", "not_found", "invalid_argument"} <= set(codes)
