"""Control groups of the commands: each has one of its own, and all of them can be frozen together.

Only the unified hierarchy is used (kernel: admin-guide/cgroup-v2).  The agent itself stays in the root group, so that
it works while everything that it has ever started stands still.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Final

ROOT: Final = "/sys/fs/cgroup"
JOBS: Final = ROOT + "/jobs"
FREEZE_LIMIT_S: Final = 0.25
"""A process in an uninterruptible system call cannot be frozen; waiting longer for it would hold all others up."""
POLL_S: Final = 0.0005


class Groups:
    """The groups of one agent's commands; without a usable hierarchy every method does nothing."""

    def __init__(self, *, wanted: bool) -> None:
        self.usable = wanted
        if wanted:
            try:
                os.makedirs(JOBS, exist_ok=True)
                _write(JOBS + "/cgroup.freeze", "0")
            except OSError as error:
                print(f"agentiso-agent: commands have no control groups: {error}", flush=True)
                self.usable = False

    @contextlib.contextmanager
    def birthplace(self, name: str) -> Iterator[None]:
        """Have what is started in the block be born in a group: moved there later, it might have children outside."""
        if not self.usable:
            yield
            return
        os.makedirs(f"{JOBS}/{name}", exist_ok=True)
        _write(f"{JOBS}/{name}/cgroup.procs", "0")
        try:
            yield
        finally:
            _write(ROOT + "/cgroup.procs", "0")

    def kill(self, name: str) -> bool:
        """Kill every process of a group, whatever session it has made itself; tell whether that was possible."""
        with contextlib.suppress(OSError):
            if self.usable:
                _write(f"{JOBS}/{name}/cgroup.kill", "1")
                return True
        return False

    def populated(self, name: str) -> bool:
        """Tell whether anything of a group runs; without a usable hierarchy that is not known."""
        with contextlib.suppress(OSError):
            return self.usable and "populated 1" in _read(f"{JOBS}/{name}/cgroup.events")
        return False

    def remove_empty(self) -> None:
        """Remove the groups in which nothing runs any more."""
        for entry in os.scandir(JOBS) if self.usable else ():
            if entry.is_dir():
                with contextlib.suppress(OSError):
                    os.rmdir(entry.path)

    def freeze(self) -> bool:
        """Stop all commands and tell whether they stand still; if one does not in time, all run on."""
        if not self.usable:
            return False
        deadline = time.monotonic() + FREEZE_LIMIT_S
        _write(JOBS + "/cgroup.freeze", "1")
        while "frozen 1" not in _read(JOBS + "/cgroup.events"):
            if time.monotonic() > deadline:
                self.thaw()
                return False
            time.sleep(POLL_S)
        return True

    def thaw(self) -> None:
        """Let all commands run on."""
        if self.usable:
            _write(JOBS + "/cgroup.freeze", "0")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
