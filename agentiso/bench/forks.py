"""Rows about forks: how long the parent stands still, how soon the children answer."""

from __future__ import annotations

import shutil
import time
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from agentiso.bench.bench import Bench, Plan, given, ms_since
from agentiso.bench.floor import BareMachine
from agentiso.bench.result import Aim, Found
from agentiso.library.workspace import Workspace

CHILDREN: Final = 20
CHANGED_MIB: Final = 8


def _fork_pause(memory_mb: int, changed_mib: int) -> Callable[[Bench, int], Awaitable[Found]]:
    async def take(bench: Bench, _number: int) -> Found:
        workspace, machine = await bench.pair(memory_mb, changed_mib)
        fork = await workspace.fork(1)
        await fork[0].destroy()
        child, _, bare_ms = await bench.bare_fork(machine)
        _end(child)
        return Found.pair(given(fork.report.pause_ms), bare_ms)

    return take


async def _fork_to_exec(bench: Bench, _number: int) -> Found:
    workspace, machine = await bench.pair(changed_mib=CHANGED_MIB)
    began = time.perf_counter()
    child = (await workspace.fork(1))[0]
    await child.exec("true")
    ours = ms_since(began)
    await child.destroy()
    bare, bare_ms, _ = await bench.bare_fork(machine)
    _end(bare)
    return Found.pair(ours, bare_ms)


async def _fork_20(bench: Bench, _number: int) -> Found:
    """Fork many; the floor: as many bare restores, as many of them at once as agentiso starts at once."""
    parent = await bench.create("herd")
    began = time.perf_counter()
    children = await parent.fork(CHILDREN)
    await _all_exec(list(children))
    ours = ms_since(began)
    await _destroy_all([parent, *children])
    return Found.pair(ours, await _bare_herd(bench))


async def _bare_herd(bench: Bench) -> float:
    restorers = [await bench.bare_restorer() for _ in range(CHILDREN)]
    limit = trio.CapacityLimiter(bench.system.settings.limits.concurrent_starts)
    machines: list[BareMachine] = []

    async def restore(restorer: Callable[[], BareMachine]) -> None:
        machines.append(await trio.to_thread.run_sync(restorer, limiter=limit))

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for restorer in restorers:
            nursery.start_soon(restore, restorer)
    bare = ms_since(began)
    for machine in machines:
        machine.end()
    return bare


async def _all_exec(workspaces: list[Workspace]) -> None:
    async with trio.open_nursery() as nursery:
        for workspace in workspaces:
            nursery.start_soon(workspace.exec, "true")


async def _destroy_all(workspaces: list[Workspace]) -> None:
    async with trio.open_nursery() as nursery:
        for workspace in workspaces:
            nursery.start_soon(workspace.destroy)


def _end(child: BareMachine) -> None:
    child.end()
    shutil.rmtree(child.spec.ram.parent)


PAUSE: Final = Aim(max_p50=10)
PLANS: Final = (
    Plan("fork_pause", "ms", 20, 3, PAUSE, _fork_pause(512, CHANGED_MIB)),
    Plan("fork_pause_512_1", "ms", 20, 2, PAUSE, _fork_pause(512, 1)),
    Plan("fork_pause_512_32", "ms", 20, 2, Aim(), _fork_pause(512, 32)),
    Plan("fork_pause_2048_1", "ms", 20, 2, PAUSE, _fork_pause(2048, 1)),
    Plan("fork_pause_2048_32", "ms", 20, 2, Aim(), _fork_pause(2048, 32)),
    Plan("fork_to_exec", "ms", 20, 3, Aim(max_ratio=1.25), _fork_to_exec),
    Plan("fork_20", "ms", 3, 1, Aim(max_ratio=1.3), _fork_20),
)
