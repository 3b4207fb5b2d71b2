"""Whoever listens and takes no connection costs who calls a bounded time, and nobody else any."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import trio

from actors.model.errors import SupervisorGone
from actors.model.settings import Settings
from actors.runtime import unix_sockets
from agentiso.client import dialling
from agentiso.protocol.greeting import Greeting
from agentiso.protocol.places import SOCKET

LIMIT_S = 20


@pytest.fixture
def deaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A supervisor's socket at which as many wait already as may, and from which nobody takes them."""
    monkeypatch.setattr(unix_sockets, "DIAL_LIMIT_S", 0.2)
    path = tmp_path / SOCKET
    with ExitStack() as stack:
        listener = stack.enter_context(unix_sockets.listen(path))
        with suppress(BlockingIOError):
            while True:
                stack.enter_context(unix_sockets.connect(path))
        yield listener


async def test_a_full_backlog_is_an_error_in_a_bounded_time_and_others_go_on_meanwhile(
    deaf: socket.socket, tmp_path: Path
) -> None:
    turns = 0

    async def go_on() -> None:
        nonlocal turns
        while True:
            await trio.sleep(0.01)
            turns += 1

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(go_on)
            with pytest.raises(TimeoutError):
                await unix_sockets.dial(tmp_path / SOCKET)
            nursery.cancel_scope.cancel()
    assert turns > 1


async def test_who_finds_a_backlog_full_is_connected_once_there_is_room(
    deaf: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix_sockets, "DIAL_LIMIT_S", LIMIT_S)

    async def connect() -> None:
        async with await unix_sockets.dial(tmp_path / SOCKET) as stream:
            await stream.send_all(b"x")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connect)
        await trio.testing.wait_all_tasks_blocked()
        deaf.accept()[0].close()


async def test_a_supervisor_that_takes_no_connection_runs_and_is_not_started_once_more(
    deaf: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start(*_arguments: object) -> None:
        raise AssertionError("another supervisor was started")

    monkeypatch.setattr(dialling, "_start", start)
    settings = Settings(state_dir=tmp_path)
    assert dialling.is_running(settings)
    with trio.fail_after(LIMIT_S):
        for reach in (dialling.connect, dialling.connect_running):
            with pytest.raises(SupervisorGone, match="takes no connections"):
                await reach(settings, Greeting("status"))
