"""What its backends make for a machine is given back once its process is gone, and not before."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio

from actors.machine import descriptors, start
from actors.machine.channel.serial import Serial
from actors.machine.limits.none import NoLimits
from actors.machine.limits.protocol import Bounds, Placement
from actors.machine.machine import Machine
from actors.machine.network.none import NoNetwork
from actors.machine.network.protocol import Link, Policy, Wanted
from actors.machine.qemu import process
from actors.machine.qemu.command_line import CONSOLE_MARK, MachineSpec
from actors.machine.qemu.process import QemuProcess, is_alive, start_time_of
from actors.model.errors import HostUnfit, MachineFailed
from actors.model.image import BootImage
from actors.model.info import Shape
from actors.model.machine import Fingerprint, MachineRecord, ProcessIdentity
from actors.runtime import unix_sockets

LIMIT_S = 30
NOWHERE = Path("/nowhere")
IMAGE = BootImage("base", "digest", NOWHERE, NOWHERE, NOWHERE, NOWHERE)
FINGERPRINT = Fingerprint("7.2", "tcg", "max", 1, 128, "digest", "none", "serial")


class Watched(NoNetwork):
    """A network whose links have a descriptor each, and that remembers what was done."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.opened: list[int] = []

    async def plan(self, wanted: Wanted) -> Link:
        self.opened.append(os.open(os.devnull, os.O_RDONLY))
        self.done.append("planned")
        return Link(wanted.machine, descriptors={descriptors.NETWORK: self.opened[-1]})

    async def release(self, link: Link) -> None:
        self.done.append("released")


class WatchedLimits(NoLimits):
    def __init__(self) -> None:
        self.done: list[str] = []

    async def prepare(self, bounds: Bounds) -> Placement:
        self.done.append("prepared")
        return Placement(bounds.machine)

    async def enter(self, placement: Placement, pid: int) -> None:
        self.done.append("entered")

    async def release(self, placement: Placement) -> None:
        self.done.append("released")


def make_spec(tmp_path: Path, qemu: str = "false") -> MachineSpec:
    directory = tmp_path / "machine"
    return MachineSpec(
        qemu=qemu, uuid="12345678-0", shape=Shape(1, 128, 1), accelerator="tcg", cpu_model="max", tsc_khz=None,
        image=IMAGE, ram=directory / "ram", ram_read_only=False, disk=NOWHERE, network=Watched(), policy=Policy(),
        mac="mac", channel=Serial().open(directory), directory=directory, limits=WatchedLimits(),
    )  # fmt: skip


async def prepare(spec: MachineSpec) -> None:
    async with trio.open_nursery() as nursery:
        await start.prepare(
            nursery, spec, FINGERPRINT, layer="layer", disk_bytes=1, checkpoint=None, state=None, limit_s=LIMIT_S
        )


def is_closed(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return True
    return False


@pytest.mark.parametrize("qemu", ["false", "no-such-program"])
async def test_a_start_that_fails_gives_back_what_was_made_for_it(tmp_path: Path, qemu: str) -> None:
    spec = make_spec(tmp_path, qemu)
    network, limits = spec.network, spec.limits
    assert isinstance(network, Watched)
    assert isinstance(limits, WatchedLimits)
    with pytest.RaisesGroup(pytest.RaisesExc((MachineFailed, HostUnfit)), allow_unwrapped=True):
        await prepare(spec)
    assert network.done == ["planned", "released"]
    assert limits.done == ["prepared", *(["entered"] if qemu == "false" else []), "released"]
    assert all(is_closed(fd) for fd in network.opened)
    assert not spec.directory.exists()


class Process:
    """What `QemuProcess` is to its machine."""

    pid = 7

    def __init__(self, *, reaped: bool) -> None:
        self.has_ended = reaped

    async def end(self, _grace_s: float = 0.0) -> bool:
        return self.has_ended

    def release(self) -> None:
        pass


class Connection:
    broken = True

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize("reaped", [True, False])
async def test_a_machine_gives_back_its_link_and_its_place_only_when_its_process_was_reaped(
    tmp_path: Path, *, reaped: bool
) -> None:
    spec = attrs.evolve(make_spec(tmp_path), network=(network := Watched()))
    machine = Machine(spec, FINGERPRINT, "layer", 1)
    machine.process = Process(reaped=reaped)  # type: ignore[assignment]
    machine.qmp = machine.client = Connection()  # type: ignore[assignment]
    await machine.end()
    assert network.done == (["released"] if reaped else [])
    assert isinstance(spec.limits, WatchedLimits)
    assert spec.limits.done == (["released"] if reaped else [])


@pytest.mark.parametrize("failing", ["process", "qmp"])
async def test_whatever_of_an_end_fails_the_rest_of_it_is_done(tmp_path: Path, failing: str) -> None:
    class Fails(Process, Connection):
        async def end(self, _grace_s: float = 0.0) -> bool:
            raise OSError(errno.EMFILE, "Too many open files")

        async def aclose(self) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

    spec = attrs.evolve(make_spec(tmp_path), network=(network := Watched()))
    spec.directory.mkdir()
    machine = Machine(spec, FINGERPRINT, "layer", 1)
    machine.process = machine.qmp = machine.client = Fails(reaped=True)  # type: ignore[assignment]
    if failing == "process":
        machine.qmp = machine.client = Connection()  # type: ignore[assignment]
    await machine.end()
    assert network.done == ["released"]
    assert not spec.directory.exists()
    assert not machine.overdue


async def test_a_machine_whose_process_does_not_end_keeps_its_directory_until_it_has(tmp_path: Path) -> None:
    spec = attrs.evolve(make_spec(tmp_path), network=(network := Watched()))
    spec.directory.mkdir()
    machine = Machine(spec, FINGERPRINT, "layer", 1)
    hung = Process(reaped=False)
    machine.process = hung  # type: ignore[assignment]
    machine.qmp = machine.client = Connection()  # type: ignore[assignment]
    await machine.end()
    assert machine.overdue
    assert spec.directory.exists()
    hung.has_ended = True
    await machine.end()
    assert not machine.overdue
    assert not spec.directory.exists()
    assert network.done == ["released"]


# -- adoption


class OtherQmp:
    """QMP of a QEMU that another supervisor started, which notes what it is asked."""

    def __init__(self, directory: Path) -> None:
        self._listener = trio.SocketListener(
            trio.socket.from_stdlib_socket(unix_sockets.listen(directory / unix_sockets.QMP))
        )
        self.asked: list[str] = []

    async def serve(self, nursery: trio.Nursery) -> None:
        await trio.serve_listeners(self._answer, [self._listener], handler_nursery=nursery)

    async def _answer(self, stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b'{"QMP": {}}\n')
            async for data in stream:
                for line in data.splitlines():
                    message = json.loads(line)
                    self.asked.append(message["execute"])
                    disk = [{"device": "root", "inserted": {"file": "/layers/layer.qcow2"}}]
                    answer = {"id": message["id"], "return": disk if message["execute"] == "query-block" else {}}
                    await stream.send_all(json.dumps(answer).encode() + b"\n")


@pytest.fixture
def other(tmp_path: Path) -> Iterator[MachineRecord]:
    """The record of a process that another supervisor started."""
    spec = make_spec(tmp_path)
    spec.directory.mkdir()
    console = f"{CONSOLE_MARK}{spec.console_log}"
    child = subprocess.Popen([sys.executable, "-c", "input()", spec.uuid, console], stdin=subprocess.PIPE)
    while spec.uuid.encode() not in Path(f"/proc/{child.pid}/cmdline").read_bytes():
        os.sched_yield()
    identity = ProcessIdentity(child.pid, start_time_of(child.pid), spec.uuid)
    yield MachineRecord(identity, str(spec.directory), "epoch", "00" * 32, "", str(spec.ram), None, FINGERPRINT, {})
    child.kill()
    child.wait()
    assert child.stdin is not None
    child.stdin.close()


async def adopt(
    nursery: trio.Nursery, tmp_path: Path, record: MachineRecord, *, stands_still: bool, limit_s: float = LIMIT_S
) -> Machine | None:
    return await start.adopt(
        nursery, make_spec(tmp_path), FINGERPRINT, record, layer="layer", disk_bytes=1, stands_still=stands_still,
        limit_s=limit_s,
    )  # fmt: skip


async def test_a_machine_that_is_to_stand_still_is_adopted_without_its_guest_and_never_told_to_run(
    tmp_path: Path, other: MachineRecord
) -> None:
    qmp = OtherQmp(Path(other.directory))
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(qmp.serve, nursery)
            machine = await adopt(nursery, tmp_path, other, stands_still=True)
            assert machine is not None
            assert machine.held is not None
            assert machine.held.alone
            assert machine.client.broken
            assert "stop" in qmp.asked
            assert "cont" not in qmp.asked
            await machine.release()
            nursery.cancel_scope.cancel()


async def test_a_qemu_that_takes_no_connection_is_left_in_a_bounded_time_however_often_it_is_tried(
    tmp_path: Path, other: MachineRecord
) -> None:
    with trio.fail_after(LIMIT_S), unix_sockets.listen(Path(other.directory) / unix_sockets.QMP):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                with pytest.raises(MachineFailed):
                    await adopt(nursery, tmp_path, other, stands_still=False, limit_s=0.1)
    assert is_alive(other.process)


async def test_the_directory_of_a_start_that_failed_is_kept_while_its_process_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "KILL_WAIT_S", 0.1)
    monkeypatch.setattr(QemuProcess, "kill", lambda _process: None)
    qemu = tmp_path / "qemu"
    qemu.write_text("#!/bin/sh\necho $$ > " + str(tmp_path / "pid") + "\nexec sleep 600\n")
    qemu.chmod(0o700)
    spec = make_spec(tmp_path, str(qemu))
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            with pytest.raises(MachineFailed, match="did not become ready"):
                await start.prepare(
                    nursery, spec, FINGERPRINT, layer="layer", disk_bytes=1, checkpoint=None, state=None, limit_s=2.0
                )
    assert spec.directory.exists()
    pid = int((tmp_path / "pid").read_text())
    os.kill(pid, signal.SIGKILL)
    await trio.to_thread.run_sync(os.waitpid, pid, 0)
