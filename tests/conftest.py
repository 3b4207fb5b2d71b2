"""Leak checks for every test: nothing that a test starts or opens outlives it."""

from __future__ import annotations

import ctypes
import gc
import os
import select
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from agentiso.client import dialling

PR_SET_CHILD_SUBREAPER = 36
LEAK_WAIT_S = 30
LOOK_AGAIN_S = 0.01


@pytest.fixture(autouse=True, scope="session")
def _subreaper() -> None:
    """Make every orphan of a test a child of this process, so that none can escape the check."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@pytest.fixture(autouse=True, scope="session")
def _young_heap() -> None:
    """Set aside what stands before the first test, so that the collector looks only at what tests make."""
    gc.collect()
    gc.freeze()


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


def descriptors() -> set[tuple[int, str]]:
    """Return what this process has open: each descriptor with what it stands for."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of this very look, and what a thread closes meanwhile
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
    return found


def network_devices() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


async def _let_go_of_supervisors() -> None:
    dialling.reap()


@pytest.fixture(autouse=True)
def _nothing_is_left(_subreaper: None, _young_heap: None) -> Iterator[None]:
    before, devices, opened = children(), network_devices(), descriptors()
    yield
    # What nobody refers to any more is closed now, and its warning is an error of this test, not of a later one.
    gc.collect()
    left = children() - before
    for pid in list(left):
        fd = os.pidfd_open(pid)  # a zombie until we reap it, so the id is still its own
        if select.select([fd], [], [], LEAK_WAIT_S)[0]:
            left.discard(pid)
        os.close(fd)
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:200] for pid in left]
    assert not left, f"processes outlive the test: {commands}"
    assert network_devices() == devices
    if dialling._started:
        trio.run(_let_go_of_supervisors)
    deadline = time.monotonic() + LEAK_WAIT_S
    while (open_still := descriptors() - opened) and time.monotonic() < deadline:
        time.sleep(LOOK_AGAIN_S)  # a thread that nobody waits for may be about to close them
    assert not open_still, f"what the test opened stays open: {sorted(open_still)}"
