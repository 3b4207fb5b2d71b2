"""Control groups of the commands: each has one of its own, and all of them can be frozen together.

Only the unified hierarchy is used (kernel: admin-guide/cgroup-v2).  The agent itself stays in the root group, so that
it works while everything that it has ever started stands still.  A group in which nothing runs any more serves the
next command, and one is always ready: to make one takes longer than to start a command.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterator
from typing import Final

ROOT: Final = "/sys/fs/cgroup"
JOBS: Final = ROOT + "/jobs"
FREEZE_LIMIT_S: Final = 0.25
"""A process in an uninterruptible system call cannot be frozen; waiting longer for it would hold all others up."""
MAX_SPARE: Final = 4
STATE_BYTES: Final = 256


class Group:
    """The control group of one command at a time."""

    def __init__(self, name: str) -> None:
        self._path = f"{JOBS}/{name}"
        os.makedirs(self._path, exist_ok=True)
        self.procs = os.open(self._path + "/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        self._events = os.open(self._path + "/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)

    @property
    def populated(self) -> bool:
        """Whether anything runs in it."""
        # A command that may do anything may have removed it.
        with contextlib.suppress(OSError):
            return b"populated 1" in os.pread(self._events, STATE_BYTES, 0)
        return False

    @property
    def reusable(self) -> bool:
        """Whether it is as it was made: a command may make groups below its own."""
        with contextlib.suppress(OSError):
            return os.stat(self._path).st_nlink == 2 and not self.populated
        return False

    def kill(self) -> bool:
        """Kill everything in it, whatever session it has made itself; tell whether that was possible."""
        with contextlib.suppress(OSError):
            _write(self._path + "/cgroup.kill", "1")
            return True
        return False

    def remove(self) -> None:
        """Let go of it; one that is of use to somebody stays."""
        os.close(self.procs)
        os.close(self._events)
        with contextlib.suppress(OSError):
            os.rmdir(self._path)


class Groups:
    """The groups of one agent's commands; without a usable hierarchy there are none."""

    def __init__(self, *, wanted: bool) -> None:
        self._spare: list[Group] = []
        self._made = 0
        self.usable = wanted
        if wanted:
            try:
                os.makedirs(JOBS, exist_ok=True)
                self._root = os.open(ROOT + "/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
                self._freezer = os.open(JOBS + "/cgroup.freeze", os.O_WRONLY | os.O_CLOEXEC)
                self._events = os.open(JOBS + "/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
                os.write(self._freezer, b"0")
                self._spare.append(self._make())
            except OSError as error:
                print(f"agentiso-agent: commands have no control groups: {error}", flush=True)
                self.usable = False

    def take(self) -> Group | None:
        """Return a group for a command."""
        if not self.usable:
            return None
        return self._spare.pop() if self._spare else self._make()

    def give_back(self, group: Group) -> None:
        """Have a group in which nothing runs any more serve another command."""
        if len(self._spare) < MAX_SPARE and group.reusable:
            self._spare.append(group)
        else:
            group.remove()

    def _make(self) -> Group:
        self._made += 1
        # Another agent's may still be there, with what it has started.
        return Group(f"{os.getpid()}-{self._made}")

    @contextlib.contextmanager
    def birthplace(self, group: Group | None) -> Iterator[None]:
        """Have what is started in the block be born in a group: moved there later, it might have children outside."""
        if group is None:
            yield
            return
        os.write(group.procs, b"0")
        try:
            yield
        finally:
            os.write(self._root, b"0")

    def freeze(self) -> bool:
        """Stop all commands and tell whether they stand still; if one does not in time, all run on."""
        if not self.usable:
            return False
        deadline = time.monotonic() + FREEZE_LIMIT_S
        changed = select.poll()
        changed.register(self._events, select.POLLPRI)
        os.write(self._freezer, b"1")
        while b"frozen 1" not in os.pread(self._events, STATE_BYTES, 0):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                self.thaw()
                return False
            changed.poll(left_s * 1000)
        return True

    def thaw(self) -> None:
        """Let all commands run on."""
        if self.usable:
            os.write(self._freezer, b"0")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
