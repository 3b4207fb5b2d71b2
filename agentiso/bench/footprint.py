"""Rows about what a workspace costs while it does nothing: memory and processor time, of QEMU and of the supervisor."""

from __future__ import annotations

import ctypes
import gc
import os
import time
from pathlib import Path
from typing import Final

import attrs
import trio

from actors.machine.qemu.process import find_machines
from agentiso.bench.bench import Bench, Plan
from agentiso.bench.result import Aim, Found
from agentiso.library.workspace import Workspace

HERD: Final = 20
SETTLE_S: Final = 2.0
IDLE_S: Final = 5.0
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
PYTHON: Final = "python3 -c 'import json, http.client, subprocess; print(len([str(n) for n in range(100000)]))'"
"""A program of a few megabytes, the same in each fork."""


async def _marginal_memory(bench: Bench, _number: int) -> Found:
    """Tell what all QEMUs take together after one more fork, less what they took before it."""
    ours, floor = await _growth(bench, None)
    return Found.pair(ours, floor)


async def _marginal_memory_used(bench: Bench, _number: int) -> Found:
    ours, floor = await _growth(bench, PYTHON)
    return Found.pair(ours, floor)


async def _growth(bench: Bench, command: str | None) -> tuple[float, float]:
    workspace, machine = await bench.pair()
    # One child beside it, so that the pages which all share count as shared.
    first = (await workspace.fork(1))[0]
    await first.exec(command or "true")
    before = _memory_mib(bench.system.settings.state_dir)
    second = (await workspace.fork(1))[0]
    if command:
        await second.exec(command)
    ours = _memory_mib(bench.system.settings.state_dir) - before
    for child in (first, second):
        await child.destroy()
    bare_first, _, _ = await bench.bare_fork(machine)
    bare_first.exec(command or "true")
    before = _memory_mib(bench.system.settings.state_dir)
    bare_second, _, _ = await bench.bare_fork(machine)
    if command:
        bare_second.exec(command)
    floor = _memory_mib(bench.system.settings.state_dir) - before
    for bare in (bare_first, bare_second):
        bare.end()
    return ours, floor


def _memory_mib(state_dir: Path) -> float:
    """Return the proportional set size of all machines of a state directory together."""
    return sum(_pss_kib(identity.pid) for identity, _ in find_machines(state_dir)) / 1024


def _pss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


@attrs.frozen
class _Idle:
    """What a herd of idle workspaces costs, each."""

    supervisor_mib: float
    supervisor_percent: float
    machine_percent: float
    bare_percent: float


_idle: dict[int, _Idle] = {}


async def _herd(bench: Bench, number: int) -> _Idle:
    """Measure a herd, once for the rows that share a round."""
    if number not in _idle:
        state_dir = bench.system.settings.state_dir
        parent = await bench.create("herd")
        _give_back()
        before = _resident_mib()
        herd = list(await parent.fork(HERD))
        supervisor_mib = (_resident_mib() - before) / HERD
        pids = [identity.pid for identity, _ in find_machines(state_dir)]
        await trio.sleep(SETTLE_S)
        own, machines = time.process_time(), _seconds_of(pids)
        await trio.sleep(IDLE_S)
        own, machines = time.process_time() - own, _seconds_of(pids) - machines
        await _destroy_all([parent, *herd])
        bare = await _bare_percent(bench)
        share = 100 / IDLE_S
        _idle[number] = _Idle(supervisor_mib, own * share / HERD, machines * share / len(pids), bare)
    return _idle[number]


async def _bare_percent(bench: Bench) -> float:
    """Return what a few bare machines cost, each."""
    machines = [(await bench.bare_restore())[1] for _ in range(HERD // 4)]
    pids = [machine.process.pid for machine in machines]
    await trio.sleep(SETTLE_S)
    before = _seconds_of(pids)
    await trio.sleep(IDLE_S)
    percent = (_seconds_of(pids) - before) * 100 / IDLE_S / len(pids)
    for machine in machines:
        machine.end()
    return percent


async def _destroy_all(workspaces: list[Workspace]) -> None:
    async with trio.open_nursery() as nursery:
        for workspace in workspaces:
            nursery.start_soon(workspace.destroy)


def _give_back() -> None:
    """Return to the system what is free, so that what is taken from now on is seen."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _seconds_of(pids: list[int]) -> float:
    """Return the processor time that processes have used, in user and system mode."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S


async def _idle_cpu(bench: Bench, number: int) -> Found:
    found = await _herd(bench, number)
    return Found.pair(found.machine_percent, found.bare_percent)


async def _supervisor_cpu(bench: Bench, number: int) -> Found:
    return Found(((await _herd(bench, number)).supervisor_percent,))


async def _supervisor_memory(bench: Bench, number: int) -> Found:
    return Found(((await _herd(bench, number)).supervisor_mib,))


PLANS: Final = (
    Plan("marginal_memory", "MiB", 3, 1, Aim(), _marginal_memory),
    Plan("marginal_memory_used", "MiB", 3, 1, Aim(), _marginal_memory_used),
    Plan("idle_cpu", "%", 1, 1, Aim(), _idle_cpu),
    Plan("supervisor_cpu", "%", 1, 1, Aim(max_p50=0.1), _supervisor_cpu),
    Plan("supervisor_memory", "MiB", 1, 1, Aim(max_p50=2), _supervisor_memory),
)
