"""The tree of snapshots, the way back from a restore, and a workspace that is put away."""

from __future__ import annotations

import json
import time
from pathlib import Path

import attrs
import pytest
import trio

import agentiso
from actors.machine.storage import qcow2
from actors.model.errors import CheckpointUnusable, IllegalState, NotFound
from agentiso import System, Workspace
from tests.templates import give

pytestmark = pytest.mark.functional
LIMIT_S = 600


async def output(workspace: Workspace, command: str) -> str:
    result = await workspace.exec(command)
    assert result.exit_code == 0, result
    return result.stdout.decode().strip()


async def mark(workspace: Workspace, text: str) -> None:
    """Write the same to memory and to the disk."""
    await output(workspace, f"echo {text} > /dev/shm/mark; echo {text} > /root/mark")


async def marks(workspace: Workspace) -> list[str]:
    return (await output(workspace, "cat /dev/shm/mark /root/mark")).split()


async def branches(workspace: Workspace) -> dict[str, str | None]:
    return {snapshot.name: snapshot.parent for snapshot in await workspace.snapshots.list()}


async def heads(workspace: Workspace) -> list[str]:
    return [snapshot.name for snapshot in await workspace.snapshots.list() if snapshot.is_head]


async def test_any_node_is_restored_without_loss_of_others_and_the_tree_branches_there(system: System) -> None:
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("branching")
        for name in ("a", "b", "c"):
            await mark(workspace, name)
            await workspace.snapshots.create(name)
        await workspace.snapshots.restore("a")
        assert await marks(workspace) == ["a", "a"]
        await mark(workspace, "d")
        await workspace.snapshots.create("d")
        assert await branches(workspace) == {"a": None, "b": "a", "c": "b", "d": "a"}
        for name in ("c", "b", "d", "a"):
            await workspace.snapshots.restore(name)
            assert await marks(workspace) == [name, name]
            assert await heads(workspace) == [name]


async def test_a_restore_is_undone_several_times_over_memory_and_disk(system: System) -> None:
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("undoing")
        await mark(workspace, "first")
        await workspace.snapshots.create("first")
        for text in ("second", "third"):
            await mark(workspace, text)
            await workspace.snapshots.restore("first")
        assert [step.before for step in (await workspace.info()).undo] == ["restore of first"] * 2
        assert "undone" in (await workspace.undo()).note
        assert await marks(workspace) == ["third", "third"]
        await workspace.undo()
        assert await marks(workspace) == ["second", "second"]
        with pytest.raises(NotFound, match="can be undone"):
            await workspace.undo()


async def test_undo_steps_are_bounded_and_take_their_files_with_them(system: System) -> None:
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("bounded")
        await workspace.snapshots.create("one")
        checkpoints = system.settings.state_dir / "checkpoints"
        limit = system.settings.limits.max_undo
        counts = []
        for _ in range(limit + 2):
            await workspace.snapshots.restore("one")
            counts.append(len(list(checkpoints.iterdir())))
        assert len((await workspace.info()).undo) == limit
        assert counts[-1] == counts[-2] == max(counts)


async def test_a_node_is_deleted_alone_or_with_all_that_stand_on_it(system: System) -> None:
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("pruned")
        for name in ("a", "b", "c", "d"):
            await mark(workspace, name)
            await workspace.snapshots.create(name)
        assert await workspace.snapshots.delete("b") == ("b",)
        assert await branches(workspace) == {"a": None, "c": "a", "d": "c"}
        await workspace.snapshots.restore("c")
        assert await marks(workspace) == ["c", "c"]
        assert await workspace.snapshots.delete("c", cascade=True) == ("c", "d")
        assert await branches(workspace) == {"a": None}
        assert await heads(workspace) == ["a"]
        assert await marks(workspace) == ["c", "c"]
        await workspace.snapshots.restore("a")
        assert await marks(workspace) == ["a", "a"]


async def test_a_suspended_workspace_has_no_machine_and_resumes_where_it_was(system: System) -> None:
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("sleeper")
        await mark(workspace, "kept")
        await output(workspace, "sleep 1000 > /dev/null 2>&1 &")
        info = await workspace.suspend()
        assert (info.state, info.suspended_by) == ("suspended", "request")
        assert not list(system.settings.state_dir.glob("workspaces/*/machines/*"))
        with pytest.raises(IllegalState, match="suspended"):
            await workspace.exec("true")
        snapshot = await workspace.snapshots.create("asleep")
        assert snapshot.has_memory
        child = (await workspace.fork(1))[0]
        assert await marks(child) == ["kept", "kept"]
        info = await workspace.resume()
        assert (info.state, info.started_by) == ("running", "restore")
        assert info.evidence is not None
        assert info.evidence.processes_held
        assert await marks(workspace) == ["kept", "kept"]
        assert await output(workspace, "pgrep -xc sleep") == "1"
        await workspace.snapshots.restore("asleep")
        assert await marks(workspace) == ["kept", "kept"]


async def test_a_paused_machine_stands_still_and_can_be_snapshotted_and_forked(system: System) -> None:
    ticker = (
        "(while :; do date +%s%N > /dev/shm/new; mv /dev/shm/new /dev/shm/tick; sleep 0.02; done) > /dev/null 2>&1 &"
    )
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("still")
        await output(workspace, ticker + " while [ ! -e /dev/shm/tick ]; do sleep 0.1; done")
        assert (await workspace.pause()).state == "paused"
        paused_ns = time.time_ns()
        with pytest.raises(IllegalState, match="paused"):
            await workspace.exec("true")
        await workspace.snapshots.create("still")
        child = (await workspace.fork(1))[0]
        assert (await workspace.info()).state == "paused"
        await workspace.resume()
        assert int(await output(workspace, "sleep 1; cat /dev/shm/tick")) > paused_ns
        assert int(await output(child, "sleep 1; cat /dev/shm/tick")) > paused_ns
        await workspace.pause()
        await workspace.suspend()
        await workspace.resume()
        await workspace.snapshots.restore("still")
        assert await output(workspace, "echo alive") == "alive"


async def test_a_stopped_workspace_is_snapshotted_forked_restored_and_started(system: System) -> None:
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("stopped", vcpus=1, memory_mb=256)
        await mark(workspace, "first")
        await workspace.snapshots.create("running")
        await mark(workspace, "second")
        assert (await workspace.stop()).state == "stopped"
        assert not (await workspace.snapshots.create("at-rest")).has_memory
        child = (await workspace.fork(1))[0]
        assert (await child.info()).started_by == "cold_boot"
        assert await output(child, "cat /root/mark") == "second"
        assert (await workspace.start()).started_by == "cold_boot"
        assert await output(workspace, "cat /root/mark; ls /dev/shm") == "second"
        await workspace.stop()
        await workspace.snapshots.restore("running")
        assert await marks(workspace) == ["first", "first"]
        assert (await workspace.undo()).state == "stopped"
        await workspace.start()
        assert await output(workspace, "cat /root/mark") == "second"
        assert await branches(workspace) == {"running": None, "at-rest": "running"}


async def test_a_snapshots_disk_alone_is_whole_and_boots(system: System) -> None:
    """It was written out when the snapshot was taken, though nobody in the guest asked for that."""
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("disk", vcpus=1, memory_mb=256)
        await mark(workspace, "unsynced")
        await workspace.snapshots.create("both")
        info = await workspace.snapshots.restore("both", disk_only=True)
        assert info.started_by == "cold_boot"
        assert await output(workspace, "cat /root/mark; ls /dev/shm") == "unsynced"


async def test_memory_for_another_host_is_refused_with_the_difference_and_its_disk_is_offered(system: System) -> None:
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("foreign", vcpus=1, memory_mb=256)
        await mark(workspace, "kept")
        root = system.settings.state_dir / "checkpoints"
        before = set(root.iterdir())
        await workspace.snapshots.create("point")
        (made,) = set(root.iterdir()) - before
        record = made / "checkpoint.json"
        while not json.loads(record.read_text())["digest"]:
            await trio.sleep(0.01)
        record.write_text(record.read_text().replace('"qemu": "', '"qemu": "another '))
        with pytest.raises(CheckpointUnusable, match=r"qemu: another .* here.*disk_only"):
            await workspace.snapshots.restore("point")
        assert await marks(workspace) == ["kept", "kept"]
        await workspace.snapshots.restore("point", disk_only=True)
        assert await output(workspace, "cat /root/mark") == "kept"


async def test_an_idle_workspace_is_suspended_and_wakes_when_it_is_asked_for_something(system: System) -> None:
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("drowsy", lifetime=agentiso.Lifetime(idle_suspend_s=0.5))
        await mark(workspace, "kept")
        busy = await workspace.exec("sleep 2; echo done")
        assert busy.stdout == b"done\n"
        while (info := await workspace.info()).state != "suspended":
            await trio.sleep(0.05)
        assert info.suspended_by == "idle"
        assert await marks(workspace) == ["kept", "kept"]
        assert (await workspace.set_lifetime()).idle_suspend_s is None


async def test_a_workspace_is_destroyed_when_its_time_is_over_and_not_before(system: System) -> None:
    with trio.fail_after(LIMIT_S):
        lasting = await system.create("lasting", lifetime=agentiso.Lifetime(ttl_s=3600))
        brief = await system.create("brief")
        info = await brief.set_lifetime(ttl_s=1)
        assert info.expires_at is not None
        while len(await system.list()) > 1:
            assert time.time() < info.expires_at + LIMIT_S
            await trio.sleep(0.05)
        assert time.time() >= info.expires_at
        assert await output(lasting, "echo alive") == "alive"
        with pytest.raises(NotFound):
            await system.get("brief")


@pytest.fixture
def small(images_dir: Path, state_dir: Path) -> agentiso.Settings:
    """Settings of small machines, with a state directory that has their template."""
    shape = agentiso.Shape(vcpus=1, memory_mb=256, disk_gb=1)
    return give(agentiso.Settings(state_dir=state_dir, images_dir=images_dir, shape=shape, network="none"))


async def test_what_was_put_away_outlives_its_supervisor(small: agentiso.Settings) -> None:
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(small, keep=True) as opened:
            asleep = await opened.create("asleep")
            await mark(asleep, "kept")
            still = (await asleep.fork(1, names=["still"]))[0]
            await asleep.suspend()
            await still.pause()
        async with agentiso.open_system(small, keep=True) as opened:
            asleep, still = await opened.get("asleep"), await opened.get("still")
            assert [info.state for info in await opened.list()] == ["suspended", "paused"]
            for workspace in (asleep, still):
                await workspace.resume()
                assert await marks(workspace) == ["kept", "kept"]
                await workspace.destroy()


async def test_the_disk_of_a_much_forked_workspace_stands_on_few_layers_and_loses_nothing(
    small: agentiso.Settings,
) -> None:
    other = attrs.evolve(small, limits=attrs.evolve(small.limits, max_disk_layers=4))
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(other) as opened:
            workspace = await opened.create("forked")
            first = None
            for number in range(10):
                await output(workspace, f"head -c 300000 /dev/urandom > /root/{number}; sync")
                child = (await workspace.fork(1))[0]
                first = first or child
                if child is not first:
                    await child.destroy()
                assert len(layers_of(other.state_dir, workspace)) <= 5
            sums = await output(workspace, "cd /root; sha256sum *")
            assert len(sums.splitlines()) == 10
            # What the guest has cached is not what its disk has.
            await workspace.stop()
            await workspace.start()
            assert await output(workspace, "cd /root; sha256sum *") == sums
            assert first is not None
            assert await output(first, "cd /root; sha256sum *") == sums.splitlines()[0]


def layers_of(state_dir: Path, workspace: agentiso.Workspace) -> list[Path]:
    record = json.loads((state_dir / "workspaces" / workspace.id[:8] / "record.json").read_text())
    return qcow2.backing_chain(state_dir / "layers" / f"{record['layer']}.qcow2")
