"""What the rows of the benchmark share: the system under test, and machines that a bare script drives."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import attrs
import trio

from actors.machine.qemu.command_line import MachineSpec
from actors.machine.storage.checkpoint import Checkpoint
from actors.machine.storage.store import Store
from actors.model.errors import AgentisoError
from actors.model.files import read_json
from actors.model.settings import Pool
from actors.workspace.host import Host
from agentiso.bench import floor
from agentiso.bench.result import Aim, Found
from agentiso.library.image_shelf import loader
from agentiso.library.opening import open_system
from agentiso.library.system import System
from agentiso.library.workspace import Workspace

POOL_LIMIT_S: Final = 120.0
POOL_LOOK_S: Final = 0.02
FLOOR_MAC: Final = "52:54:00:00:00:02"


@attrs.frozen
class Plan:
    """How a row is measured and what it promises."""

    name: str
    unit: str
    samples: int
    """Rounds of a run; each may give several figures."""
    quick_samples: int
    aim: Aim
    take: Callable[[Bench, int], Awaitable[Found]]
    """Measures the round of a number: first ours, then at once the floor's."""


class Bench:
    """One run of the benchmark."""

    def __init__(self, system: System, stack: AsyncExitStack) -> None:
        settings = system.settings
        self.system = system
        self._stack = stack
        self._pooled: System | None = None
        self.scratch = settings.state_dir / "floor"
        self._store = Store(settings.state_dir)
        self._host = Host(settings, self._store, loader(settings.images))
        self._templates: dict[int, Checkpoint] = {}
        self._pairs: dict[tuple[int, int], tuple[Workspace, floor.BareMachine]] = {}
        self._number = 0

    def number(self) -> int:
        """Return a number that nothing in this run has yet."""
        self._number += 1
        return self._number

    async def create(self, name: str, *, memory_mb: int | None = None) -> Workspace:
        """Make a workspace whose name begins with ``name``."""
        return await self.system.create(f"{name}-{self.number()}", memory_mb=memory_mb)

    async def template(self, memory_mb: int | None = None) -> Checkpoint:
        """Return the template of a shape, which agentiso has made; made once if need be."""
        wanted = memory_mb or self.system.settings.shape.memory_mb
        if wanted not in self._templates:
            await (await self.create("warm-up", memory_mb=wanted)).destroy()
            for path in (self.system.settings.state_dir / "templates").glob("*.json"):
                found = self._store.load(read_json(path)["checkpoint"])
                assert found.fingerprint is not None
                self._templates[found.fingerprint.memory_mb] = found
        return self._templates[wanted]

    async def pooled(self) -> System:
        """Return another system, whose pool has a machine; opened once."""
        if self._pooled is None:
            settings = self.system.settings
            own = attrs.evolve(
                settings, state_dir=settings.state_dir / "pooled", images_dir=settings.images, pool=Pool(size=1)
            )
            self._pooled = await self._stack.enter_async_context(open_system(own))
        with trio.fail_after(POOL_LIMIT_S):
            # Nobody tells when the pool is full.
            while not (await self._pooled.pool()).ready:  # noqa: ASYNC110
                await trio.sleep(POOL_LOOK_S)
        return self._pooled

    # -- the floor

    async def spec(self, ram: Path | None, memory_mb: int | None = None) -> MachineSpec:
        """Describe a machine for the floor, in a directory of its own."""
        directory = self.scratch / str(self.number())
        directory.mkdir(parents=True)
        fingerprint = (await self.template(memory_mb)).fingerprint
        assert fingerprint is not None
        image = await self._host.load_image(fingerprint.image)
        spec = await self._host.machine_spec(
            image, fingerprint, workspace_dir=directory, layer="unused", checkpoint=None, allow_internet=False,
            mac=FLOOR_MAC,
        )  # fmt: skip
        link = await spec.network.plan(spec.wanted_link)
        return attrs.evolve(spec, disk=directory / "disk.qcow2", ram=ram or spec.ram, ram_read_only=False, link=link)

    async def bare_restorer(self, memory_mb: int | None = None) -> Callable[[], floor.BareMachine]:
        """Return what restores the template by hand and runs ``true``, which any thread may do."""
        template = await self.template(memory_mb)
        files = self._store.checkpoint(template.id)
        spec = await self.spec(files / "ram", memory_mb)

        def restore() -> floor.BareMachine:
            machine = floor.restore(spec, template, self._store.layer(template.layer), files / "devices")
            machine.exec_true()
            return machine

        return restore

    async def bare_restore(self, memory_mb: int | None = None) -> tuple[float, floor.BareMachine]:
        """Restore the template by hand and run ``true``; return the milliseconds and the machine."""
        restore = await self.bare_restorer(memory_mb)
        began = time.perf_counter()
        machine = restore()
        return ms_since(began), machine

    async def bare_boot(self) -> tuple[float, floor.BareMachine]:
        """Boot by hand and run ``true``."""
        spec, disk_bytes = await self.spec(None), (await self.template()).disk_bytes
        began = time.perf_counter()
        machine = floor.boot(spec, disk_bytes)
        machine.exec_true()
        return ms_since(began), machine

    async def bare_fork(self, parent: floor.BareMachine) -> tuple[floor.BareMachine, float, float]:
        """Fork a bare machine by hand and run ``true`` in the child; return it, the whole and the pause in ms."""
        memory_mb = parent.spec.shape.memory_mb
        template, number = await self.template(memory_mb), self.number()
        directory = self.scratch / f"fork-{number}"
        spec = await self.spec(directory / "ram", memory_mb)
        layer = parent.spec.disk
        next_layer = parent.spec.directory / f"disk-{number}.qcow2"
        began = time.perf_counter()
        pause_s = parent.checkpoint(directory, next_layer, template.disk_bytes)
        parent.spec = attrs.evolve(parent.spec, disk=next_layer)
        child = floor.restore(spec, template, layer, directory / "devices")
        child.exec_true()
        return child, ms_since(began), pause_s * 1000

    # -- machines that several rows use

    async def pair(self, memory_mb: int | None = None, changed_mib: int = 8) -> tuple[Workspace, floor.BareMachine]:
        """Return a workspace and a bare machine, each with so much memory changed since its restore; made once."""
        key = (memory_mb or self.system.settings.shape.memory_mb, changed_mib)
        if key not in self._pairs:
            dirty = f"head -c {changed_mib * 2**20} /dev/urandom > /dev/shm/dirty"
            workspace = await self.create("parent", memory_mb=memory_mb)
            await workspace.exec(dirty)
            _, machine = await self.bare_restore(memory_mb)
            self._pairs[key] = workspace, machine
            machine.exec(dirty)
        return self._pairs[key]

    def close(self) -> None:
        """End what the floor still runs."""
        for _, machine in self._pairs.values():
            machine.end()


def ms_since(began: float) -> float:
    """Return the milliseconds since a reading of `time.perf_counter`."""
    return (time.perf_counter() - began) * 1000


def given(milliseconds: float | None) -> float:
    """Return a figure that has to be there."""
    if milliseconds is None:
        raise AgentisoError("The fork reports no pause.")
    return milliseconds
