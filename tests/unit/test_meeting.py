"""A guest agent that ended is met anew: one at a time, however often its port opens, and however late it is."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import trio

from actors.machine import machine as machines
from actors.machine.channel.serial import PORT_ID, SerialEndpoint
from actors.machine.guest.absent import absent
from actors.machine.machine import Machine
from actors.model.errors import GuestBroken
from actors.runtime import unix_sockets
from tests.unit.test_listener import KEY, listening_agent

LIMIT_S = 30
OPENINGS = 8


@attrs.frozen
class Place:
    """What a machine's channel needs of its specification."""

    channel: SerialEndpoint
    uuid: str = "uuid"


class Qmp:
    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Process:
    def release(self) -> None:
        pass


class Site:
    """A machine whose agent is not there, and its port's events."""

    def __init__(self, path: Path, nursery: trio.Nursery) -> None:
        self.machine = Machine(cast("Any", Place(SerialEndpoint(path))), cast("Any", None), "layer", 0)
        self.machine.key = KEY
        self.on_event = self.machine.attend(nursery)
        self.machine.client = absent(nursery)
        self.machine.qmp, self.machine.process = cast("Any", Qmp()), cast("Any", Process())

    def says(self, *, present: bool) -> None:
        self.on_event("VSERPORT_CHANGE", {"id": PORT_ID, "open": present})


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            yield Site(tmp_path / "socket", nursery)
            nursery.cancel_scope.cancel()


async def test_a_guest_that_opens_its_port_again_and_again_has_one_connection_and_stops_nobody(
    site: Site, tmp_path: Path
) -> None:
    listener = trio.socket.from_stdlib_socket(unix_sockets.listen(tmp_path / "socket"))
    open_now: set[trio.socket.SocketType] = set()
    most = taken = 0

    async def hold(taken: trio.socket.SocketType) -> None:
        open_now.add(taken)
        while await taken.recv(4096):
            pass
        open_now.discard(taken)
        taken.close()

    with listener:
        async with trio.open_nursery() as nursery:
            for _ in range(OPENINGS):
                site.says(present=False)
                site.says(present=True)
                await trio.testing.wait_all_tasks_blocked()
            # As QEMU does, which serves one and leaves the others to the backlog.
            while True:
                with trio.move_on_after(0.2):
                    nursery.start_soon(hold, (await listener.accept())[0])
                    taken += 1
                    continue
                break
            most = len(open_now)
            await site.machine.release()
    assert most == 1
    assert taken <= OPENINGS


async def test_an_agent_that_was_late_is_called_again_by_whoever_needs_it(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "RECONNECT_LIMIT_S", 0.2)
    with unix_sockets.listen(tmp_path / "socket"):
        site.says(present=True)
        with pytest.raises(GuestBroken):
            await (await site.machine.live_client()).ping()
    (tmp_path / "socket").unlink()
    monkeypatch.setattr(machines, "RECONNECT_LIMIT_S", LIMIT_S)
    async with listening_agent(tmp_path):
        await (await site.machine.live_client()).ping()
        assert not site.machine.client.broken
        await site.machine.release()


async def test_an_agent_that_is_started_while_the_one_before_is_greeted_is_greeted_itself(
    site: Site, tmp_path: Path
) -> None:
    with unix_sockets.listen(tmp_path / "socket") as mute:
        site.says(present=True)
        await trio.testing.wait_all_tasks_blocked()
        taken, _ = mute.accept()
        assert taken.recv(4096, socket.MSG_DONTWAIT)
    (tmp_path / "socket").unlink()
    async with listening_agent(tmp_path):
        with taken:
            site.says(present=True)
            await (await site.machine.live_client()).ping()
        await site.machine.release()


async def test_a_machine_that_is_let_go_of_is_met_no_more(site: Site, tmp_path: Path) -> None:
    with unix_sockets.listen(tmp_path / "socket") as listener:
        await site.machine.release()
        site.says(present=True)
        assert (await site.machine.live_client()).broken
        await trio.testing.wait_all_tasks_blocked()
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
