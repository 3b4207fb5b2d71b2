"""Ending the supervisor of a state directory: proven to be it, signalled through a pidfd, waited for.

The proof is that the process holds the lock of a serving supervisor in this very directory, which the kernel tells;
it needs no answer, so that one which hangs, starts, or is of another version can be ended too.  A pidfd is taken first:
what is proven then is proven of the process that is signalled.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import attrs
import trio

from actors.machine.qemu.process import find_machines
from actors.model.errors import AgentisoError, SupervisorRunning
from actors.model.settings import Settings
from actors.registry.lock import LOCK, Holder, holder_of, is_held, is_stopped, noted_pid
from agentiso.protocol.places import DAEMON_LOCK, LOG, usable

LIMIT_S: Final = 150.0
"""Longer than a supervisor takes to destroy what a program made that has just left it."""
FORCE_LIMIT_S: Final = 10.0
"""How long one that is to end by force is given to do so by itself."""
KILL_LIMIT_S: Final = 10.0
"""A killed process is gone at once, unless the kernel waits for its disk."""
QUIET_S: Final = 1.0
ATTEMPTS: Final = 3


@attrs.frozen
class Stopped:
    """A supervisor that has ended."""

    pid: int
    seconds: float
    machines: int
    """How many run on without it."""
    killed: bool = False
    """Whether it did not end by itself."""


class StillRunning(AgentisoError):
    """The supervisor was told to end, and has not yet."""

    code = "still_running"


def daemon_of(settings: Settings) -> Holder | None:
    """Return the supervisor that serves a state directory, or starts or ends there, ``None`` if there is none.

    Raises:
        SupervisorRunning: what holds the directory is a program that runs its own, or cannot be looked at.

    """
    found = holder_of(settings.state_dir / DAEMON_LOCK)
    if found is not None:
        return found
    program = holder_of(settings.state_dir / LOCK)
    if program is not None:
        raise SupervisorRunning(
            f"{settings.state_dir} is held by a program that runs the supervisor within itself ({program}).",
            remedy=f"It was left alone. End it as its user would; `kill {program.pid}` if it is not needed any more.",
            pid=program.pid,
        )
    if any(is_held(settings.state_dir / name) for name in (DAEMON_LOCK, LOCK)):
        raise SupervisorRunning(
            f"{settings.state_dir} is held by a process that this user cannot look at.",
            remedy="It was left alone. It runs as another user, or in another container: end it there.",
        )
    return None


def ended_in_order(settings: Settings) -> bool | None:
    """Tell whether the last supervisor of a state directory ended in order, ``None`` while one holds it."""
    path = settings.state_dir / LOCK
    if noted_pid(path) is None:
        return True
    return None if holder_of(path) else False


async def stop(
    settings: Settings, *, limit_s: float = LIMIT_S, force: bool = False, report: Callable[[str], None]
) -> Stopped | None:
    """End the supervisor that serves a state directory and wait until it has; ``None`` if none runs.

    One that a signal has stopped is had to go on, so that it can end.  With ``force`` one that has not ended in time is
    killed, which machines survive.

    Raises:
        SupervisorRunning: what holds the directory is no such supervisor, and was left alone.
        StillRunning: it has not ended in time.
        HostFailed: the state directory cannot be read.

    """
    began = trio.current_time()
    for _ in range(ATTEMPTS):
        with usable(settings.state_dir):
            daemon = daemon_of(settings)
        if daemon is None:
            return None
        with _pidfd_of(daemon.pid) as pidfd:
            # Only from here on the pid cannot become another process's behind our back.
            if pidfd is not None and holder_of(settings.state_dir / DAEMON_LOCK) == daemon:
                killed = await _end(settings, daemon, pidfd, limit_s, force, report)
                machines = sum(1 for _ in find_machines(settings.state_dir))
                return Stopped(daemon.pid, trio.current_time() - began, machines, killed)
    raise StillRunning(
        "Supervisors come and go too fast to be ended one by one.", remedy="End what starts them, then try again."
    )


@contextmanager
def _pidfd_of(pid: int) -> Iterator[int | None]:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield pidfd
    finally:
        os.close(pidfd)


async def _end(
    settings: Settings, daemon: Holder, pidfd: int, limit_s: float, force: bool, report: Callable[[str], None]
) -> bool:
    """Have a supervisor end and wait until it has; return whether it had to be killed."""
    if is_stopped(daemon.pid):
        report(f"the supervisor is stopped by a signal ({daemon}): it is had to go on, so that it can end")
        _signal(pidfd, signal.SIGCONT)
    _signal(pidfd, signal.SIGTERM)
    if await _has_ended(pidfd, min(QUIET_S, limit_s)):
        return False
    then = "is killed then" if force else "may first finish, or take back, what is under way"
    report(f"waiting up to {limit_s:g} s for the supervisor to end ({daemon}), which {then}")
    if await _has_ended(pidfd, limit_s - QUIET_S):
        return False
    if not force:
        raise StillRunning(
            f"The supervisor ({daemon}) was told to end and has not within {limit_s:g} s.",
            remedy=f"{settings.state_dir / LOG} says what it does. Wait and try again; or add --force, which kills it: "
            "machines and workspaces survive that, and the next supervisor adopts them.",
            pid=daemon.pid,
        )
    _signal(pidfd, signal.SIGKILL)
    if await _has_ended(pidfd, KILL_LIMIT_S):
        return True
    raise StillRunning(
        f"The supervisor ({daemon}) was killed, and the kernel has not ended it within {KILL_LIMIT_S:g} s.",
        remedy="It waits for a disk or a file system that does not answer: see to that, then try again.",
        pid=daemon.pid,
    )


def _signal(pidfd: int, number: signal.Signals) -> None:
    # One that has ended meanwhile needs no signal.
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


async def _has_ended(pidfd: int, limit_s: float) -> bool:
    """Wait for a process's end; tell whether it came in time."""
    with trio.move_on_after(max(0.0, limit_s)):
        await trio.lowlevel.wait_readable(pidfd)
        return True
    return False
