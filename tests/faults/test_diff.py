"""A comparison that is cancelled, or whose helper dies, leaves nothing behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

import agentiso
from actors.model.errors import AgentisoError
from tests.faults.helpers import LIMIT_S, files, output, qemu_pid, until

pytestmark = pytest.mark.faults


def machines(state_dir: Path) -> set[str]:
    return {path.name for path in state_dir.glob("workspaces/*/machines/*")}


@pytest.mark.parametrize("how", ["cancelled", "killed"])
async def test_a_comparison_that_ends_early_leaves_no_helper(system: agentiso.System, how: str) -> None:
    state_dir = system.settings.state_dir
    with trio.fail_after(LIMIT_S):
        ws = await system.create("whole")
        await ws.snapshots.create("one")
        before, own = files(state_dir), machines(state_dir)
        failures: list[AgentisoError] = []
        async with trio.open_nursery() as nursery:

            async def compare() -> None:
                try:
                    await ws.snapshots.diff("one", "one")
                except AgentisoError as error:
                    failures.append(error)

            nursery.start_soon(compare)
            await until(lambda: machines(state_dir) - own)
            if how == "cancelled":
                nursery.cancel_scope.cancel(reason="the test")
            else:
                (helper, *_) = await until(lambda: helpers(state_dir, qemu_pid(state_dir, "whole")))
                os.kill(helper, signal.SIGKILL)
        assert bool(failures) == (how == "killed")
        await until(lambda: machines(state_dir) == own)
        await until(lambda: files(state_dir) == before)
        assert await output(ws, "echo alive") == "alive"
        assert (await ws.snapshots.diff("one", "one", path="/etc")).changes == ()


def helpers(state_dir: Path, own: int) -> list[int]:
    """Return the QEMU processes of a state directory but one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if b"qemu-system" in words.split(b"\0")[0] and f"{state_dir}/".encode() in words:
            found.append(int(path.parent.name))
    return [pid for pid in found if pid != own]
