"""`agentiso serve` under a real client while supervisors come and go: real processes, without any machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
import trio
from mcp import Client, StdioServerParameters, stdio_client

from actors.model.settings import Settings
from agentiso.client import stopping
from agentiso.client.dialling import is_running
from agentiso.client.tools import META
from agentiso.mcp.uris import ROOT
from agentiso.protocol.places import SOCKET
from tests.machines import ARGV

LIMIT_S = 120
MODES = pytest.mark.parametrize("mode", ["auto", "legacy"])


class Served:
    """A state directory, and the environment of what uses it."""

    def __init__(self, state_dir: Path) -> None:
        self.settings = Settings(state_dir=state_dir)
        self.environment = {**os.environ, "AGENTISO_STATE_DIR": str(state_dir)}
        self.parameters = StdioServerParameters(command=ARGV[0], args=[*ARGV[1:], "serve"], env=self.environment)

    def pid(self) -> int:
        return int((self.settings.state_dir / "lock").read_text())

    async def kill_supervisor(self) -> int:
        """Kill -9 the supervisor, wait for its end and return its pid."""
        pid = self.pid()
        fd = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            await trio.lowlevel.wait_readable(fd)
        finally:
            os.close(fd)
        return pid

    async def next_pid(self, before: int) -> int:
        """Wait for the next supervisor."""
        while True:
            try:
                if (pid := self.pid()) != before and is_running(self.settings):
                    return pid
            except (OSError, ValueError):
                pass
            await trio.sleep(0.02)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    made = Served(tmp_path)
    yield made
    with trio.fail_after(LIMIT_S):
        await stopping.stop(made.settings, report=print)


@MODES
async def test_a_clients_tools_outlive_a_supervisor_that_is_killed(served: Served, mode: str) -> None:
    with trio.fail_after(LIMIT_S):
        async with Client(stdio_client(served.parameters), mode=mode) as client:
            tools = await client.list_tools()
            for _ in range(2):
                killed = await served.kill_supervisor()
                # Without being asked: machines are looked after again.
                await served.next_pid(killed)
                result = await client.call_tool("workspace_list", {})
                assert result.structured_content is not None
                assert result.structured_content["workspaces"] == []
            assert await client.list_tools() == tools


@MODES
async def test_a_supervisor_that_was_stopped_is_started_by_the_next_request_and_not_before(
    served: Served, mode: str
) -> None:
    with trio.fail_after(LIMIT_S):
        async with Client(stdio_client(served.parameters), mode=mode) as client:
            assert not (await client.call_tool("workspace_list", {})).is_error
            assert await stopping.stop(served.settings, report=print)
            # The client's end has been noticed by then: the lock was given back after the connection.
            with trio.move_on_after(3):
                await served.next_pid(0)
                raise AssertionError("nobody needs a supervisor")
            assert not (await client.call_tool("workspace_list", {})).is_error


@pytest.mark.filterwarnings("ignore:resources/:mcp.shared.exceptions.MCPDeprecationWarning")
@MODES
async def test_a_client_is_told_of_changes_after_its_supervisor_was_killed(served: Served, mode: str) -> None:
    sending, receiving = trio.open_memory_channel[str](100)

    async def take(message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            sending.send_nowait(str(message.params.uri))

    with trio.fail_after(LIMIT_S):
        async with Client(stdio_client(served.parameters), mode=mode, message_handler=take) as client:
            if mode == "legacy":
                await client.subscribe_resource(ROOT)
                await served.kill_supervisor()
                assert await receiving.receive() == ROOT
            else:
                async with client.listen(resource_subscriptions=[ROOT]) as stream:
                    await served.kill_supervisor()
                    event = await anext(aiter(stream))
                    assert str(event.uri) == ROOT  # type: ignore[union-attr]


class Front:
    """`agentiso serve` with pipes, which a client in lines has."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.stdin, self.stdout, self.stderr = process.stdin, process.stdout, process.stderr
        self._said = bytearray()

    async def ask(self, number: int) -> None:
        params = {"name": "workspace_list", "arguments": {}, "_meta": META}
        request = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
        await self.stdin.send_all(json.dumps(request).encode() + b"\n")

    async def answer(self) -> dict[str, Any]:
        while b"\n" not in self._said:
            data = await self.stdout.receive_some()
            assert data, "it has ended"
            self._said += data
        line, _, self._said = self._said.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found


@asynccontextmanager
async def front(served: Served) -> AsyncIterator[Front]:
    """Yield a front that has answered once."""
    process = await trio.lowlevel.open_process(
        [*ARGV, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=served.environment
    )
    opened = Front(process)
    async with opened.stdin, opened.stdout, opened.stderr:
        try:
            await opened.ask(1)
            assert (await opened.answer())["id"] == 1
            yield opened
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def test_requests_that_come_while_there_is_no_supervisor_wait_for_the_next_one(served: Served) -> None:
    with trio.fail_after(LIMIT_S):
        async with front(served) as client:
            await stopping.stop(served.settings, report=print)
            for number in (2, 3):
                await client.ask(number)
            answers = [await client.answer() for _ in range(2)]
            assert sorted(answer["id"] for answer in answers) == [2, 3]
            assert [answer for answer in answers if answer["result"].get("isError")] == []


@pytest.mark.parametrize("stopped", [False, True])
async def test_the_end_of_input_ends_it_whether_there_is_a_supervisor_or_not(served: Served, stopped: bool) -> None:
    with trio.fail_after(LIMIT_S):
        async with front(served) as client:
            if stopped:
                await stopping.stop(served.settings, report=print)
            await client.stdin.aclose()
            assert await client.stdout.receive_some() == b""
            assert await client.process.wait() == 0


async def test_if_no_supervisor_can_be_started_the_request_says_why_and_the_next_one_tries_again(
    served: Served,
) -> None:
    with trio.fail_after(LIMIT_S):
        async with front(served) as client:
            await stopping.stop(served.settings, report=print)
            # It cannot be bound.
            (served.settings.state_dir / SOCKET).mkdir()
            await client.ask(2)
            answer = await client.answer()
            assert (answer["id"], answer["result"]["isError"]) == (2, True)
            assert answer["result"]["content"][0]["text"].startswith("host_unfit: The supervisor did not start: ")
            (served.settings.state_dir / SOCKET).rmdir()
            await client.ask(3)
            answer = await client.answer()
            assert (answer["id"], answer["result"].get("isError", False)) == (3, False)


async def test_a_front_whose_reader_has_gone_ends_without_a_traceback(served: Served) -> None:
    with trio.fail_after(LIMIT_S):
        async with front(served) as client:
            await client.stdout.aclose()
            await client.ask(2)
            assert await client.stderr.receive_some() == b""
            assert await client.process.wait() == 0
