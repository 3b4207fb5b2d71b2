"""Control groups of the commands: each has one of its own, and all of them can be frozen together.

Only the unified hierarchy is used (kernel: admin-guide/cgroup-v2).  The agent itself stays in the root group, so that
it works while everything that it has ever started stands still.  One group is made ahead: to make one takes longer
than to start a command.  None serves twice, since a command may leave a group frozen or bounded.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from collections.abc import Iterator
from typing import Final

ROOT: Final = "/sys/fs/cgroup"
JOBS: Final = ROOT + "/jobs"
FREEZE_LIMIT_S: Final = 0.25
"""A process in an uninterruptible system call cannot be frozen; waiting longer for it would hold all others up."""
STATE_BYTES: Final = 256


class Group:
    """The control group of one command; its files stay open for as long as that is quicker."""

    def __init__(self, name: str) -> None:
        self._path = f"{JOBS}/{name}"
        os.makedirs(self._path, exist_ok=True)
        self._procs = os.open(self._path + "/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        self._events = os.open(self._path + "/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)

    def enter(self) -> None:
        """Have this process be in it, once."""
        os.write(self._procs, b"0")
        os.close(self._procs)
        self._procs = -1

    @property
    def populated(self) -> bool:
        """Whether anything runs in it."""
        # A command that may do anything may have removed it.
        with contextlib.suppress(OSError):
            if self._events >= 0:
                return b"populated 1" in os.pread(self._events, STATE_BYTES, 0)
            with open(self._path + "/cgroup.events", "rb") as file:
                return b"populated 1" in file.read()
        return False

    def rest(self) -> None:
        """Take no descriptor any more: its command is over, and what that left may live for long."""
        for fd in (self._procs, self._events):
            if fd >= 0:
                os.close(fd)
        self._procs = self._events = -1

    def kill(self) -> bool:
        """Kill everything in it, whatever session it has made itself; tell whether that was possible."""
        with contextlib.suppress(OSError):
            _write(self._path + "/cgroup.kill", "1")
            return True
        return False

    def remove(self) -> None:
        """Let go of it; one that is of use to somebody stays."""
        self.rest()
        with contextlib.suppress(OSError):
            os.rmdir(self._path)


class Groups:
    """The groups of one agent's commands; without a usable hierarchy there are none."""

    def __init__(self, *, wanted: bool) -> None:
        self._spare: Group | None = None
        self._made = 0
        self._frozen = False
        self.usable = wanted
        if wanted:
            try:
                os.makedirs(JOBS, exist_ok=True)
                self._root = os.open(ROOT + "/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
                self._freezer = os.open(JOBS + "/cgroup.freeze", os.O_WRONLY | os.O_CLOEXEC)
                self._events = os.open(JOBS + "/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
                os.write(self._freezer, b"0")
                self.make_ahead()
            except OSError as error:
                print(f"agentiso-agent: commands have no control groups: {error}", flush=True)
                self.usable = False

    def take(self) -> Group | None:
        """Return a group for a command.

        Raises:
            OSError: everything stands still now; who enters a group would as well.

        """
        if not self.usable:
            return None
        if self._frozen:
            raise OSError(errno.EBUSY, "the machine's processes stand still")
        group, self._spare = self._spare or self._make(), None
        return group

    def make_ahead(self) -> None:
        """Have a group ready for the next command."""
        if self.usable and self._spare is None:
            self._spare = self._make()

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
        group.enter()
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
        self._frozen = True
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
            self._frozen = False


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
