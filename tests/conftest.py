"""Leak checks for every test: nothing that a test starts outlives it."""

from __future__ import annotations

import ctypes
import os
import select
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

PR_SET_CHILD_SUBREAPER = 36
LEAK_WAIT_S = 10


@pytest.fixture(autouse=True, scope="session")
def _subreaper() -> None:
    """Make every orphan of a test a child of this process, so that none can escape the check."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> set[int]:
    """Return the living children of this process; the dead are reaped."""
    alive = set()
    for path in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread may end while we look
            alive |= {int(pid) for pid in path.read_text().split()}
    for pid in list(alive):
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                alive.discard(pid)
        except ChildProcessError:
            continue
    return alive


def network_devices() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


@pytest.fixture(autouse=True)
def _nothing_is_left(_subreaper: None) -> Iterator[None]:
    before, devices = children(), network_devices()
    yield
    left = children() - before
    for pid in list(left):
        fd = os.pidfd_open(pid)  # a zombie until we reap it, so the id is still its own
        if select.select([fd], [], [], LEAK_WAIT_S)[0]:
            left.discard(pid)
        os.close(fd)
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:200] for pid in left]
    assert not left, f"processes outlive the test: {commands}"
    assert network_devices() == devices
