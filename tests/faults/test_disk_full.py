"""The host's disk full: while a checkpoint is taken, while a guest writes, while a workspace is made or destroyed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio

import agentiso
from actors.model.errors import AgentisoError, NoCapacity
from tests.disks import fill, small_file_system
from tests.faults.helpers import LIMIT_S, files, output, until

pytestmark = pytest.mark.faults
MIB = 2**20
SIZE_MB = 700


@pytest.fixture
def small(settings: agentiso.Settings, tmp_path: Path) -> Iterator[agentiso.Settings]:
    """Settings whose state directory is a small file system of its own, with the template in it."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    with small_file_system(settings.state_dir, tmp_path / "disk", SIZE_MB) as path:
        yield attrs.evolve(settings, state_dir=path)


def memory_mb(state_dir: Path) -> int:
    """Return how much of the disk the template's memory takes, which a checkpoint copies first."""
    (ram,) = (state_dir / "checkpoints").glob("*/ram")
    return ram.stat().st_blocks * 512 // MIB


@pytest.mark.parametrize("stage", ["nothing fits", "the memory does not fit", "what has changed does not fit"])
async def test_a_checkpoint_that_finds_the_disk_full_fails_and_the_parent_runs_on(
    small: agentiso.Settings, stage: str
) -> None:
    state_dir = small.state_dir
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(small) as system:
            parent = await system.create("parent")
            await output(parent, "echo kept > /root/f; head -c 30000000 /dev/urandom > /dev/shm/big; sync")
            before = files(state_dir)
            rest = {"nothing fits": 0, "the memory does not fit": 20}.get(stage, memory_mb(state_dir) + 10)
            free = fill(state_dir, but_mb=rest)
            for number in (1, 2):
                with pytest.raises(NoCapacity, match="disk is full") as caught:
                    await (parent.fork(2) if number == 1 else parent.snapshots.create("full"))
                assert "Free some space" in caught.value.remedy
                # What has changed is written last, when the disk stands on its next layer already.
                more = files(state_dir)["layers"] - before["layers"]
                assert len(more) == (number if stage == "what has changed does not fit" else 0)
                assert {**files(state_dir), "layers": before["layers"]} == before
            assert await output(parent, "cat /root/f") == "kept"
            free()
            assert await output(parent, "echo more >> /root/f; sync; cat /root/f") == "kept\nmore"
            child = (await parent.fork(1))[0]
            assert await output(child, "cat /root/f") == "kept\nmore"
            assert await output(child, "sha256sum < /dev/shm/big") == await output(parent, "sha256sum < /dev/shm/big")
            assert [info.snapshots for info in await system.list()] == [(), ()]


async def test_a_guest_that_writes_to_a_full_disk_waits_and_goes_on_when_there_is_room(
    small: agentiso.Settings,
) -> None:
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(small) as system:
            ws = await system.create("writer")
            await output(ws, "sync")
            free = fill(small.state_dir, but_mb=0)
            results: list[str] = []

            async def write() -> None:
                results.append(await output(ws, "head -c 20000000 /dev/zero > /root/f && sync && wc -c < /root/f"))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                # QEMU stops a guest whose write does not fit, and so it does not answer.
                with trio.move_on_after(3) as scope:
                    await until(lambda: results)
                assert scope.cancelled_caught
                with pytest.raises(AgentisoError, match="host's disk is full"):
                    await ws.suspend()
                free()
            assert results == ["20000000"]


async def test_what_needs_room_is_refused_on_a_full_disk_and_what_gives_room_is_not(small: agentiso.Settings) -> None:
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(small) as system:
            before = files(small.state_dir)
            await system.create("first")
            await output(await system.get("first"), "sync")
            free = fill(small.state_dir, but_mb=0)
            with pytest.raises(NoCapacity, match="disk is full"):
                await system.create("second")
            assert [info.name for info in await system.list()] == ["first"]
            await (await system.get("first")).stop()
            await (await system.get("first")).destroy()
            assert files(small.state_dir) == before
            free()
            assert await output(await system.create("second"), "echo fine") == "fine"
