"""Several agents on one machine: each finds its own workspaces again, and none touches another's."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from mcp import Client, StdioServerParameters, stdio_client

import agentiso
from agentiso.client.tools import META
from agentiso.library.opening import open_system
from tests.machines import ARGV
from tests.standins import Caller

pytestmark = pytest.mark.functional
LIMIT_S = 600


@asynccontextmanager
async def front(environment: dict[str, str], session: str, *arguments: str) -> AsyncIterator[Caller]:
    """Yield a client whose server is `agentiso serve` for a session."""
    parameters = StdioServerParameters(
        command=ARGV[0], args=[*ARGV[1:], "serve", "--session", session, *arguments], env=environment
    )
    async with Client(stdio_client(parameters)) as client:
        yield Caller(client)


async def test_two_sessions_share_a_daemon_and_not_their_workspaces(environment: dict[str, str]) -> None:
    with trio.fail_after(LIMIT_S):
        async with front(environment, "ann") as ann, front(environment, "bob") as bob:
            await ann("workspace_create", name="hers")
            await ann("exec", workspace_id="hers", command="echo 1 > /root/kept")
            for tool, more in (("exec", {"command": "true"}), ("workspace_fork", {}), ("workspace_destroy", {})):
                assert (await bob.refused(tool, workspace_id="hers", **more))["code"] == "not_owner"
            assert (await bob.refused("workspace_adopt", workspace_id="hers"))["code"] == "owner_busy"
            child = (await ann("workspace_fork", workspace_id="hers"))["workers"][0]["name"]
            await bob("workspace_adopt", workspace_id=child, force=True)
            shown = await bob("exec", workspace_id=child, command="cat /root/kept")
            assert shown["stdout"] == "1\n"
            assert (await ann.refused("exec", workspace_id=child, command="true"))["code"] == "not_owner"
            owners = {ws["name"]: (ws["owner"], ws["owned"]) for ws in (await ann("workspace_list"))["workspaces"]}
            assert owners == {"hers": ("ann", True), child: ("bob", False)}
            await ann("workspace_destroy", workspace_id="hers")
            await bob("workspace_destroy", workspace_id=child, force=True)
        log = await trio.run_process([*ARGV, "audit", "-n", "2", "--json"], env=environment, capture_stdout=True)
        lines = [(line["session"], line["tool"], line["workspace"], line["outcome"]) for line in json.loads(log.stdout)]
        assert lines == [("ann", "workspace_destroy", "hers", "ok"), ("bob", "workspace_destroy", child, "ok")]


async def test_a_client_that_was_killed_finds_its_workspace_again(environment: dict[str, str]) -> None:
    with trio.fail_after(LIMIT_S):
        process = await trio.lowlevel.open_process(
            [*ARGV, "serve", "--session", "ann"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        assert process.stdin is not None
        assert process.stdout is not None
        params: dict[str, Any] = {"name": "workspace_create", "arguments": {"name": "kept"}, "_meta": META}
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        async with process.stdin as stdin, process.stdout as stdout:
            await stdin.send_all(json.dumps(request).encode() + b"\n")
            assert b'"workspace_id"' in await stdout.receive_some()
            process.send_signal(signal.SIGKILL)
            await process.wait()
        await trio.run_process([*ARGV, "daemon", "stop"], env=environment, capture_stdout=True)
        lock = Path(environment["AGENTISO_STATE_DIR"]) / "lock"
        while lock.read_text():
            await trio.sleep(0.02)
        async with front(environment, "ann") as ann:
            assert [ws["owned"] for ws in (await ann("workspace_list"))["workspaces"]] == [True]
            await ann("exec", workspace_id="kept", command="true")
            await ann("workspace_destroy", workspace_id="kept")


async def test_a_quota_holds_for_creations_and_forks_together(images_dir: Path, template_state: Path) -> None:
    settings = agentiso.Settings(state_dir=template_state, images_dir=images_dir)
    settings = attrs.evolve(settings, quotas=attrs.evolve(settings.quotas, workspaces=3))
    with trio.fail_after(LIMIT_S):
        async with open_system(settings) as system:
            first = await system.create("first", owner="ann")
            outcomes: list[str] = []

            async def attempt(count: int) -> None:
                try:
                    await first.fork(count, owner="ann")
                    outcomes.append("forked")
                except agentiso.AgentisoError as error:
                    outcomes.append(error.code)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(attempt, 2)
                nursery.start_soon(attempt, 2)
            assert sorted(outcomes) == ["forked", "quota_exceeded"]
            with pytest.raises(agentiso.AgentisoError, match="it has 3 and asked for 1 more"):
                await system.create(owner="ann")
            await (await system.get("first-fork-1")).destroy()
            await system.create("again", owner="ann")
            assert {info.owner for info in await system.list()} == {"ann"}
