"""How QEMU's process is started, and found again by whoever did not start it."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest
import trio

from actors.machine.machine import process_hindrance
from actors.machine.qemu import logs
from actors.machine.qemu import process as processes
from actors.machine.qemu.orphans import end_machines, remove_others
from actors.machine.qemu.process import QemuProcess, find_machines, is_alive, is_machine_of, start_time_of
from actors.model.errors import MachineFailed
from actors.model.machine import ProcessIdentity
from tests.stateful.supervised import READING, unreadable

LIMIT_S = 20
UUID = "0a1b2c3d-0000-4000-8000-0000000000ff"


async def test_a_child_gets_the_descriptors_that_it_was_given_and_no_other(tmp_path: Path) -> None:
    unasked, given = os.pipe()
    os.set_inheritable(unasked, True)
    try:
        process = QemuProcess.spawn(
            ["sh", "-c", "echo /proc/$$/fd/*"], uuid="", log=tmp_path / "log", descriptors={3: given}
        )
        with trio.fail_after(LIMIT_S):
            await process.wait_exit()
        process.release()
    finally:
        os.close(unasked)
        os.close(given)
    listed = {int(Path(word).name) for word in (tmp_path / "log").read_text().split()}
    assert {0, 1, 2, 3} <= listed
    assert unasked not in listed
    assert process.exit_status == 0


# -- a process that another supervisor started


@attrs.frozen
class Sleeper:
    """A process that looks like a machine to whoever looks at its command line."""

    identity: ProcessIdentity
    directory: Path
    end: Callable[[], None]

    @property
    def log(self) -> Path:
        """The console's log, which it has open."""
        return self.directory / logs.CONSOLE


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """A state directory, reached by no other path."""
    return tmp_path / "state"


@pytest.fixture
def sleeper(state_dir: Path) -> Iterator[Sleeper]:
    directory = state_dir / "workspaces" / "one" / "machines" / "a,b"
    directory.mkdir(parents=True)
    (state_dir / "layers").mkdir()
    log, disk = directory / logs.CONSOLE, state_dir / "layers" / "disk"
    console = f"file,id=console,path={str(log).replace(',', ',,')},append=on"
    argv = [sys.executable, "-c", "input()", "-uuid", UUID, "-chardev", console]
    with log.open("ab") as first, disk.open("ab") as second:
        opened = (first.fileno(), second.fileno())
        child = subprocess.Popen(argv, stdin=subprocess.PIPE, pass_fds=opened)
    found = ProcessIdentity(child.pid, start_time_of(child.pid), UUID)

    def end() -> None:
        child.kill()
        child.wait()

    # The command line is its own only once the program was executed.
    while UUID.encode() not in Path(f"/proc/{child.pid}/cmdline").read_bytes():
        os.sched_yield()
    yield Sleeper(found, directory, end)
    end()
    assert child.stdin is not None
    child.stdin.close()


def adopted(identity: ProcessIdentity, directory: Path) -> bool:
    process = QemuProcess.adopt(identity, directory)
    if process is not None:
        process.release()
    return process is not None


def test_a_process_is_known_by_its_number_its_start_and_its_uuid(sleeper: Sleeper) -> None:
    identity = sleeper.identity
    assert is_alive(identity)
    assert adopted(identity, sleeper.directory)
    for other in (
        attrs.evolve(identity, start_time=identity.start_time + 1),
        attrs.evolve(identity, uuid="another"),
        attrs.evolve(identity, pid=1),
    ):
        assert not is_alive(other)
        assert not adopted(other, sleeper.directory)
    sleeper.end()
    assert not is_alive(identity)
    assert not adopted(identity, sleeper.directory)


def test_machines_are_found_with_the_directories_they_run_in(sleeper: Sleeper, tmp_path: Path) -> None:
    assert list(find_machines(tmp_path)) == [(sleeper.identity, sleeper.directory)]
    assert list(find_machines(tmp_path / "elsewhere")) == []
    sleeper.end()
    assert list(find_machines(tmp_path)) == []


# -- a state directory that was moved, or copied, or that has more than one path


def in_another(state_dir: Path, sleeper: Sleeper) -> Path:
    """Return what another state directory calls a machine's own directory."""
    return state_dir / sleeper.directory.relative_to(sleeper.directory.parents[3])


async def test_the_machine_of_a_directory_is_not_one_of_its_copy(
    sleeper: Sleeper, state_dir: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(state_dir, tmp_path / "copy")
    theirs = in_another(copy, sleeper)
    for _ in range(2):
        assert not is_machine_of(sleeper.identity, theirs)
        assert not adopted(sleeper.identity, theirs)
        assert list(find_machines(copy)) == []
        with trio.fail_after(LIMIT_S):
            await end_machines(copy, copy)
        # One that was copied without its logs is no other.
        (theirs / logs.CONSOLE).unlink(missing_ok=True)
    assert is_machine_of(sleeper.identity, sleeper.directory)
    assert list(find_machines(state_dir)) == [(sleeper.identity, sleeper.directory)]


def test_the_machine_of_a_directory_is_not_that_of_a_backup_in_its_place(
    sleeper: Sleeper, state_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(state_dir, tmp_path / "backup")
    away = state_dir.rename(tmp_path / "away")
    (tmp_path / "backup").rename(state_dir)
    assert not is_machine_of(sleeper.identity, sleeper.directory)
    assert list(find_machines(state_dir)) == []
    assert list(find_machines(away)) == [(sleeper.identity, in_another(away, sleeper))]


@pytest.mark.parametrize("left", ["all", "no log", "nothing"])
async def test_the_machine_of_a_directory_that_was_moved_is_found_and_kept_where_it_is_now(
    sleeper: Sleeper, state_dir: Path, tmp_path: Path, left: str
) -> None:
    if left == "no log":
        sleeper.log.unlink()
    elif left == "nothing":
        shutil.rmtree(sleeper.directory)
    moved = state_dir.rename(tmp_path / "moved")
    its = in_another(moved, sleeper)
    assert is_machine_of(sleeper.identity, its)
    assert list(find_machines(moved)) == [(sleeper.identity, its)]
    remove_others(moved, its.parent, [])
    assert its.exists() == (left != "nothing")
    with trio.fail_after(LIMIT_S):
        await end_machines(moved, its.parents[1])
    assert not is_alive(sleeper.identity)


def test_a_machine_is_found_by_each_path_of_its_directory(sleeper: Sleeper, state_dir: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(state_dir)
    its = in_another(link, sleeper)
    assert is_machine_of(sleeper.identity, its)
    assert list(find_machines(link)) == [(sleeper.identity, its)]


@pytest.mark.parametrize("error", READING)
@pytest.mark.parametrize("name", ["stat", "cmdline"])
def test_a_process_that_cannot_be_looked_at_is_not_gone(sleeper: Sleeper, name: str, error: int) -> None:
    identity = sleeper.identity
    with unreadable(error, Path(f"/proc/{identity.pid}/{name}")):
        with pytest.raises(OSError, match=os.strerror(error)):
            is_alive(identity)
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(OSError, match=os.strerror(error)):
            QemuProcess.adopt(identity, sleeper.directory)
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        with pytest.raises(OSError, match=os.strerror(error)):
            list(find_machines(sleeper.directory.parent))
    assert adopted(identity, sleeper.directory)


def test_a_process_for_which_there_is_no_descriptor_is_not_gone(
    sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_pid: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        QemuProcess.adopt(sleeper.identity, sleeper.directory)


async def test_machines_in_a_directory_are_ended_and_no_others(sleeper: Sleeper, tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_S):
        await end_machines(tmp_path, tmp_path / "state" / "workspaces" / "another")
        await end_machines(tmp_path, sleeper.directory.parent, but=str(sleeper.directory))
        assert is_alive(sleeper.identity)
        await end_machines(tmp_path, sleeper.directory.parent)
    assert not is_alive(sleeper.identity)


async def test_a_process_that_does_not_end_is_told(
    sleeper: Sleeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def in_vain(_process: QemuProcess, _grace_s: float = 0.0) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(QemuProcess, "end", in_vain)
    with pytest.raises(MachineFailed, match=f"process {sleeper.identity.pid} does not end"):
        await end_machines(tmp_path, tmp_path)


# -- a host that has no descriptors left


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Have this process get no more descriptors for the length of a block."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("grace_s", [0.0, 0.1])
async def test_a_process_is_ended_and_seen_to_have_without_a_descriptor_more(tmp_path: Path, grace_s: float) -> None:
    process = QemuProcess.spawn(["sleep", "600"], uuid="", log=tmp_path / "log", descriptors={})
    seen = 0

    async def watch() -> None:
        nonlocal seen
        await process.wait_exit()
        seen += 1

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            with no_descriptor_left():
                assert not process.has_ended
                assert await process.end(grace_s)
                assert process.has_ended
    process.release()
    assert (seen, process.exit_status) == (3, -signal.SIGKILL)


async def test_who_waits_for_a_process_that_is_let_go_of_does_not_take_it_for_ended(sleeper: Sleeper) -> None:
    process = QemuProcess.adopt(sleeper.identity, sleeper.directory)
    assert process is not None
    with trio.move_on_after(0.2) as limit:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.wait_exit)
            nursery.start_soon(process.wait_exit)
            await trio.testing.wait_all_tasks_blocked()
            process.release()
    assert limit.cancelled_caught
    assert not process.has_ended


@pytest.mark.parametrize("moment", ["descriptor", "start time"])
def test_a_process_that_cannot_be_held_is_ended_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    started: list[int] = []

    def refuse(pid: int) -> int:
        started.append(pid)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(*((os, "pidfd_open") if moment == "descriptor" else (processes, "start_time_of")), refuse)
    before = descriptors()
    with pytest.raises(MachineFailed, match="could not be watched, and was ended"):
        QemuProcess.spawn(["sleep", "600"], uuid="", log=tmp_path / "log", descriptors={})
    (pid,) = started
    assert not Path(f"/proc/{pid}").exists()
    assert descriptors() == before


def test_a_spawn_that_fails_for_want_of_descriptors_keeps_none_and_does_not_blame_the_program(tmp_path: Path) -> None:
    given = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
    limits, before = resource.getrlimit(resource.RLIMIT_NOFILE), descriptors()
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(*given, 64) + 3, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            QemuProcess.spawn(["true"], uuid="", log=tmp_path / "log", descriptors=dict(enumerate(given, 3)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in given:
            os.close(fd)
    assert descriptors() == before - len(given)


def test_a_process_that_a_signal_has_stopped_is_told_with_what_lets_it_run_on() -> None:
    argv = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", UUID]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        identity = ProcessIdentity(child.pid, start_time_of(child.pid), UUID)
        assert process_hindrance(identity) is None
        child.send_signal(signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        hindrance = process_hindrance(identity)
        assert hindrance is not None
        assert hindrance.remedy.startswith(f"`kill -CONT {child.pid}`")
        # Another process that has its number is none of ours.
        assert process_hindrance(attrs.evolve(identity, start_time=identity.start_time + 1)) is None
        child.kill()
