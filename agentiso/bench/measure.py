"""The rows of `agentiso bench`: each alternates a sample of agentiso with one of the floor, on the same machine."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from actors.errors import AgentisoError, InvalidArgument
from actors.host import Host
from actors.machine.checkpoint import Checkpoint
from actors.machine.checkpoint import load as load_checkpoint
from actors.machine.command_line import MachineSpec
from actors.machine.files import read_json
from actors.machine.image import BootImage
from actors.machine.store import Store
from actors.settings import Settings
from agentiso.bench import floor
from agentiso.bench.result import Row, Stat
from agentiso.images import loader
from agentiso.system import System, open_system
from agentiso.workspace import Workspace

DIRTY_MIB: Final = 8
DIRTY: Final = f"head -c {DIRTY_MIB * 2**20} /dev/urandom > /dev/shm/dirty"
FLOOR_MAC: Final = "52:54:00:00:00:02"
Report = Callable[[str], None]


@attrs.frozen
class Plan:
    """How a row is measured and what it promises."""

    name: str
    samples: int
    quick_samples: int
    max_ratio: float | None
    max_ms: float | None
    take: Callable[[Bench, int], Awaitable[tuple[float, float]]]
    """Takes the sample of a number and returns (ours, the floor's), in milliseconds."""

    @property
    def aim(self) -> str:
        """The promise in words."""
        parts = [f"ratio ≤ {self.max_ratio}"] if self.max_ratio else []
        return ", ".join(parts + ([f"p50 ≤ {self.max_ms:.0f} ms"] if self.max_ms else []))


async def run_bench(settings: Settings, *, names: Sequence[str], quick: bool, report: Report) -> list[Row]:
    """Measure the named rows, or all, in a state directory of their own.

    Raises:
        InvalidArgument: there is no such row.

    """
    plans = _chosen(names)
    scratch = Path(tempfile.mkdtemp(prefix="agentiso-bench-"))
    try:
        own = attrs.evolve(settings, state_dir=scratch, images_dir=settings.images, network="user")
        async with open_system(own) as system:
            report("boot the template")
            await (await system.create("warm-up")).destroy()
            bench = await Bench.open(system)
            try:
                return [await _measure(bench, plan, quick=quick, report=report) for plan in plans]
            finally:
                bench.close()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _chosen(names: Sequence[str]) -> list[Plan]:
    unknown = set(names) - {plan.name for plan in PLANS}
    if unknown:
        known = ", ".join(plan.name for plan in PLANS)
        raise InvalidArgument(f"There is no benchmark {', '.join(sorted(unknown))}.", remedy=f"Choose from: {known}.")
    return [plan for plan in PLANS if not names or plan.name in names]


async def _measure(bench: Bench, plan: Plan, *, quick: bool, report: Report) -> Row:
    count = plan.quick_samples if quick else plan.samples
    pairs = []
    for number in range(count):
        report(f"{plan.name}: sample {number + 1} of {count}")
        pairs.append(await plan.take(bench, number))
    ours, floors = (Stat.of([pair[index] for pair in pairs]) for index in (0, 1))
    row = Row(plan.name, "ms", ours, floors, plan.aim, None)
    kept = [row.ratio is not None and row.ratio <= plan.max_ratio] if plan.max_ratio else []
    kept += [ours.p50 <= plan.max_ms] if plan.max_ms else []
    return attrs.evolve(row, met=all(kept) if kept else None)


class Bench:
    """What the rows share: the system under test, and the facts the floor starts its machines with."""

    def __init__(self, system: System, host: Host, image: BootImage, template: Checkpoint) -> None:
        self.system = system
        self._host = host
        self._image = image
        self._template = template
        self._scratch = system.settings.state_dir / "floor"
        self._number = 0
        self._pair: tuple[Workspace, floor.BareMachine] | None = None

    @classmethod
    async def open(cls, system: System) -> Bench:
        """Find the template that the first workspace left behind."""
        settings = system.settings
        store = Store(settings.state_dir)
        host = Host(settings, store, loader(settings.images))
        record = next((settings.state_dir / "templates").glob("*.json"))
        template = load_checkpoint(store, read_json(record)["checkpoint"])
        return cls(system, host, await host.load_image(settings.image), template)

    async def _spec(self, ram: Path | None) -> MachineSpec:
        self._number += 1
        directory = self._scratch / str(self._number)
        directory.mkdir(parents=True)
        fingerprint = self._template.fingerprint
        assert fingerprint is not None
        spec = await self._host.machine_spec(
            self._image, fingerprint, workspace_dir=directory, layer="unused", checkpoint=None, allow_internet=False,
            mac=FLOOR_MAC,
        )  # fmt: skip
        return attrs.evolve(spec, disk=directory / "disk.qcow2", ram=ram or spec.ram, ram_read_only=False)

    async def bare_restore(self) -> tuple[float, floor.BareMachine]:
        """Restore the template by hand and run ``true``; return the milliseconds and the machine."""
        store = self._host.store
        files = store.checkpoint(self._template.id)
        spec = await self._spec(files / "ram")
        began = time.perf_counter()
        machine = floor.restore(spec, self._template, store.layer(self._template.layer), files / "devices")
        machine.exec_true()
        return _ms(began), machine

    async def bare_boot(self) -> tuple[float, floor.BareMachine]:
        """Boot by hand and run ``true``."""
        spec = await self._spec(None)
        began = time.perf_counter()
        machine = floor.boot(spec, self._template.disk_bytes)
        machine.exec_true()
        return _ms(began), machine

    async def bare_fork(self, parent: floor.BareMachine, number: int) -> tuple[float, float]:
        """Fork a bare machine by hand and run ``true`` in the child; return (the whole, the pause), milliseconds."""
        directory = self._scratch / f"fork-{number}"
        spec = await self._spec(directory / "ram")
        layer = parent.spec.disk
        next_layer = parent.spec.directory / f"disk-{number}.qcow2"
        began = time.perf_counter()
        pause_s = parent.checkpoint(directory, next_layer, self._template.disk_bytes)
        parent.spec = attrs.evolve(parent.spec, disk=next_layer)
        child = floor.restore(spec, self._template, layer, directory / "devices")
        child.exec_true()
        whole = _ms(began)
        child.end()
        shutil.rmtree(directory)
        return whole, pause_s * 1000

    async def dirty_pair(self) -> tuple[Workspace, floor.BareMachine]:
        """Return a workspace and a bare machine, each with memory changed since its restore; made once."""
        if self._pair is None:
            workspace = await self.system.create("parent")
            await workspace.exec(DIRTY)
            _, machine = await self.bare_restore()
            self._pair = workspace, machine
            machine.exec(DIRTY)
        return self._pair

    def close(self) -> None:
        """End what the floor still runs."""
        if self._pair is not None:
            self._pair[1].end()


def _ms(began: float) -> float:
    return (time.perf_counter() - began) * 1000


async def _create_to_exec(bench: Bench, number: int) -> tuple[float, float]:
    began = time.perf_counter()
    workspace = await bench.system.create(f"create-{number}")
    await workspace.exec("true")
    ours = _ms(began)
    await workspace.destroy()
    bare, machine = await bench.bare_restore()
    machine.end()
    return ours, bare


async def _fork_pause(bench: Bench, number: int) -> tuple[float, float]:
    workspace, machine = await bench.dirty_pair()
    fork = await workspace.fork(1)
    await fork[0].destroy()
    _, bare_ms = await bench.bare_fork(machine, number)
    return _pause_ms(fork.report.pause_ms), bare_ms


def _pause_ms(pause_ms: float | None) -> float:
    if pause_ms is None:
        raise AgentisoError("The fork reports no pause.")
    return pause_ms


async def _fork_to_exec(bench: Bench, number: int) -> tuple[float, float]:
    workspace, machine = await bench.dirty_pair()
    began = time.perf_counter()
    child = (await workspace.fork(1))[0]
    await child.exec("true")
    ours = _ms(began)
    await child.destroy()
    bare_ms, _ = await bench.bare_fork(machine, 10_000 + number)
    return ours, bare_ms


async def _exec_true(bench: Bench, _number: int) -> tuple[float, float]:
    workspace, machine = await bench.dirty_pair()
    began = time.perf_counter()
    await workspace.exec("true")
    ours = _ms(began)
    began = time.perf_counter()
    machine.exec_true()
    return ours, _ms(began)


async def _cold_boot(bench: Bench, number: int) -> tuple[float, float]:
    workspace = await bench.system.create(f"cold-{number}")
    await workspace.snapshots.create("disk", include_memory=False)
    began = time.perf_counter()
    await workspace.snapshots.restore("disk")
    await workspace.exec("true")
    ours = _ms(began)
    await workspace.destroy()
    bare, machine = await bench.bare_boot()
    machine.end()
    return ours, bare


PLANS: Final[tuple[Plan, ...]] = (
    Plan("create_to_exec", 20, 3, 1.5, None, _create_to_exec),
    Plan("fork_pause", 20, 3, None, 25.0, _fork_pause),
    Plan("fork_to_exec", 20, 3, 1.5, None, _fork_to_exec),
    Plan("exec_true", 50, 10, None, None, _exec_true),
    Plan("cold_boot", 3, 1, 1.5, None, _cold_boot),
)


def to_json(rows: Sequence[Row], settings: Settings) -> dict[str, Any]:
    """Return a run as plain data."""
    shape = settings.shape
    return {
        "shape": {"vcpus": shape.vcpus, "memory_mb": shape.memory_mb, "changed_mib": DIRTY_MIB},
        "rows": [row.to_json() for row in rows],
    }
