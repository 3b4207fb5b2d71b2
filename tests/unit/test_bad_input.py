"""Every tool with all that is wrong for each of its arguments, over a connection, on a workspace that is stopped.

Whatever comes is refused or is harmless: there is never an internal error, a refusal is short and names a next step,
and the connection, the registry and the workspaces serve what comes next.
"""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any

import attrs
import pytest
import trio

from actors.model import record as records
from actors.model.info import Lifetime
from actors.model.settings import Limits, Settings
from actors.model.states import State
from agentiso.mcp.calls import ERROR_META
from agentiso.mcp.tools import TOOLS, Tool
from tests.standins import IMAGE, Wire, open_stopped, wired

LIMIT_S = 60
MAX_REFUSAL_CHARS = 3000
"""An argument's faults, each with a piece of its value, or the names of all tools."""
LONG = "x" * 10_000
ALMOST_LONG = "x" * 4000
"""What a schema lets pass, and no error should repeat whole."""
MAX_ANSWER_BYTES = 50_000
HOSTILE = (
    "", "\0", "a\nb", "..", "../../etc/passwd", "/../..", "-rf", "--upload-pack=id", "; id; $(id) `id` | id & id > x",
    "x; } add rule ip filter", "'\"\\", "%s%n{}", "\N{PILE OF POO}", "\ud800", ALMOST_LONG, LONG,
)  # fmt: skip
OF_ANY_TYPE: tuple[Any, ...] = (None, True, "x", 7, 2.5, [], [[]], {}, {"x": {}})
OF_TYPE: dict[Any, tuple[Any, ...]] = {
    str: HOSTILE,
    int: (-1, 0, 2.0, 1e30, 10**30, -(10**30), 2**63, math.nan, math.inf, -math.inf),
    float: (-1.0, 0.0, 1e300, 10**400, math.nan, math.inf, -math.inf),
    bool: (),
    list: (*([value] for value in HOSTILE), [LONG] * 21, [2.0], [10**30], [math.nan], list(range(2000))),
    dict: (*({value: "x"} for value in HOSTILE), *({"X": value} for value in (*HOSTILE, None, 7))),
}
VALID: dict[str, Any] = {
    "workspace_id": "mine", "workspace_ids": ["mine"], "command": "true", "commands": "true", "vars": {"A": "b"},
    "job_id": "0", "path": "/root/x", "content": "x", "old_string": "x", "new_string": "y", "pattern": "x",
    "host_path": "/nowhere/x", "guest_path": "/root/x", "name": "name", "snapshot_name": "name", "base": "name",
    "guest_port": 80, "count": 1, "image": "base", "url": "https://example.com/x.git", "message": "x",
}  # fmt: skip
"""Of each argument that some tool requires."""


def kinds(hint: Any) -> Iterator[Any]:
    """Yield the plain types that an argument may have."""
    origin = typing.get_origin(hint)
    if origin in (list, dict):
        yield origin
    elif origin is None:
        yield hint
    else:
        for part in typing.get_args(hint):
            yield from kinds(part)


def wrong(tool: Tool) -> Iterator[dict[str, Any]]:
    """Yield arguments that are right but for one, or that are one too many or too few."""
    fields = attrs.fields(tool.arguments)
    right = {field.name: VALID[field.name] for field in fields if field.default is attrs.NOTHING}
    if tool.name == "workspace_destroy":
        # What is harmless would be done.
        right["workspace_id"] = "nobody"
    hints = typing.get_type_hints(tool.arguments)
    for field in fields:
        for kind in kinds(hints[field.name]):
            for value in () if kind is NoneType else (*OF_TYPE[kind], *OF_ANY_TYPE):
                yield {**right, field.name: value}
    for name in ("no_such_argument", "\0", "\ud800", LONG):
        yield {**right, name: 1}
    yield {}


async def refusal(wire: Wire, tool: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
    """Make a call and return its error, if it has one."""
    answer = await wire.ask("tools/call", name=tool, arguments=arguments)
    assert len(json.dumps(answer)) < MAX_ANSWER_BYTES, tool
    if "error" in answer:
        # Of a message that is none.
        return {"code": "not_a_message", "message": answer["error"]["message"], "remedy": "as said"}
    result = answer["result"]
    return result["_meta"][ERROR_META] if result.get("isError") else None


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
async def test_bad_input_is_refused_with_a_next_step_and_harms_nothing(tmp_path: Path, tool: Tool) -> None:
    # No machine is ever started: the host has no memory for one.
    settings = Settings(state_dir=tmp_path, limits=Limits(memory_reserve_mb=10**9))
    seen: set[str] = set()
    with trio.fail_after(LIMIT_S):
        async with open_stopped(settings, {"mine": "cli"}) as system, wired(system) as wire:
            for arguments in wrong(tool):
                error = await refusal(wire, tool.name, arguments)
                if error is None:
                    continue
                about = f"{tool.name} {str(arguments)[:300]}: {error}"
                assert error["code"] not in ("internal_error", "gone", "deadline_exceeded"), about
                assert error["message"].strip(), about
                assert error["remedy"].strip(), about
                assert len(error["message"]) + len(error["remedy"]) < MAX_REFUSAL_CHARS, about
                seen.add(error["code"])
            assert {"invalid_argument", "not_a_message"} <= seen
            assert await refusal(wire, "workspace_info", {"workspace_id": "mine"}) is None


def test_the_table_has_a_value_for_each_argument_that_is_required() -> None:
    required = {f.name for tool in TOOLS for f in attrs.fields(tool.arguments) if f.default is attrs.NOTHING}
    assert required == set(VALID)


async def test_an_id_that_is_ambiguous_is_refused_with_those_it_could_mean(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    for number in range(2):
        record = records.new_record(
            name=f"twin-{number}", image=IMAGE, shape=settings.shape, network="none", allow_internet=False,
            channel="serial", accelerator="tcg", lifetime=Lifetime(), owner="cli",
        )  # fmt: skip
        twin = attrs.evolve(record, id=f"aaaa000{number}-0000-4000-8000-000000000000", state=State.STOPPED)
        records.directory_of(tmp_path, twin.id).mkdir(parents=True)
        records.save(tmp_path, twin)
    with trio.fail_after(LIMIT_S):
        async with open_stopped(settings, {}) as system, wired(system) as wire:
            error = await refusal(wire, "workspace_info", {"workspace_id": "aaaa000"})
            assert error is not None
            assert "The ids of 2 begin like that: twin-0 (aaaa0000-" in error["message"]
            assert "twin-1 (aaaa0001-" in error["message"]
            assert "at least 8 digits" in error["remedy"]
            assert await refusal(wire, "workspace_info", {"workspace_id": twin.id[:8]}) is None
