"""Clients of the daemon that do not read, speak nonsense, or die in the middle of a call."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from actors.runtime.unix_sockets import dial
from agentiso.client.tools import META
from agentiso.protocol.places import SOCKET
from tests.faults.helpers import LIMIT_S, CommandLine, files, processes, qemu_pid

pytestmark = pytest.mark.faults


def request(number: int, tool: str, **arguments: Any) -> bytes:
    params = {"name": tool, "arguments": arguments, "_meta": META}
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}).encode() + b"\n"


async def test_a_client_that_stops_reading_harms_no_other(cli: CommandLine) -> None:
    with trio.fail_after(LIMIT_S):
        await cli.json("create", "shared")
        daemon = cli.daemon_pid()
        loud = {"command": "head -c 200000 /dev/zero | tr '\\0' x", "max_output_bytes": 262144}
        async with await dial(cli.state_dir / SOCKET) as deaf:
            for number in range(10):
                await deaf.send_all(request(number, "exec", workspace_id="shared", **loud))
            await deaf.receive_some(1)
            for _ in range(3):
                shown = await cli.json("exec", "shared", "--", "echo heard")
                assert shown["stdout"] == "heard\n"
            assert len(await cli.json("list")) == 1
        assert (await cli.json("exec", "shared", "--", "echo heard"))["stdout"] == "heard\n"
        assert cli.daemon_pid() == daemon


async def test_a_client_that_speaks_nonsense_harms_no_other(cli: CommandLine) -> None:
    with trio.fail_after(LIMIT_S):
        await cli.json("list")
        daemon = cli.daemon_pid()
        nonsense = (b"\0\xff\n", b"{}\n", b"[[[[\n", b'{"jsonrpc":"2.0","id":1,"method":7}\n', b"half a line")
        for content in nonsense:
            async with await dial(cli.state_dir / SOCKET) as stream:
                await stream.send_all(content)
        assert await cli.json("list") == []
        assert cli.daemon_pid() == daemon


@pytest.mark.parametrize("tool", ["workspace_create", "workspace_fork", "exec"])
async def test_a_client_that_dies_in_the_middle_of_a_call_leaves_nothing_half_made(cli: CommandLine, tool: str) -> None:
    with trio.fail_after(LIMIT_S):
        await cli.json("create", "shared")
        daemon = cli.daemon_pid()
        calls: dict[str, dict[str, Any]] = {
            "workspace_create": {"name": "widow"},
            "workspace_fork": {"workspace_id": "shared", "count": 2},
            "exec": {"workspace_id": "shared", "command": "sleep 1000", "timeout_secs": 5},
        }
        before = files(cli.state_dir)
        async with await dial(cli.state_dir / SOCKET) as stream:
            await stream.send_all(request(1, tool, **calls[tool]))
            if tool == "exec":
                while b"sleep 1000" not in (await cli.run("exec", "shared", "--", "cat /proc/*/cmdline")).stdout:
                    pass
            else:
                while files(cli.state_dir) == before:
                    await trio.sleep(0.01)
        # It is finished or undone; in the meantime others are served.
        while True:
            infos = await cli.json("list")
            pids = {qemu_pid(cli.state_dir, info["name"]) for info in infos if info["state"] == "running"}
            whole = len(pids) == len(infos) and {path.name for path in cli.state_dir.glob("workspaces/[!.]*")} == {
                info["workspace_id"][:8] for info in infos
            }
            if whole and processes(cli.state_dir) - {daemon} == pids:
                break
        assert (await cli.json("exec", "shared", "--", "echo heard"))["stdout"] == "heard\n"
        assert cli.daemon_pid() == daemon
