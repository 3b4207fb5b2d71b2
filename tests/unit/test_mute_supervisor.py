"""Supervisors that stand still, start for long or cannot be reached: nobody waits for ever, or starts another one."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import memory_stream_pair

from actors.model.errors import SupervisorEnding, SupervisorGone
from actors.model.settings import Settings
from actors.registry.lock import held
from actors.runtime import unix_sockets
from actors.runtime.unix_sockets import connect, listen
from agentiso.cli import terminal
from agentiso.client import dialling, silence, tools
from agentiso.client import serve as front
from agentiso.client.dialling import connect as connect_to
from agentiso.client.dialling import connect_running, is_running
from agentiso.client.status import OtherSupervisor, restart
from agentiso.protocol import places
from agentiso.protocol.greeting import Greeting, Welcome, read_greeting

LIMIT_S = 30
CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"exec","arguments":{}}}\n'


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix_sockets, "DIAL_LIMIT_S", 0.2)
    for name, limit_s in (("START_LIMIT_S", 0.5), ("ANSWER_LIMIT_S", 0.2), ("AGAIN_S", 0.1)):
        monkeypatch.setattr(dialling, name, limit_s)
    for module in (silence, front):
        monkeypatch.setattr(module, "SILENCE_S", 0.1)


async def drop(_stream: int, _data: bytes) -> None:
    """Take output that nobody looks at."""


@asynccontextmanager
async def welcoming(
    settings: Settings, then: Callable[[trio.SocketStream, int], Awaitable[object]]
) -> AsyncIterator[list[str]]:
    """Run what welcomes its first client and does something then; yield the services that were asked for."""
    asked: list[str] = []

    async def serve(stream: trio.SocketStream) -> None:
        greeting = read_greeting(await stream.receive_some())
        asked.append(greeting.service)
        await then(stream, len(asked))

    with listen(settings.state_dir / places.SOCKET) as listener:
        listener.setblocking(False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                trio.serve_listeners, serve, [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
            )
            yield asked
            nursery.cancel_scope.cancel()


async def mute(stream: trio.SocketStream, number: int) -> None:
    """Welcome the first client, and say nothing more to anybody."""
    if number == 1:
        await stream.send_all(Welcome(1, "cli").line)
    await trio.sleep_forever()


@pytest.mark.usefixtures("impatient")
async def test_a_supervisor_that_takes_no_connections_is_named_and_none_is_started_beside_it(
    settings: Settings,
) -> None:
    path = settings.state_dir / places.SOCKET
    with trio.fail_after(LIMIT_S), ExitStack() as stack:
        stack.enter_context(held(settings.state_dir / places.DAEMON_LOCK))
        stack.enter_context(listen(path))
        with contextlib.suppress(BlockingIOError):
            while True:
                stack.enter_context(connect(path))
        assert is_running(settings)
        for reach in (connect_to, connect_running):
            with pytest.raises(
                SupervisorGone, match=f"pid {os.getpid()}, takes no connections: it stands still"
            ) as caught:
                await reach(settings, Greeting())
            assert "`agentiso daemon restart --force` replaces it" in caught.value.remedy
    assert not (settings.state_dir / places.LOG).exists()


@pytest.mark.usefixtures("impatient")
async def test_a_supervisor_that_starts_for_long_is_named_and_none_is_started_beside_it(settings: Settings) -> None:
    named = pytest.raises(SupervisorGone, match=f"pid {os.getpid()}, is starting or ending")
    with trio.fail_after(LIMIT_S), held(settings.state_dir / places.DAEMON_LOCK), named:
        await connect_to(settings, Greeting())
    assert not (settings.state_dir / places.LOG).exists()


@pytest.mark.usefixtures("impatient")
async def test_a_call_whose_supervisor_comes_to_a_standstill_ends_with_its_outcome_unknown(settings: Settings) -> None:
    with trio.fail_after(LIMIT_S):
        async with welcoming(settings, mute) as asked:
            with pytest.raises(SupervisorGone, match="does not answer any more; the outcome of exec is unknown"):
                await tools.call(settings, None, "exec", {}, print)
    assert asked == ["mcp", "status"]


@pytest.mark.usefixtures("impatient")
async def test_a_live_connection_whose_supervisor_comes_to_a_standstill_ends(settings: Settings) -> None:
    with trio.fail_after(LIMIT_S):
        async with welcoming(settings, mute):
            with pytest.raises(SupervisorGone, match=r"does not answer any more; the job, if it was started, goes on"):
                await terminal.attach(settings, None, {"command": "true"}, drop)


@pytest.mark.usefixtures("impatient")
async def test_a_call_that_takes_long_is_waited_for_while_its_supervisor_answers_others(settings: Settings) -> None:
    looked, answer = trio.Event(), {"jsonrpc": "2.0", "id": 1, "result": {"structuredContent": {"done": True}}}

    async def take_long(stream: trio.SocketStream, number: int) -> None:
        await stream.send_all(Welcome(1, "cli").line)
        if number > 3:
            looked.set()
        if number == 1:
            await looked.wait()
            await stream.send_all(json.dumps(answer).encode() + b"\n")

    with trio.fail_after(LIMIT_S):
        async with welcoming(settings, take_long):
            assert await tools.call(settings, None, "exec", {}, print) == {"done": True}


async def test_a_supervisor_that_has_ended_before_it_was_asked_has_done_nothing() -> None:
    ours, theirs = memory_stream_pair()
    await theirs.aclose()
    with trio.fail_after(LIMIT_S), pytest.raises(SupervisorEnding, match="nothing was done"):
        await tools._ask(ours, {"id": 1}, print)  # type: ignore[arg-type]


# -- serve -----------------------------------------------------------------------------------------------------------


def a_front(settings: Settings, told: list[Any], whole: trio.CancelScope) -> front.Front:
    async def write(line: bytes) -> None:
        await trio.lowlevel.checkpoint()
        told.append(json.loads(line))
        whole.cancel()

    return front.Front(settings, None, Greeting(), write, whole)


@pytest.mark.usefixtures("impatient")
async def test_serve_tells_a_client_whose_supervisor_comes_to_a_standstill(settings: Settings) -> None:
    told: list[Any] = []
    with trio.fail_after(LIMIT_S):
        async with welcoming(settings, mute):
            with trio.CancelScope() as whole:
                carrying = a_front(settings, told, whole)
                carrying._conversation.hear_client(CALL)
                stream, _ = await connect_to(settings, Greeting())
                await carrying.carry(stream)
    text = told[0]["result"]["content"][0]["text"]
    assert "Outcome unknown: the supervisor came to a standstill while exec was under way." in text


async def test_serve_lives_while_the_state_directory_cannot_be_read_and_tells_who_waits(tmp_path: Path) -> None:
    told: list[Any] = []
    # What a link to itself leads to nobody can read, not even root.
    (tmp_path / "state").symlink_to(tmp_path / "state")
    with trio.fail_after(LIMIT_S), trio.CancelScope() as whole:
        carrying = a_front(Settings(state_dir=tmp_path / "state"), told, whole)
        assert await carrying._next_supervisor() is None
        carrying._quick_deaths = 0
        carrying._conversation.hear_client(CALL)
        await carrying.carry(None)
    assert told[0]["result"]["content"][0]["text"].startswith("host_failed: ")


@pytest.mark.usefixtures("impatient")
async def test_serve_goes_on_however_many_supervisors_have_died(settings: Settings) -> None:
    carrying = a_front(settings, [], trio.CancelScope())
    carrying._quick_deaths = 5000
    carrying._client_is_done = True
    with trio.fail_after(LIMIT_S):
        await carrying._wait_for_need()


# -- restart ---------------------------------------------------------------------------------------------------------


async def test_restart_says_so_if_the_next_supervisor_is_not_as_it_was_to_be(settings: Settings) -> None:
    async def be_another(stream: trio.SocketStream, _number: int) -> None:
        await stream.send_all(Welcome(1, "cli", {"http": None, "idle_exit_s": 60.0}).line)

    with trio.fail_after(LIMIT_S):
        async with welcoming(settings, be_another):
            with pytest.raises(OtherSupervisor, match=r"HTTP: not served; .* as it was to be .*HTTP: 127\.0\.0\.1:0"):
                await restart(settings, None, http="127.0.0.1:0", idle_exit_s=None, limit_s=1, report=print)
            _, welcome = await restart(settings, None, http=None, idle_exit_s=None, limit_s=1, report=print)
            assert welcome.pid == 1
