"""A QEMU process: started in its own session, outliving its starter, found again by identity.

A process is identified by its id *and* its start time, so that a recycled pid is never mistaken for it, and is held
by a pidfd, so that no signal can reach another process.  Whose machine it is, is told by the log that it has open: a
copy of a state directory names the same processes, and one that was moved is named otherwise than by them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import trio

from actors.machine.qemu.command_line import CONSOLE_MARK
from actors.machine.qemu.logs import CONSOLE
from actors.model.errors import HostUnfit, MachineFailed
from actors.model.machine import ProcessIdentity

FIRST_SPARE_FD = 64
"""Descriptors are first moved here, above the numbers a child inherits them under."""
KILL_WAIT_S = 10.0
"""SIGKILL takes effect at once unless the process hangs in the kernel; then waiting longer is of no use."""
CHILD_KILL_WAIT_S: Final = 1.0
"""The same for one that has just begun; everybody waits for it."""
DEPTH: Final = 4
"""A machine's own directory is ``workspaces/<id>/machines/<id>`` in a state directory, or the like of a template."""
NOT_EXECUTABLE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENOEXEC, errno.ELOOP})


def is_alive(identity: ProcessIdentity) -> bool:
    """Tell whether exactly this process still runs, whosever machine it is.

    Raises:
        OSError: it cannot be told.

    """
    return _words_of(identity) is not None


def is_machine_of(identity: ProcessIdentity, directory: Path) -> bool:
    """Tell whether exactly this process still runs, and is the machine whose own directory that is.

    It is not where the directory is a copy of the machine's.

    Raises:
        OSError: it cannot be told.

    """
    words = _words_of(identity)
    if words is None or (console := _console_of(words)) is None:
        return False
    try:
        return _is_at(identity.pid, console.parent, directory)
    except (FileNotFoundError, ProcessLookupError):
        # It ended meanwhile.
        return False


def _words_of(identity: ProcessIdentity) -> list[str] | None:
    """Return the command line of exactly this process, or ``None`` if it has ended."""
    try:
        if start_time_of(identity.pid) != identity.start_time:
            return None
        words = _command_of(identity.pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
    # One that is about to end has no command line any more.
    return words if identity.uuid in words else None


def _command_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")


def start_time_of(pid: int) -> int:
    """Return the start time of a process, in clock ticks after the host's boot (proc(5))."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    # The command name, in parentheses, may itself hold spaces and parentheses.
    return int(stat.rpartition(")")[2].split()[19])


def is_stopped(identity: ProcessIdentity) -> bool:
    """Tell whether a signal has stopped this process, which runs on after SIGCONT; not if it cannot be told."""
    try:
        state = Path(f"/proc/{identity.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state in ("T", "t") and is_alive(identity)
    except (OSError, IndexError):
        return False


def find_machines(state_dir: Path) -> Iterator[tuple[ProcessIdentity, Path]]:
    """Find this user's QEMU processes whose console lies in a state directory, and the directory of each console.

    That is the one in ``state_dir``, by whatever path the process knows it.

    Raises:
        OSError: a process of this user's cannot be looked at.

    """
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if entry.stat().st_uid != os.geteuid():
                continue
            pid = int(entry.name)
            words = _command_of(pid)
            console = _console_of(words)
            if console is None or "-uuid" not in words:
                continue
            directory = _within(state_dir, console.parent)
            if directory is not None and _is_at(pid, console.parent, directory):
                yield ProcessIdentity(pid, start_time_of(pid), words[words.index("-uuid") + 1]), directory
        except (FileNotFoundError, ProcessLookupError):
            # It ended meanwhile.
            continue


def _within(state_dir: Path, named: Path) -> Path | None:
    """Return which directory in a state directory may be what a machine knows by another path, if there is one."""
    if named.is_relative_to(state_dir):
        return named
    here = state_dir.joinpath(*named.parts[-DEPTH:])
    return here if here.parents[1].is_dir() else None


def _is_at(pid: int, named: Path, directory: Path) -> bool:
    """Tell whether it is a directory's log of the console that a process has open, and not that of another one.

    Where somebody has removed that, it is told by the path, or by the disk.
    """
    try:
        log = (directory / CONSOLE).stat()
    except (FileNotFoundError, NotADirectoryError):
        layers = (directory.parents[DEPTH - 1] / "layers").resolve()
        return named == directory or any(path.parent == layers for path, _ in _opened_by(pid))
    return any(os.path.samestat(facts, log) for _, facts in _opened_by(pid))


def _opened_by(pid: int) -> list[tuple[Path, os.stat_result]]:
    """Return where the files are that a process has open, and what they are; nothing of one that has ended."""
    found = []
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            # Descriptors come and go.
            with contextlib.suppress(FileNotFoundError):
                found.append((entry.readlink(), entry.stat()))
    except PermissionError:
        # Of one that has ended, and that its parent does not know of yet, they are not this user's any more.
        if any(_command_of(pid)):
            raise
    return found


def _console_of(words: Sequence[str]) -> Path | None:
    """Return the console's log that a machine's arguments name; machines of earlier releases open it themselves."""
    for word in words:
        for before, after in ((CONSOLE_MARK, ""), ("file,id=console,path=", ",append=on")):
            if word.startswith(before) and word.endswith(after) and not word.startswith(f"{before}/dev/fdset/"):
                return Path(word.removeprefix(before).removesuffix(after).replace(",,", ","))
    return None


class QemuProcess:
    """A running QEMU, child of this process or adopted."""

    def __init__(self, identity: ProcessIdentity, pidfd: int) -> None:
        self.identity = identity
        self._pidfd = pidfd
        self._exited = trio.Event()
        self._waiting = trio.Lock()
        """Held by the one who waits for the descriptor, since trio allows one task per descriptor."""
        self.exit_status: int | None = None
        """Exit code, negative for a signal; ``None`` while running, or when another process is its parent."""

    @classmethod
    def spawn(cls, argv: Sequence[str], *, uuid: str, log: Path, descriptors: Mapping[int, int]) -> QemuProcess:
        """Start QEMU; ``descriptors`` maps the child's numbers to ours.

        Raises:
            HostUnfit: the program cannot be executed.
            MachineFailed: it cannot be watched, and was ended.
            OSError: the host has no room for it.

        """
        pid = _posix_spawn(argv, log, descriptors)
        with ExitStack() as undo:
            undo.callback(_end_child, pid)
            try:
                pidfd = os.pidfd_open(pid)
                undo.callback(os.close, pidfd)
                identity = ProcessIdentity(pid, start_time_of(pid), uuid)
            except OSError as error:
                raise MachineFailed(f"QEMU was started, could not be watched, and was ended: {error}.") from error
            undo.pop_all()
        return cls(identity, pidfd)

    @classmethod
    def adopt(cls, identity: ProcessIdentity, directory: Path) -> QemuProcess | None:
        """Take hold of the machine of a directory, started by an earlier supervisor; ``None`` if there is none.

        Raises:
            OSError: it cannot be told.

        """
        try:
            pidfd = os.pidfd_open(identity.pid)
        except ProcessLookupError:
            return None
        # Checked after the pidfd is held: from here on the pid cannot be recycled behind our back.
        try:
            alive = is_machine_of(identity, directory)
        except BaseException:
            os.close(pidfd)
            raise
        if not alive:
            os.close(pidfd)
            return None
        return cls(identity, pidfd)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.identity.pid

    @property
    def has_ended(self) -> bool:
        """Whether it has ended; of one that was let go of, whether it was seen to have."""
        if not self._exited.is_set() and self._pidfd >= 0:
            look = select.poll()
            look.register(self._pidfd, select.POLLIN)
            if look.poll(0):
                self._reap()
        return self._exited.is_set()

    async def wait_exit(self) -> None:
        """Wait until the process has ended; any number of tasks may wait, for ever if it is let go of meanwhile.

        It needs no descriptor, so that the end of a process is seen where there are no more.
        """
        if self.has_ended or self._pidfd < 0:
            await trio.lowlevel.checkpoint()
            return
        async with self._waiting:
            if self._exited.is_set():
                return
            try:
                await trio.lowlevel.wait_readable(self._pidfd)
            except trio.ClosedResourceError:
                await trio.sleep_forever()
            self._reap()

    def _reap(self) -> None:
        if self._exited.is_set():
            return
        self._exited.set()
        # An adopted one may be another's child, and a test harness may have reaped ours: the status is unknown then.
        with contextlib.suppress(ChildProcessError):
            if ended := os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED):
                self.exit_status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def kill(self) -> None:
        """Send SIGKILL to exactly this process; no-op once it has ended."""
        if self._pidfd < 0 or self._exited.is_set():
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def end(self, grace_s: float = 0.0) -> bool:
        """Wait up to ``grace_s`` for the process to end by itself, then kill and reap it; shielded and bounded.

        Returns whether it has ended, which is known only of one that was not let go of before.
        """
        with trio.CancelScope(shield=True, deadline=trio.current_time() + grace_s + KILL_WAIT_S):
            try:
                if grace_s:
                    with trio.move_on_after(grace_s):
                        await self.wait_exit()
            finally:
                self.kill()
            await self.wait_exit()
        return self.has_ended

    def release(self) -> None:
        """Let go of the process without touching it."""
        if self._pidfd >= 0:
            if self._waiting.locked():
                trio.lowlevel.notify_closing(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


def _end_child(pid: int) -> None:
    """End and reap a child that has just begun and that nobody can hold."""
    os.kill(pid, signal.SIGKILL)
    limit = time.monotonic() + CHILD_KILL_WAIT_S
    while not os.waitpid(pid, os.WNOHANG)[0] and time.monotonic() < limit:
        time.sleep(0.001)


def _inheritable() -> list[int]:
    """Return the descriptors that a child would get unasked: those that this process was itself started with."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        number = int(entry.name)
        # The one by which the directory is read is closed by now.
        with contextlib.suppress(OSError):
            if number > 2 and os.get_inheritable(number):
                found.append(number)
    return found


def _posix_spawn(argv: Sequence[str], log: Path, descriptors: Mapping[int, int]) -> int:
    """Start a program in a new session, with exactly the given descriptors."""
    with ExitStack() as ours:
        moved: dict[int, int] = {}
        for number, fd in descriptors.items():
            moved[number] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_SPARE_FD)
            ours.callback(os.close, moved[number])
        actions = [
            *((os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable()),
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            *((os.POSIX_SPAWN_DUP2, fd, number) for number, fd in moved.items()),
        ]
        try:
            return os.posix_spawnp(
                argv[0],
                list(argv),
                {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
                file_actions=actions,
                setsid=True,
                setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
                setsigmask=[],
            )
        except OSError as error:
            if error.errno not in NOT_EXECUTABLE:
                raise
            raise HostUnfit(
                f"{argv[0]} cannot be started: {error.strerror}.",
                remedy="Install QEMU (Debian and Ubuntu: apt-get install qemu-system-x86) or set qemu_binary.",
            ) from error
