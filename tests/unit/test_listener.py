"""A channel made of connections: the real guest agent behind a listening socket, which stands in for AF_VSOCK's."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from actors.machine.channel.cids import FIRST, LAST, Cids
from actors.machine.channel.vsock import VsockEndpoint
from actors.machine.guest.client import GuestClient
from actors.model.errors import GuestBroken, HostUnfit
from guest.listener import MAX_CALLERS, MAX_STRANGE_BYTES

KEY = bytes(range(32))
LIMIT_S = 60


@asynccontextmanager
async def listening_agent(tmp_path: Path) -> AsyncIterator[Path]:
    """Run an agent and yield the path of the socket on which it listens."""
    key, path = tmp_path / "key", tmp_path / "socket"
    key.write_bytes(KEY)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(8)
        fd = listening.fileno()
        argv = [sys.executable, "-m", "guest.agent", "--channel", "listen", "--fd", str(fd), "--key-file", str(key)]
        process = subprocess.Popen([*argv, "--dry-identity"], pass_fds=[fd], stdout=subprocess.DEVNULL)
    try:
        with trio.fail_after(LIMIT_S):
            yield path
    finally:
        process.kill()
        process.wait(10)


async def call(path: Path) -> trio.SocketStream:
    return await trio.open_unix_socket(path)


async def test_a_new_connection_with_the_key_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    async with listening_agent(tmp_path) as path, trio.open_nursery() as nursery:
        first = await GuestClient.open(nursery, await call(path), KEY)
        await first.ping()
        second = await GuestClient.open(nursery, await call(path), KEY)
        await second.ping()
        with pytest.raises(GuestBroken):
            await first.ping()
        await second.aclose()
        await first.aclose()


async def test_an_agent_is_called_again_after_its_connection_broke(tmp_path: Path) -> None:
    """As at each restore, which resets the connections of vsock."""
    async with listening_agent(tmp_path) as path, trio.open_nursery() as nursery:
        for _ in range(3):
            client = await GuestClient.open(nursery, await call(path), KEY)
            await client.ping()
            await client.aclose()


async def test_callers_without_the_key_disturb_nobody_however_many_they_are(tmp_path: Path) -> None:
    async with listening_agent(tmp_path) as path, trio.open_nursery() as nursery:
        host = await GuestClient.open(nursery, await call(path), KEY)
        strangers = [await call(path) for _ in range(3 * MAX_CALLERS)]
        for number, stranger in enumerate(strangers):
            # Those that were pushed out, or said too much, are closed.
            with suppress(trio.BrokenResourceError):
                await stranger.send_all(b"x" * (number * MAX_STRANGE_BYTES // MAX_CALLERS))
        await host.ping()
        with suppress(trio.BrokenResourceError):
            assert (await strangers[0].receive_some(1)) == b""
        again = await GuestClient.open(nursery, await call(path), KEY)
        await again.ping()
        for stream in strangers:
            await trio.aclose_forcefully(stream)
        await again.aclose()
        await host.aclose()


async def test_a_host_that_calls_before_anybody_listens_calls_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that is booting refuses; `VsockEndpoint` calls until it is there."""
    refused = 3

    class Socket:
        def close(self) -> None:
            pass

        async def connect(self, address: tuple[int, int]) -> None:
            nonlocal refused
            await trio.lowlevel.checkpoint()
            assert address == (7, 5000)
            refused -= 1
            if refused:
                raise ConnectionResetError

    monkeypatch.setattr(trio.socket, "socket", lambda *_: Socket())
    monkeypatch.setattr(trio, "SocketStream", lambda connected: connected)
    with trio.fail_after(LIMIT_S):
        assert await VsockEndpoint(7).connect()
    assert refused == 0


@pytest.mark.parametrize(("number", "expected"), [(errno.EMFILE, OSError), (errno.EAFNOSUPPORT, HostUnfit)])
async def test_a_host_without_room_for_a_connection_is_not_one_without_vsock(
    monkeypatch: pytest.MonkeyPatch, number: int, expected: type[Exception]
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(trio.socket, "socket", refuse)
    with pytest.raises(expected, match=os.strerror(number)):
        await VsockEndpoint(7).connect()


def test_context_ids_are_unique_and_never_reserved_ones() -> None:
    cids = Cids(first=LAST - 1)
    cids.note(FIRST + 1)
    assert [cids.take() for _ in range(4)] == [LAST - 1, LAST, FIRST, FIRST + 2]
    assert all(FIRST <= Cids().take() <= LAST for _ in range(100))
