"""Why a machine ended, told by what real machines left, and what is kept of their logs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import memory_stream_pair

from actors.machine.qemu import logs
from actors.machine.qemu.end_reason import LINE_CHARS, Remains, explain
from actors.machine.qemu.host_oom import has_killed
from actors.machine.qemu.process import _console_of
from actors.machine.qemu.qmp import QmpClient
from actors.model.end import EndReason
from actors.model.files import tail
from actors.workspace.describe import failure_of

LIMIT_S = 10
RESET = {"guest": True, "reason": "guest-reset"}
PANIC = """\
[    6.308275] sysrq: Trigger a crash
[    6.311172] Kernel panic - not syncing: sysrq triggered crash
[    6.311597] CPU: 0 PID: 137 Comm: sh Not tainted 6.1.0-56-cloud-amd64 #1  Debian 6.1.192-2
[    6.312121] Call Trace:
[    6.313320]  <TASK>
[    6.313706]  dump_stack_lvl+0x44/0x5c
[    6.314293]  panic+0x118/0x2f4
[    6.317632] R13: 000055555575958e R14: 0000000000000000 R15: 00005555555758e0
[    6.317806]  </TASK>
[    6.318273] Kernel Offset: 0x33200000 from 0xffffffff81000000
"""
NO_MEMORY = """\
[   10.634212] tail invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0, oom_score_adj=0
[   10.648443] Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled
[   10.648733] CPU: 0 PID: 140 Comm: tail Not tainted 6.1.0-56-cloud-amd64 #1  Debian 6.1.192-2
[   10.649178]  panic+0x118/0x2f4
[   10.651691] Kernel Offset: 0x33200000 from 0xffffffff81000000
"""
REBOOT = "[    8.533940] reboot: Restarting system\n"
RESETTING = "[    6.310973] sysrq: Resetting\n"
POWER_OFF = "[    6.318314] sysrq: Power Off\n[    6.342188] reboot: Power down\n"
TERMINATED = "qemu-system-x86_64: terminating on signal 15 from pid 1098 (/usr/bin/python3)\n"
ABORTED = "qemu-system-x86_64: ../hw/core/x.c:12: do_it: Assertion `it' failed.\n"


def left(console: str = "", qemu_log: str = "", **others: Any) -> Remains:
    return Remains(console, qemu_log, **others)


@pytest.mark.parametrize(
    ("remains", "reason", "said"),
    [
        (left(PANIC, exit_status=0, shutdown=RESET), EndReason.PANIC, "panicked: sysrq triggered crash"),
        (left(NO_MEMORY, exit_status=0, shutdown=RESET), EndReason.OOM, "ran out of memory"),
        (left(REBOOT, exit_status=0, shutdown=RESET), EndReason.GUEST_REBOOT, "rebooted"),
        (left(RESETTING, exit_status=0, shutdown=RESET), EndReason.GUEST_REBOOT, "'sysrq: Resetting'"),
        (left(exit_status=0, shutdown=RESET), EndReason.GUEST_REBOOT, "rebooted"),
        (left(PANIC + REBOOT, shutdown=RESET), EndReason.GUEST_REBOOT, "rebooted"),
        (left(POWER_OFF, shutdown={"guest": True, "reason": "guest-shutdown"}), EndReason.GUEST_SHUTDOWN, "Power down"),
        (left(exit_status=-9), EndReason.SIGNAL, "SIGKILL"),
        (left(PANIC, exit_status=-9), EndReason.SIGNAL, "SIGKILL"),
        (left(exit_status=-9, killed_for_memory=True), EndReason.OOM, "This host ran out of memory"),
        (left(exit_status=-6, qemu_log=ABORTED), EndReason.QEMU_ABORT, "SIGABRT"),
        (left(exit_status=-11), EndReason.QEMU_ABORT, "SIGSEGV"),
        (left(exit_status=-7), EndReason.QEMU_ABORT, "QEMU crashed (SIGBUS)"),
        (left(exit_status=-7, no_room=True), EndReason.QEMU_ABORT, "memory file, which is on a tmpfs, found no room"),
        (left(exit_status=1, qemu_log="qemu: no such device\n"), EndReason.QEMU_ABORT, "no such device"),
        (
            left(exit_status=0, qemu_log=TERMINATED, shutdown={"guest": False, "reason": "host-signal"}),
            EndReason.SIGNAL,
            "Process 1098 (/usr/bin/python3) ended QEMU with SIGTERM",
        ),
        (left(shutdown={"guest": False, "reason": "host-qmp-quit"}), EndReason.UNKNOWN, "over QMP"),
        (left(shutdown={"guest": False, "reason": "host-error"}), EndReason.UNKNOWN, "'host-error'"),
        # Nobody watched: the logs are all there is.
        (left(PANIC), EndReason.PANIC, "sysrq triggered crash"),
        (left(NO_MEMORY), EndReason.OOM, "ran out of memory"),
        (left(POWER_OFF), EndReason.GUEST_SHUTDOWN, "powered itself off"),
        (left(REBOOT), EndReason.GUEST_REBOOT, "rebooted"),
        (left("login:", TERMINATED), EndReason.SIGNAL, "SIGTERM"),
        (left("login:"), EndReason.UNKNOWN, "The console's last line: 'login:'."),
        (left(exit_status=0), EndReason.UNKNOWN, "as it does when its guest reboots"),
    ],
)
def test_what_a_machine_left_tells_why_it_ended(remains: Remains, reason: EndReason, said: str) -> None:
    end = explain(remains, 5.0)
    assert (end.reason, end.at) == (reason, 5.0)
    assert said in failure_of(end)


def test_the_line_of_a_panic_is_found_above_its_registers() -> None:
    assert explain(left(PANIC, shutdown=RESET), 0.0).console_line == "Kernel panic - not syncing: sysrq triggered crash"


def test_the_signal_that_ended_it_is_named_and_so_are_its_last_words() -> None:
    end = explain(left("these are\r\nthe last words\r\n", ABORTED, exit_status=-6), 0.0)
    assert (end.signal, end.console_line, end.qemu_line) == ("SIGABRT", "the last words", ABORTED.strip())


def test_a_hostile_console_steers_no_terminal_and_fills_no_screen() -> None:
    end = explain(left(f"\x1b[2J\x1b]0;title\x07{'x' * 10_000}"), 0.0)
    assert end.console_line.isprintable()
    assert len(end.console_line) == LINE_CHARS


def test_a_kill_by_the_hosts_kernel_is_found_in_its_log(tmp_path: Path) -> None:
    log, qemu = tmp_path / "kmsg", Path("/usr/bin/qemu-system-x86_64")
    log.write_text(
        "3,851,4242,-;Memory cgroup out of memory: Killed process 77 (qemu-system-x86) total-vm:1kB, anon-rss:1kB\n"
        "3,852,4243,-;Out of memory: Killed process 78 (python) total-vm:1kB, anon-rss:1kB\n"
    )
    assert has_killed(77, qemu, log)
    assert not has_killed(7, qemu, log)
    assert not has_killed(78, qemu, log)
    assert not has_killed(77, qemu, tmp_path / "absent")


async def test_the_event_of_a_shutdown_is_kept_until_after_the_end() -> None:
    ours, theirs = memory_stream_pair()
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            await theirs.send_all(b'{"QMP": {}}\n')

            async def negotiate() -> None:
                asked = json.loads(await theirs.receive_some())
                event = {"event": "SHUTDOWN", "data": RESET}
                for message in ({"return": {}, "id": asked["id"]}, event):
                    await theirs.send_all(json.dumps(message).encode() + b"\n")
                await theirs.aclose()

            nursery.start_soon(negotiate)
            client = await QmpClient.open(nursery, ours)
            await client.wait_ended()
            assert client.shutdown == RESET
            await client.aclose()


@pytest.mark.parametrize(
    ("word", "path"),
    [
        ("fd=7,set=1,opaque=/state/workspaces/a,,b/console.log", "/state/workspaces/a,b/console.log"),
        ("file,id=console,path=/state/console.log,append=on", "/state/console.log"),
        ("file,id=console,path=/dev/fdset/1,append=on", None),
    ],
)
def test_a_machine_is_known_by_the_path_of_its_console(word: str, path: str | None) -> None:
    assert _console_of(["qemu", "-uuid", "u", word]) == (Path(path) if path else None)


@pytest.mark.parametrize("most", range(1, 8))
def test_the_end_of_a_log_begins_with_a_whole_character(tmp_path: Path, most: int) -> None:
    path, text = tmp_path / "log", "a€😀é"
    path.write_text(text)
    end = tail(path, most)
    assert text.endswith(end)
    assert len(end.encode()) > most - 4


async def test_a_log_that_grows_is_cut_while_its_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / logs.CONSOLE
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(fd, b"old\n" * (logs.MOST_BYTES // 4) + b"last before\n")
        await logs.bound(tmp_path)
        assert path.stat().st_size == logs.KEPT_BYTES
        os.write(fd, b"after\n")
        assert tail(path, 18) == "last before\nafter\n"
        size = path.stat().st_size
        await logs.bound(tmp_path)
        assert path.stat().st_size == size
    finally:
        os.close(fd)


def test_the_logs_of_the_last_machine_replace_those_of_the_one_before(tmp_path: Path) -> None:
    first, second = tmp_path / "machines" / "first", tmp_path / "machines" / "second"
    for directory in (first, second):
        directory.mkdir(parents=True)
        (directory / logs.CONSOLE).write_text(directory.name)
    (first / logs.QEMU).write_text("first")
    logs.put_away(first)
    kept = tmp_path / logs.KEPT
    assert {path.name: path.read_text() for path in kept.iterdir()} == {logs.CONSOLE: "first", logs.QEMU: "first"}
    logs.put_away(second)
    assert {path.name: path.read_text() for path in kept.iterdir()} == {logs.CONSOLE: "second"}
    logs.put_away(second)
    second.mkdir()
    logs.put_away(second, keep=False)
    assert {path.name: path.read_text() for path in kept.iterdir()} == {logs.CONSOLE: "second"}
    assert list((tmp_path / "machines").iterdir()) == []
