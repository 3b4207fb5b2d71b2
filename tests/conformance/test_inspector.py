"""The official Inspector's command line against `agentiso serve`, in both eras of the protocol."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from agentiso.mcp.tools import TOOLS
from tests.conformance.conftest import Inspect

LIMIT_S = 600
TOOL_FAILED = 5

both_eras = pytest.mark.parametrize("era", ["legacy", "modern"])


@both_eras
async def test_the_inspector_lists_the_tools_strictly_without_complaint(inspect: Inspect, era: str) -> None:
    with trio.fail_after(LIMIT_S):
        answer = await inspect("--method", "tools/list", "--strict", "--protocol-era", era)
    assert [tool["name"] for tool in answer["result"]["tools"]] == [tool.name for tool in TOOLS if not tool.hidden]


@both_eras
async def test_the_inspector_creates_runs_forks_and_destroys(inspect: Inspect, era: str) -> None:
    async def call(tool: str, *, status: int = 0, **arguments: Any) -> Any:
        given = ["--tool-name", tool, "--tool-args-json", json.dumps(arguments), "--protocol-era", era]
        answer = await inspect("--method", "tools/call", *given, status=status)
        return answer["result"]["structuredContent"] if status == 0 else answer

    with trio.fail_after(LIMIT_S):
        await call("workspace_create", name="inspected")
        await call("exec", workspace_id="inspected", command="echo kept > /dev/shm/file")
        fork = await call("workspace_fork", workspace_id="inspected")
        child = fork["workers"][0]["name"]
        assert (await call("exec", workspace_id=child, command="cat /dev/shm/file"))["stdout"] == "kept\n"
        await call("workspace_destroy", workspace_id=child)
        await call("workspace_destroy", workspace_id="inspected")
        refused = await call("workspace_info", workspace_id="inspected", status=TOOL_FAILED)
        assert "There is no workspace 'inspected'" in json.dumps(refused)
