"""Ending the supervisor of a state directory: proven to be it, signalled through a pidfd, waited for.

The proof is that the process holds the lock of a serving supervisor in this very directory, which the kernel tells;
it needs no answer, so that one which hangs, starts, or is of another version can be ended too.  A pidfd is taken first:
what is proven then is proven of the process that is signalled.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs
import trio

from actors.machine.qemu.process import find_machines
from actors.model.errors import AgentisoError, SupervisorRunning
from actors.model.files import failures_reported
from actors.model.settings import Settings
from actors.registry.lock import LOCK, Holder, holder_of, is_held, noted_pid
from agentiso.protocol.places import DAEMON_LOCK, LOG

LIMIT_S: Final = 150.0
"""Longer than a supervisor takes to destroy what a program made that has just left it."""
QUIET_S: Final = 1.0
ATTEMPTS: Final = 3


@attrs.frozen
class Stopped:
    """A supervisor that has ended."""

    pid: int
    seconds: float
    machines: int
    """How many run on without it."""


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


async def stop(settings: Settings, *, limit_s: float = LIMIT_S, report: Callable[[str], None]) -> Stopped | None:
    """End the supervisor that serves a state directory and wait until it has; ``None`` if none runs.

    Raises:
        SupervisorRunning: what holds the directory is no such supervisor, and was left alone.
        StillRunning: it has not ended in time.
        HostFailed: the state directory cannot be read.

    """
    began = trio.current_time()
    for _ in range(ATTEMPTS):
        with failures_reported():
            daemon = daemon_of(settings)
        if daemon is None:
            return None
        with _pidfd_of(daemon.pid) as pidfd:
            # Only from here on the pid cannot become another process's behind our back.
            if pidfd is not None and holder_of(settings.state_dir / DAEMON_LOCK) == daemon:
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
                await _wait_ended(settings, daemon, pidfd, limit_s, report)
                machines = sum(1 for _ in find_machines(settings.state_dir))
                return Stopped(daemon.pid, trio.current_time() - began, machines)
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


async def _wait_ended(
    settings: Settings, daemon: Holder, pidfd: int, limit_s: float, report: Callable[[str], None]
) -> None:
    with trio.move_on_after(limit_s) as limit:
        with trio.move_on_after(QUIET_S) as quiet:
            await trio.lowlevel.wait_readable(pidfd)
        if quiet.cancelled_caught:
            report(f"waiting for the supervisor to end ({daemon}): it finishes, or takes back, what is under way")
            await trio.lowlevel.wait_readable(pidfd)
    if limit.cancelled_caught:
        log_path: Path = settings.state_dir / LOG
        raise StillRunning(
            f"The supervisor ({daemon}) was told to end and has not within {limit_s:g} s.",
            remedy=f"{log_path} says what it does. Wait and try again; or `kill -9 {daemon.pid}`, which machines and "
            "workspaces survive: the next supervisor adopts them.",
            pid=daemon.pid,
        )
