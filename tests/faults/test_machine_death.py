"""Machines that are killed or stopped from outside while somebody uses them."""

from __future__ import annotations

import os
import signal

import pytest
import trio

import agentiso
from actors.model.errors import GuestBroken, IllegalState, MachineFailed
from tests.faults.helpers import LIMIT_S, files, output, processes, qemu_pid, record_of, until

pytestmark = pytest.mark.faults


async def test_an_exec_whose_qemu_is_killed_ends_at_once_and_the_others_go_on(system: agentiso.System) -> None:
    state_dir = system.settings.state_dir
    with trio.fail_after(LIMIT_S):
        victim, bystander = await system.create("victim"), await system.create("bystander")
        await output(victim, "echo 'these are the last words' > /dev/console")
        errors: list[GuestBroken] = []

        async def run_forever() -> None:
            with pytest.raises(GuestBroken) as caught:
                await victim.exec("touch /run/started; sleep 1000", timeout_s=1000)
            errors.append(caught.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_forever)
            await output(victim, "while [ ! -e /run/started ]; do sleep 0.1; done")
            beside = bystander.exec("sleep 1; echo unharmed")
            with trio.fail_after(LIMIT_S / 2):
                os.kill(qemu_pid(state_dir, "victim"), signal.SIGKILL)
                assert b"unharmed" in (await beside).stdout
        assert "outcome of 'exec' is unknown" in errors[0].message

        while (info := await victim.info()).state != "failed":
            await trio.sleep(0.01)
        assert "these are the last words" in (info.failure or "")
        with pytest.raises(IllegalState, match="these are the last words"):
            await victim.exec("true")
        await victim.destroy()
        assert [info.name for info in await system.list()] == ["bystander"]
        assert await output(bystander, "echo still") == "still"


async def test_a_stopped_qemu_bounds_an_exec_by_its_own_limit_and_goes_on_when_it_is_continued(
    system: agentiso.System,
) -> None:
    with trio.fail_after(LIMIT_S):
        ws = await system.create("frozen")
        pid = qemu_pid(system.settings.state_dir, "frozen")
        os.kill(pid, signal.SIGSTOP)
        with trio.fail_after(LIMIT_S / 2), pytest.raises(GuestBroken, match="outcome of 'exec' is unknown"):
            await ws.exec("true", timeout_s=1)
        os.kill(pid, signal.SIGCONT)
        assert await output(ws, "echo thawed") == "thawed"
        os.kill(pid, signal.SIGSTOP)
        with trio.fail_after(LIMIT_S / 2):
            await ws.destroy()
        assert await system.list() == ()


async def test_a_fork_of_a_stopped_qemu_fails_and_the_parent_is_whole_when_it_is_continued(
    system: agentiso.System,
) -> None:
    with trio.fail_after(LIMIT_S):
        parent = await system.create("frozen")
        await output(parent, "echo kept > /root/f; sync")
        before = files(system.settings.state_dir)
        pid = qemu_pid(system.settings.state_dir, "frozen")
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(MachineFailed, match="did not answer"):
            await parent.fork(1)
        os.kill(pid, signal.SIGCONT)
        # Not paused for ever by the command that came too late.
        assert await output(parent, "echo more >> /root/f; cat /root/f") == "kept\nmore"
        assert files(system.settings.state_dir) == before
        child = (await parent.fork(1))[0]
        assert await output(child, "cat /root/f") == "kept\nmore"


async def test_a_qemu_killed_during_a_fork_fails_the_workspace_which_the_next_supervisor_takes_up(
    settings: agentiso.Settings,
) -> None:
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(settings, keep=True) as system:
            parent = await system.create("parent")
            await output(parent, "echo kept > /root/f; sync")
            checkpoints = settings.state_dir / "checkpoints"
            known = set(checkpoints.iterdir())

            async def kill() -> None:
                await until(lambda: set(checkpoints.iterdir()) - known)
                os.kill(qemu_pid(settings.state_dir, "parent"), signal.SIGKILL)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill)
                with pytest.raises((MachineFailed, IllegalState)):
                    await parent.fork(1)
            while (await parent.info()).state != "failed":
                await trio.sleep(0.01)
            assert record_of(settings.state_dir, "parent")["machine"] is None
            assert set(checkpoints.iterdir()) == known
        async with agentiso.open_system(settings) as system:
            parent = await system.get("parent")
            assert (await parent.info()).state == "failed"
            assert (await parent.start()).started_by == "cold_boot"
            assert await output(parent, "cat /root/f") == "kept"
            await parent.destroy()
            assert await system.list() == ()


async def test_a_cancelled_system_ends_its_machines_and_removes_its_workspaces(settings: agentiso.Settings) -> None:
    before = files(settings.state_dir)
    with trio.fail_after(LIMIT_S):
        with trio.CancelScope() as scope:
            async with agentiso.open_system(settings) as system:
                parent = await system.create("parent")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(parent.fork, 2)
                    await until(lambda: len(files(settings.state_dir)["workspaces"]) == 3)
                    scope.cancel(reason="whoever opened it has had enough")
        assert scope.cancelled_caught
        assert processes(settings.state_dir) == set()
        assert files(settings.state_dir)["workspaces"] == set()
        async with agentiso.open_system(settings) as system:
            assert await system.list() == ()
            assert files(settings.state_dir) == before


async def test_a_workspace_that_cannot_be_taken_up_keeps_no_other_from_it_and_loses_no_file(
    settings: agentiso.Settings,
) -> None:
    state_dir = settings.state_dir
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(settings, keep=True) as system:
            for name in ("damaged", "whole"):
                await output(await system.create(name), "echo kept > /dev/shm/f")
        record = record_of(state_dir, "damaged")
        path = state_dir / "workspaces" / record["id"][:8] / "record.json"
        content = path.read_bytes()
        path.write_bytes(content[:100])
        async with agentiso.open_system(settings, keep=True) as system:
            assert [info.name for info in await system.list()] == ["whole"]
            await (await system.get("whole")).destroy()
            assert (state_dir / "layers" / f"{record['layer']}.qcow2").exists()
        path.write_bytes(content)
        async with agentiso.open_system(settings) as system:
            mended = await system.get("damaged")
            assert await output(mended, "cat /dev/shm/f") == "kept"
            await mended.destroy()
