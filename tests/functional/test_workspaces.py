"""Workspaces on real QEMU machines."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import trio

import agentiso
from actors.machine import start
from actors.model.errors import (
    GuestBroken,
    GuestRefused,
    InvalidArgument,
    InvalidName,
    NameTaken,
    NoCapacity,
    NotFound,
    SupervisorRunning,
)
from imagebuild import ImageError

pytestmark = pytest.mark.functional
LIMIT_S = 600
COUNTER = (
    "(i=0; while :; do i=$((i+1)); echo $i > /dev/shm/c.new; mv /dev/shm/c.new /dev/shm/c; sleep 0.05; done) "
    ">/dev/null 2>&1 &"
)


async def output(ws: agentiso.Workspace, command: str) -> str:
    result = await ws.exec(command)
    assert result.exit_code == 0, result
    return result.stdout.decode().strip()


async def test_a_workspace_is_created_with_proof_and_has_its_own_identity(system: agentiso.System) -> None:
    with trio.fail_after(LIMIT_S):
        ws = await system.create("first")
        info = await ws.info()
        began = time.time()
        shown = await output(ws, "hostname; cat /etc/machine-id; cat /sys/class/net/eth0/address; date +%s")
        ended = time.time()
    assert info.state == "running"
    assert info.started_by == "restore"
    assert info.evidence is not None
    assert info.evidence.nonce_matched
    assert info.evidence.rng_reseeded
    hostname, machine_id, mac, now = shown.split()
    assert hostname == "first"
    assert machine_id == ws.id.replace("-", "")
    assert mac == info.network.mac
    assert began - 2 <= int(now) <= ended + 2


async def test_the_root_file_system_has_the_size_asked_for(system: agentiso.System) -> None:
    with trio.fail_after(LIMIT_S):
        ws = await system.create("wide")
        kilobytes = int(await output(ws, "df -k / | tail -1 | awk '{print $2}'"))
    assert kilobytes > 9 * 1024 * 1024


async def test_children_of_a_running_workspace_go_on_from_one_instant_and_diverge(
    system: agentiso.System,
) -> None:
    with trio.fail_after(LIMIT_S):
        parent = await system.create("parent")
        await parent.files.write("/root/before", b"written just before the fork")
        await output(parent, COUNTER + " sleep 0.3")
        fork = await parent.fork(3)
        assert [child.error for child in fork.report.children] == [None] * 3
        assert fork.report.pause_ms is not None
        first = [int(await output(child, "cat /dev/shm/c")) for child in fork]
        await fork[0].files.write("/root/own", b"child")
        with pytest.raises(GuestRefused):
            await fork[1].files.read("/root/own")
        again = [int(await output(child, "sleep 0.3; cat /dev/shm/c")) for child in fork]
        contents = [(await child.files.read("/root/before")).content for child in fork]
        infos = [await child.info() for child in fork]
        randoms = {await output(child, "od -An -N16 -tx1 /dev/urandom") for child in fork}
        hostnames = [await output(child, "hostname") for child in fork]
        assert int(await output(parent, "cat /dev/shm/c")) > 0
    assert all(value > 1 for value in first)
    assert all(later > earlier for earlier, later in zip(first, again, strict=True))
    assert contents == [b"written just before the fork"] * 3
    assert len({info.network.mac for info in infos}) == 3
    assert len(randoms) == 3
    assert hostnames == ["parent-fork-1", "parent-fork-2", "parent-fork-3"]
    assert all(info.forked_from and info.forked_from.name == "parent" for info in infos)


async def test_a_chain_of_five_generations_keeps_every_generations_file(system: agentiso.System) -> None:
    with trio.fail_after(LIMIT_S):
        ws = await system.create("gen-0")
        for generation in range(5):
            await ws.files.write(f"/root/{generation}", str(generation).encode())
            child = (await ws.fork(1, names=[f"gen-{generation + 1}"]))[0]
            await ws.destroy()
            ws = child
        assert await output(ws, "cat /root/0 /root/1 /root/2 /root/3 /root/4") == "01234"
        assert await output(ws, "hostname") == "gen-5"


async def test_a_snapshot_restores_memory_and_disk_any_number_of_times(system: agentiso.System) -> None:
    with trio.fail_after(LIMIT_S):
        ws = await system.create("snapped")
        await output(ws, "echo disk > /root/d; echo memory > /dev/shm/m")
        snapshot = await ws.snapshots.create("one")
        assert snapshot.has_memory
        assert snapshot.pause_ms
        assert snapshot.seconds
        assert snapshot.seconds * 1000 >= snapshot.pause_ms
        for _ in range(2):
            await output(ws, "rm /root/d /dev/shm/m")
            info = await ws.snapshots.restore("one")
            assert info.evidence is not None
            assert info.evidence.nonce_matched
            assert await output(ws, "cat /root/d /dev/shm/m") == "disk\nmemory"
        child = (await ws.fork(1, snapshot="one"))[0]
        assert await output(child, "cat /root/d /dev/shm/m") == "disk\nmemory"
        with pytest.raises(NameTaken):
            await ws.snapshots.create("one")
        assert [(s.name, s.parent) for s in await ws.snapshots.list()] == [("one", None)]


async def test_a_disk_only_snapshot_boots_cold_and_says_so(system: agentiso.System) -> None:
    with trio.fail_after(LIMIT_S):
        ws = await system.create("cold")
        await output(ws, "echo disk > /root/d; echo memory > /dev/shm/m")
        await ws.snapshots.create("disk", include_memory=False)
        info = await ws.snapshots.restore("disk")
        assert info.started_by == "cold_boot"
        assert await output(ws, "cat /root/d; ls /dev/shm") == "disk"


async def test_a_root_disk_with_nothing_but_busybox_is_enough(images_dir: Path, state_dir: Path) -> None:
    settings = agentiso.Settings(state_dir=state_dir, images_dir=images_dir, image="busybox")
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(settings) as system:
            ws = await system.create("bare", network="none", memory_mb=256, vcpus=1)
            assert await output(ws, "/bin/busybox ls /bin") == "busybox\nsh"
            child = (await ws.fork(1))[0]
            assert await output(child, "/bin/busybox hostname") == "bare-fork-1"


async def test_bad_requests_are_refused_with_a_reason_and_leave_nothing(system: agentiso.System) -> None:
    with trio.fail_after(LIMIT_S):
        ws = await system.create("taken")
        refused: list[tuple[type[Exception], dict[str, object]]] = [
            (NameTaken, {"name": "taken"}),
            (InvalidName, {"name": "../up"}),
            (InvalidName, {"name": "a" * 64}),
            (ImageError, {"name": "x", "image": "nowhere"}),
            (InvalidArgument, {"name": "x", "memory_mb": 10**9}),
            (InvalidArgument, {"name": "x", "vcpus": 99}),
        ]
        for error, arguments in refused:
            with pytest.raises((error, agentiso.AgentisoError)) as caught:
                await system.create(**arguments)  # type: ignore[arg-type]
            assert isinstance(caught.value, error), arguments
        with pytest.raises(NotFound):
            await system.get("nobody")
        with pytest.raises(NotFound):
            await ws.snapshots.restore("nothing")
        assert [info.name for info in await system.list()] == ["taken"]


async def test_more_memory_than_the_host_has_is_refused(images_dir: Path, state_dir: Path) -> None:
    limits = agentiso.Limits(max_memory_mb=10**9)
    settings = agentiso.Settings(state_dir=state_dir, images_dir=images_dir, limits=limits)
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(settings) as system:
            with pytest.raises(NoCapacity, match="available"):
                await system.create("huge", memory_mb=10**8)


async def test_a_second_supervisor_on_one_state_directory_is_refused(system: agentiso.System) -> None:
    with pytest.raises(SupervisorRunning):
        async with agentiso.open_system(system.settings):
            pass


async def test_a_machine_that_dies_is_reported_and_starts_again_from_its_disk(
    system: agentiso.System,
) -> None:
    with trio.fail_after(LIMIT_S):
        ws = await system.create("mortal")
        await output(ws, "echo kept > /root/f; sync")
        with pytest.raises(GuestBroken, match="unknown"):
            await ws.exec("echo b > /proc/sysrq-trigger; sleep 60")
        while (await ws.info()).state != "failed":
            await trio.sleep(0.05)
        info = await ws.start()
        assert (info.state, info.started_by) == ("running", "cold_boot")
        assert await output(ws, "cat /root/f") == "kept"


async def test_a_start_that_hangs_delays_no_command_fork_or_stop_of_another_workspace(
    system: agentiso.System, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on, prove = trio.Event(), trio.Event(), start.prove

    async def hang(*arguments: Any, **options: Any) -> None:
        monkeypatch.setattr(start, "prove", prove)
        reached.set()
        await go_on.wait()
        await prove(*arguments, **options)

    with trio.fail_after(LIMIT_S):
        one, two = await system.create("one"), await system.create("two")
        monkeypatch.setattr(start, "prove", hang)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(system.create, "slow")
            await reached.wait()
            assert await output(one, "echo alive") == "alive"
            (child,) = await one.fork(1)
            assert await output(child, "hostname") == child.name
            await two.stop()
            assert "slow" not in [info.name for info in await system.list() if info.state == "running"]
            go_on.set()
        assert await output(await system.get("slow"), "echo alive") == "alive"


async def test_a_cancelled_create_or_fork_leaves_nothing_behind(system: agentiso.System) -> None:
    with trio.fail_after(LIMIT_S):
        parent = await system.create("whole")
        with trio.move_on_after(0.05):
            await system.create("half")
        with trio.move_on_after(0.15):
            await parent.fork(3)
        assert [info.name for info in await system.list()] == ["whole"]
        workspaces = list((system.settings.state_dir / "workspaces").glob("[!.]*"))
        assert len(workspaces) == 1
        assert await output(parent, "echo alive") == "alive"


async def test_machines_survive_their_supervisor_and_are_adopted(images_dir: Path, template_state: Path) -> None:
    settings = agentiso.Settings(state_dir=template_state, images_dir=images_dir)
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(settings, keep=True) as system:
            ws = await system.create("lasting")
            await output(ws, "echo here > /dev/shm/m")
            await ws.snapshots.create("kept")
        async with agentiso.open_system(settings) as system:
            ws = await system.get("lasting")
            assert await output(ws, "cat /dev/shm/m") == "here"
            child = (await ws.fork(1))[0]
            assert await output(child, "cat /dev/shm/m") == "here"
            await ws.snapshots.restore("kept")
            assert await output(ws, "cat /dev/shm/m") == "here"
        async with agentiso.open_system(settings) as system:
            # It was there before the last system was opened, so it outlived that too.
            await (await system.get("lasting")).destroy()


async def test_destroying_a_parent_leaves_its_children_whole_and_no_file_without_owner(
    system: agentiso.System,
) -> None:
    with trio.fail_after(LIMIT_S):
        parent = await system.create("old")
        await parent.files.write("/root/f", b"inherited")
        child = (await parent.fork(1, names=["new"]))[0]
        await parent.destroy()
        assert (await child.files.read("/root/f")).content == b"inherited"
        await child.destroy()
        state = system.settings.state_dir
        templates = len(list((state / "templates").glob("*.json")))
        assert len(list((state / "checkpoints").glob("[!.]*"))) == templates
        assert len(list((state / "layers").glob("[!.]*"))) == templates


async def test_a_killed_guest_agent_is_met_again_and_can_still_be_forked(system: agentiso.System) -> None:
    with trio.fail_after(LIMIT_S):
        ws = await system.create("stubborn")
        await output(ws, "echo kept > /dev/shm/f")
        with pytest.raises(GuestBroken, match="unknown"):
            await ws.exec("kill -9 -1; sleep 60")
        assert await output(ws, "cat /dev/shm/f") == "kept"
        child = (await ws.fork(1))[0]
        assert await output(child, "cat /dev/shm/f; hostname") == "kept\nstubborn-fork-1"
        assert (await child.info()).evidence
