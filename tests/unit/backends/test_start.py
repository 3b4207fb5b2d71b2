"""What its backends make for a machine is given back once its process is gone, and not before."""

from __future__ import annotations

import os
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
from actors.machine.qemu.command_line import MachineSpec
from actors.model.errors import HostUnfit, MachineFailed
from actors.model.image import BootImage
from actors.model.info import Shape
from actors.model.machine import Fingerprint

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

    def __init__(self, *, reaped: bool) -> None:
        self._reaped = reaped

    async def end(self, _grace_s: float = 0.0) -> bool:
        return self._reaped

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
