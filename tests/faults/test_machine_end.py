"""Machines that end without being asked to, inside or from outside: why, and what can be read and done afterwards."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import attrs
import pytest
import trio

import agentiso
from actors.machine.descriptors import CONSOLE
from actors.machine.network.user import UserNetwork
from actors.machine.qemu import logs
from actors.model.errors import GuestBroken, IllegalState, MachineFailed
from tests.faults.helpers import LIMIT_S, CommandLine, output, processes, qemu_pid, until, write_program

pytestmark = pytest.mark.faults
BUSYBOX = "/run/agentiso/layer/bin/busybox"
PANIC = "echo c > /proc/sysrq-trigger"
INSIDE = {
    "guest_shutdown": (f"{BUSYBOX} poweroff -f", "powered itself off", "reboot: Power down"),
    "guest_reboot": (f"{BUSYBOX} reboot -f", "rebooted", "reboot: Restarting system"),
    "panic": (PANIC, "kernel panicked: sysrq triggered crash", "Kernel panic - not syncing: sysrq triggered crash"),
}
OUTSIDE = {
    "signal": (signal.SIGKILL, "SIGKILL"),
    "qemu_abort": (signal.SIGABRT, "QEMU crashed (SIGABRT)"),
}


async def failed(ws: agentiso.Workspace) -> agentiso.WorkspaceInfo:
    while (info := await ws.info()).state != "failed":
        await trio.sleep(0.01)
    return info


async def end_inside(ws: agentiso.Workspace, command: str) -> agentiso.WorkspaceInfo:
    with pytest.raises(GuestBroken):
        await ws.exec(command)
    return await failed(ws)


async def check_that_it_is_told(ws: agentiso.Workspace, reason: str, said: str, line: str) -> None:
    info = await failed(ws)
    assert info.ended is not None
    assert (info.ended.reason, info.ended.console_line) == (reason, line)
    assert said in (info.failure or "")
    assert "Start it again from its disk" in (info.failure or "")
    assert line in await ws.console()
    with pytest.raises(IllegalState) as caught:
        await ws.exec("true")
    assert said in caught.value.message
    assert caught.value.facts["ended"] == reason


@pytest.mark.parametrize("reason", INSIDE)
async def test_a_guest_that_ends_its_machine_is_told_of_with_its_last_console(
    settings: agentiso.Settings, reason: str
) -> None:
    command, said, line = INSIDE[reason]
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(settings, keep=True) as system:
            ws = await system.create("victim")
            await end_inside(ws, command)
            await check_that_it_is_told(ws, reason, said, line)
        async with agentiso.open_system(settings) as system:
            ws = await system.get("victim")
            await check_that_it_is_told(ws, reason, said, line)
            info = await ws.start()
            assert (info.ended, info.failure) == (None, None)
            await ws.destroy()


@pytest.mark.parametrize("network", ["none", "user"])
@pytest.mark.parametrize("reason", ["guest_shutdown", "guest_reboot"])
async def test_a_restored_machine_of_any_network_ends_as_its_guest_says(
    settings: agentiso.Settings, reason: str, network: str
) -> None:
    command, said, line = INSIDE[reason]
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(attrs.evolve(settings, network=network)) as system:
            ws = await system.create("victim")
            await end_inside(ws, command)
            await check_that_it_is_told(ws, reason, said, line)


async def test_what_an_earlier_release_put_away_comes_back_with_its_memory_and_is_forked(
    settings: agentiso.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    wired = attrs.evolve(settings, network="user")
    with trio.fail_after(LIMIT_S):
        with monkeypatch.context() as patch:
            today = UserNetwork.devices
            patch.setattr(UserNetwork, "devices", lambda self, mac, **_options: today(self, mac, announces=True))
            async with agentiso.open_system(wired, keep=True) as system:
                ws = await system.create("before")
                await output(ws, "echo kept > /dev/shm/f")
                await ws.suspend()
        async with agentiso.open_system(wired) as system:
            ws = await system.get("before")
            assert (await ws.resume()).started_by == "restore"
            forked = await ws.fork(1)
            for found in (ws, forked.workspaces[0]):
                assert await output(found, "cat /dev/shm/f") == "kept"
            await ws.destroy()


@pytest.mark.parametrize("reason", OUTSIDE)
async def test_a_qemu_that_a_signal_ends_is_told_of_with_the_signal(settings: agentiso.Settings, reason: str) -> None:
    number, said = OUTSIDE[reason]
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(settings, keep=True) as system:
            ws = await system.create("victim")
            await output(ws, "echo 'the last words' > /dev/console")
            os.kill(qemu_pid(settings.state_dir, "victim"), number)
            await check_that_it_is_told(ws, reason, said, "the last words")
            info = await ws.info()
            assert info.ended is not None
            assert info.ended.signal == number.name
        async with agentiso.open_system(settings) as system:
            ws = await system.get("victim")
            await check_that_it_is_told(ws, reason, said, "the last words")
            await ws.destroy()


async def test_a_guest_that_panics_while_no_supervisor_runs_is_told_of_by_its_console(
    settings: agentiso.Settings,
) -> None:
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(settings, keep=True) as system:
            ws = await system.create("victim")
            await output(ws, f"(sleep 3; {PANIC}) >/dev/null 2>&1 &")
        await until(lambda: not processes(settings.state_dir))
        async with agentiso.open_system(settings) as system:
            ws = await system.get("victim")
            await check_that_it_is_told(ws, *("panic", *INSIDE["panic"][1:]))
            assert "while no supervisor watched it" in ((await ws.info()).failure or "")
            await ws.destroy()


async def test_an_adopted_machine_tells_why_it_ended_too(settings: agentiso.Settings) -> None:
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(settings, keep=True) as system:
            await system.create("victim")
        async with agentiso.open_system(settings, keep=True) as system:
            ws = await system.get("victim")
            await end_inside(ws, PANIC)
            await check_that_it_is_told(ws, *("panic", *INSIDE["panic"][1:]))
            await ws.start()
            await output(ws, "echo 'the last words' > /dev/console")
        async with agentiso.open_system(settings) as system:
            ws = await system.get("victim")
            os.kill(qemu_pid(settings.state_dir, "victim"), signal.SIGKILL)
            await check_that_it_is_told(ws, "signal", "SIGKILL", "the last words")
            await ws.destroy()


async def test_the_logs_of_a_machine_that_does_not_come_up_can_be_read(
    settings: agentiso.Settings, tmp_path: Path
) -> None:
    broken = write_program(
        tmp_path / "qemu",
        '#!/bin/sh\ncase " $* " in *" --version "*|*agentiso.probe=1*) exec qemu-system-x86_64 "$@" ;; esac\n'
        f"echo 'the console speaks' >&{CONSOLE}; echo 'no such luck' >&2; exit 3\n",
    )
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(settings, keep=True) as system:
            ws = await system.create("victim")
            await output(ws, "echo 'all is well' > /dev/console")
            await ws.stop()
            assert "all is well" in await ws.console()
        async with agentiso.open_system(attrs.evolve(settings, qemu_binary=broken)) as system:
            ws = await system.get("victim")
            with pytest.raises(MachineFailed):
                await ws.start()
            assert (await ws.console(), await ws.qemu_log()) == ("the console speaks\n", "no such luck\n")
            await ws.destroy()


async def test_undo_does_not_give_a_machine_away_for_the_disk_of_one_that_had_failed(system: agentiso.System) -> None:
    with trio.fail_after(LIMIT_S):
        ws = await system.create("victim")
        await ws.snapshots.create("good")
        await output(ws, "echo lost > /root/f; sync")
        assert "restore a snapshot" in ((await end_inside(ws, PANIC)).failure or "")
        # It is looked at by machines of their own, whose logs replace nobody's.
        assert "/root/f" in {change.path for change in (await ws.snapshots.diff("good", path="/root")).changes}
        assert "Kernel panic" in await ws.console()
        await ws.snapshots.restore("good")
        await output(ws, "echo kept > /dev/shm/f")
        with pytest.raises(IllegalState, match="had failed before") as caught:
            await ws.undo()
        assert "Stop the workspace first" in caught.value.remedy
        assert await output(ws, "cat /dev/shm/f") == "kept"
        await ws.stop()
        info = await ws.undo()
        assert (info.state, info.ended, info.undo) == ("stopped", None, ())
        assert "stopped now" in info.note
        await ws.start()
        assert await output(ws, "cat /root/f") == "lost"


async def test_a_guest_that_writes_to_its_console_for_ever_fills_no_disk(
    settings: agentiso.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, most = 16 * 1024, 32 * 1024
    monkeypatch.setattr(logs, "KEPT_BYTES", kept)
    monkeypatch.setattr(logs, "MOST_BYTES", most)
    monkeypatch.setattr(logs, "LOOK_S", 0.05)
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(settings, keep=True) as system:
            ws = await system.create("flood")
            await output(ws, "(yes 'for ever and ever' > /dev/console) 2>/dev/null &")
        # Also that of a machine that was adopted.
        async with agentiso.open_system(settings) as system:
            ws = await system.get("flood")
            (log,) = settings.state_dir.glob("workspaces/*/machines/*/console.log")
            for _ in range(3):
                await until(lambda: log.stat().st_size > most)
                await until(lambda: log.stat().st_size < most)
            assert "for ever and ever\r\nfor ever and ever" in await ws.console()
            os.kill(qemu_pid(settings.state_dir, "flood"), signal.SIGKILL)
            await failed(ws)
            (log,) = settings.state_dir.glob("workspaces/*/logs/console.log")
            assert log.stat().st_size <= most
            await ws.destroy()


async def test_the_command_line_shows_why_a_machine_ended_and_its_logs(cli: CommandLine) -> None:
    with trio.fail_after(LIMIT_S):
        await cli.json("create", "victim")
        assert (await cli.run("exec", "victim", "--", PANIC)).returncode != 0

        async def text(*arguments: str) -> str:
            return (await cli.run(*arguments)).stdout.decode()

        while "failed" not in (shown := await text("info", "victim")):
            await trio.sleep(0.1)
        assert "ended      panic" in shown
        assert "kernel panicked: sysrq triggered crash" in shown
        assert "failed (panic)" in await text("list")
        await cli.run("daemon", "stop")
        assert "Kernel panic - not syncing: sysrq triggered crash" in await text("logs", "victim", "--of", "console")
