"""For every test: nothing that it starts or opens outlives it, and what takes long runs only when it is asked for."""

from __future__ import annotations

import ctypes
import gc
import os
import select
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, settings

from agentiso.client import dialling
from tests import templates

PR_SET_CHILD_SUBREAPER = 36
LEAK_WAIT_S = 30
LOOK_AGAIN_S = 0.01
LONG = {"storm": "tests/run storm"}
"""The marks of tests that run only when they are asked for, and the command that does."""
LEFT_OUT = pytest.StashKey[Counter[str]]()

# A busy host is no fault of what is tried.  The usual runs try the same each time, so that a change alone makes one
# fail; `tests/run simulation` tries something else each time and prints how to try it again.
settings.register_profile("same", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile("new", settings.get_profile("same"), derandomize=False, print_blob=True)
settings.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            # By nohup, or a shell that runs us in the background.  Whom tests start would inherit that, and they send
            # these signals; we go on ignoring them.
            signal.signal(number, lambda *_: None)
    if templates.DIRECTORY not in os.environ:  # workers and later suites are told by who starts them
        os.environ[templates.DIRECTORY] = directory = tempfile.mkdtemp(prefix="ai-", dir="/tmp")
        config.add_cleanup(lambda: shutil.rmtree(directory))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless tests are chosen by their marks."""
    if config.option.markexpr:
        return
    marks = {item: next((mark for mark in LONG if item.get_closest_marker(mark)), None) for item in items}
    items[:] = [item for item in items if marks[item] is None]
    config.hook.pytest_deselected(items=[item for item in marks if marks[item] is not None])
    config.stash[LEFT_OUT] = Counter(mark for mark in marks.values() if mark is not None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for mark, count in config.stash.get(LEFT_OUT, Counter()).items():
        terminalreporter.write_line(f"left out: {count} long tests; all of them: {LONG[mark]}")


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
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of this very look, and what a thread closes meanwhile
            found.add((int(path.name), str(path.readlink())))
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
