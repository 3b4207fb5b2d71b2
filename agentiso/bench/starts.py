"""Rows about machines that come and go: create, boot, suspend, resume."""

from __future__ import annotations

import shutil
import time
from typing import Final

from agentiso.bench.bench import Bench, Plan, ms_since
from agentiso.bench.peer import run_true
from agentiso.bench.result import Aim, Found


async def _create_to_exec(bench: Bench, number: int) -> Found:
    began = time.perf_counter()
    workspace = await bench.system.create(f"create-{number}")
    await workspace.exec("true")
    ours = ms_since(began)
    await workspace.destroy()
    bare, machine = await bench.bare_restore()
    machine.end()
    return Found((ours,), (bare,), await run_true())


async def _create_to_exec_pool(bench: Bench, number: int) -> Found:
    system = await bench.pooled()
    began = time.perf_counter()
    workspace = await system.create(f"create-{number}")
    await workspace.exec("true")
    ours = ms_since(began)
    await workspace.destroy()
    await bench.pooled()
    bare, machine = await bench.bare_restore()
    machine.end()
    return Found((ours,), (bare,), await run_true())


async def _cold_boot(bench: Bench, _number: int) -> Found:
    workspace = await bench.create("cold")
    await workspace.snapshots.create("disk", include_memory=False)
    began = time.perf_counter()
    await workspace.snapshots.restore("disk")
    await workspace.exec("true")
    ours = ms_since(began)
    await workspace.destroy()
    bare, machine = await bench.bare_boot()
    machine.end()
    return Found.pair(ours, bare)


async def _suspend(bench: Bench, _number: int) -> Found:
    """Suspend; the floor: the same checkpoint, not flushed, and the machine's end."""
    workspace = await bench.create("suspended")
    began = time.perf_counter()
    await workspace.suspend()
    ours = ms_since(began)
    await workspace.destroy()
    _, machine = await bench.bare_restore()
    directory = bench.scratch / f"suspended-{bench.number()}"
    began = time.perf_counter()
    machine.checkpoint(directory, machine.spec.directory / "next.qcow2", (await bench.template()).disk_bytes)
    machine.end()
    bare = ms_since(began)
    shutil.rmtree(directory)
    return Found.pair(ours, bare)


async def _resume_to_exec(bench: Bench, _number: int) -> Found:
    workspace = await bench.create("resumed")
    await workspace.suspend()
    began = time.perf_counter()
    await workspace.resume()
    await workspace.exec("true")
    ours = ms_since(began)
    await workspace.destroy()
    bare, machine = await bench.bare_restore()
    machine.end()
    return Found.pair(ours, bare)


PLANS: Final = (
    Plan("create_to_exec", "ms", 20, 3, Aim(max_ratio=1.25, beats_peer=True), _create_to_exec),
    Plan("create_to_exec_pool", "ms", 10, 2, Aim(max_ratio=1, beats_peer=True), _create_to_exec_pool),
    Plan("suspend", "ms", 10, 2, Aim(), _suspend),
    Plan("resume_to_exec", "ms", 10, 2, Aim(max_ratio=1.25), _resume_to_exec),
    Plan("cold_boot", "ms", 3, 1, Aim(max_ratio=1.25), _cold_boot),
)
