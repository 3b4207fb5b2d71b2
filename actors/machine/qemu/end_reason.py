"""Why a machine ended, told by what it left: QEMU's last event, its exit status, its log and the guest's console.

The guest's console is the guest's own word.  It decides only what nothing else tells: a guest that panics resets its
machine (``panic=-1 reboot=t``), and to QEMU that is a reboot.
"""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path
from typing import Any, Final

import attrs

from actors.machine.qemu import logs
from actors.model.end import End, EndReason
from actors.model.files import tail

LOOKED_AT_BYTES: Final = 64 * 1024
"""Of the console: a panic's own line comes before the registers and stacks of all processors."""
LINE_CHARS: Final = 300
"""Of a line that is shown: a guest may write longer ones."""
CRASHES: Final = frozenset({"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"})
"""Signals that a program brings upon itself."""
NO_ROOM: Final = (
    "The host's disk is full: QEMU's memory file, which is on a tmpfs, found no room, which ended QEMU (SIGBUS)."
)
STAMP: Final = re.compile(r"^\[ *\d+\.\d+\] ")
"""The time that a kernel puts before its lines, if it was built so."""
PANIC: Final = "Kernel panic - not syncing: "
POWER_OFF: Final = ("reboot: Power down", "reboot: System halted", "sysrq: Power Off")
REBOOT: Final = ("reboot: Restarting system", "sysrq: Resetting")
NO_MEMORY: Final = re.compile(r"out of memory|deadlocked on memory", re.IGNORECASE)
"""What the kernel calls a panic over memory (mm/oom_kill.c)."""
TERMINATED: Final = re.compile(r"terminating on signal (\d+)(?: from pid (\d+ \(.*\)))?$")
"""QEMU's words when a signal asks it to end (softmmu/runstate.c)."""


@attrs.frozen
class Remains:
    """What a machine left."""

    console: str
    """The end of the guest's console."""
    qemu_log: str
    exit_status: int | None = None
    """Exit code, negative for a signal; ``None`` if it was not our child."""
    shutdown: dict[str, Any] | None = None
    """The data of QEMU's SHUTDOWN event, if it sent one (QEMU: qapi/run-state.json)."""
    no_room: bool = False
    """Whether the disk that its memory file is on is full."""
    killed_for_memory: bool = False
    """Whether the host's kernel says that it killed QEMU since it had no memory left."""


def look_back(
    directory: Path,
    *,
    exit_status: int | None = None,
    shutdown: dict[str, Any] | None = None,
    no_room: bool = False,
    killed_for_memory: bool = False,
) -> End:
    """Say why the machine ended whose logs are in a directory; what else is known of it is as in `Remains`."""
    try:
        console, qemu_log = tail(directory / logs.CONSOLE, LOOKED_AT_BYTES), tail(directory / logs.QEMU)
    except OSError as error:
        console, qemu_log = "", f"(the machine's logs cannot be read: {error.strerror})"
    return explain(Remains(console, qemu_log, exit_status, shutdown, no_room, killed_for_memory), time.time())


def explain(remains: Remains, at: float) -> End:
    """Say why a machine ended that was found to have ended ``at`` this time."""
    last = _last_line(remains.console)
    end = _by_event(remains) or _by_exit(remains) or _by_log(remains) or _by_console(remains) or _unknown(remains)
    return attrs.evolve(end, at=at, console_line=end.console_line or last, qemu_line=_last_line(remains.qemu_log))


def _end(reason: EndReason, sentence: str, **words: str) -> End:
    return End(reason, sentence, 0.0, **words)


def _by_event(remains: Remains) -> End | None:
    match (remains.shutdown or {}).get("reason"):
        case None:
            return None
        case "guest-reset" | "guest-panic":
            said = _by_console(remains)
            return said if said and said.reason in (EndReason.PANIC, EndReason.OOM) else _reboot()
        case "guest-shutdown":
            return _power_off()
        case "host-signal":
            return _by_log(remains) or _end(EndReason.SIGNAL, "Something on this host ended QEMU with a signal.")
        case "host-qmp-quit":
            return _end(EndReason.UNKNOWN, "Somebody told QEMU over QMP to end.")
        case other:
            return _end(EndReason.UNKNOWN, f"QEMU ended; its own word for the reason is {str(other)[:LINE_CHARS]!r}.")


def _by_exit(remains: Remains) -> End | None:
    status = remains.exit_status
    if remains.killed_for_memory:
        return _end(EndReason.OOM, "This host ran out of memory, and its kernel killed QEMU.", signal="SIGKILL")
    if not status:
        return None
    said = f" It said: {line}" if (line := _last_line(remains.qemu_log)) else " It said nothing."
    if status > 0:
        return _end(EndReason.QEMU_ABORT, f"QEMU gave up with exit status {status}.{said}")
    name = _signal_name(-status)
    if name == "SIGBUS" and remains.no_room:
        # A tmpfs allocates even a hole that is only read, and ends whoever it has no page for (mmap(2)).
        return _end(EndReason.QEMU_ABORT, NO_ROOM, signal=name)
    if name in CRASHES:
        return _end(EndReason.QEMU_ABORT, f"QEMU crashed ({name}).{said}", signal=name)
    also = " It may have been its kernel, for want of memory." if name == "SIGKILL" else ""
    return _end(EndReason.SIGNAL, f"Something on this host ended QEMU with {name}.{also}", signal=name)


def _by_log(remains: Remains) -> End | None:
    if found := TERMINATED.search(_last_line(remains.qemu_log)):
        name, sender = _signal_name(int(found[1])), found[2]
        who = f"Process {sender}" if sender else "Something on this host"
        return _end(EndReason.SIGNAL, f"{who} ended QEMU with {name}.", signal=name)
    return None


def _by_console(remains: Remains) -> End | None:
    """Return the end of which the guest's kernel spoke last."""
    for line in reversed(_lines(remains.console)):
        if line.startswith(PANIC):
            return _panic(line)
        if line.startswith(POWER_OFF):
            return _power_off()
        if line.startswith(REBOOT):
            return _reboot()
    return None


def _panic(line: str) -> End:
    reason, what = EndReason.PANIC, "Its guest's kernel panicked"
    if NO_MEMORY.search(line):
        reason, what = EndReason.OOM, "Its guest ran out of memory, over which its kernel panicked"
    return _end(reason, f"{what}: {line.removeprefix(PANIC)}.", console_line=line)


def _power_off() -> End:
    return _end(EndReason.GUEST_SHUTDOWN, "Its guest powered itself off.")


def _reboot() -> End:
    return _end(EndReason.GUEST_REBOOT, "Its guest rebooted, which ends its machine.")


def _unknown(remains: Remains) -> End:
    orderly = " QEMU exited as it does when its guest reboots or powers off." if remains.exit_status == 0 else ""
    return _end(EndReason.UNKNOWN, f"Its machine ended, and nothing that it left tells why.{orderly}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _lines(text: str) -> list[str]:
    """Return the lines that say something, without times and what would steer a terminal, no longer than is shown."""
    plain = ("".join(c for c in line if c.isprintable()).strip() for line in text.split("\n"))
    return [line[:LINE_CHARS] for each in plain if (line := STAMP.sub("", each))]


def _last_line(text: str) -> str:
    return lines[-1] if (lines := _lines(text)) else ""
