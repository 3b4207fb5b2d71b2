"""A job: a command of the guest, its processes, its pipes or terminal, its output and what became of it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from guest.environment import Environment
from guest.filework import InvalidRequest
from guest.ring import Ring
from guest.starter import Starter
from guest.wire import DATA_CHUNK_BYTES, STDERR, STDOUT

SHELL: Final = "/bin/sh"
FALLBACK_SHELL: Final = os.environ.get("AGENTISO_FALLBACK_SHELL", SHELL)
"""For root disks that hold no shell."""
TIOCSWINSZ: Final = 0x5414
END_OF_INPUT: Final = b"\x04"
"""What a terminal in its usual mode takes for the end of input, at the beginning of a line (termios(3))."""
SHOWN_COMMAND: Final = 200


class Input:
    """Bytes for a command's standard input; ``request_id`` is who waits until it has taken them."""

    def __init__(self, request_id: int | None, data: bytes, *, ends: bool, deadline: float) -> None:
        self.request_id = request_id
        self.data = data
        self.ends = ends
        self.deadline = deadline
        self.taken = 0


class Job:
    """One command.  It is ``over`` once its own process has ended; its descendants may live on."""

    def __init__(self, job_id: str, body: dict[str, Any], starter: Starter, environment: Environment) -> None:
        self.id = job_id
        self.carried_from: str | None = None
        """Its id in the machine of which this one is a fork."""
        argv = body.get("argv") or [SHELL if os.path.exists(SHELL) else FALLBACK_SHELL, "-c", body["command"]]
        self.command = str(body.get("command") or " ".join(argv))[:SHOWN_COMMAND]
        self.started_at = time.time()
        self._started = time.monotonic()
        self._duration_s = 0.0
        timeout_s = body.get("timeout_s")
        self.deadline = self._started + timeout_s if timeout_s else None
        self.timed_out = False
        self.note = ""
        self.status: int | None = None
        self.rings = {STDOUT: Ring(), STDERR: Ring()}
        self.inputs: deque[Input] = deque()
        self.pipes: dict[int, int] = {}
        """Descriptors to read, and the stream that each belongs to."""
        self.stdin: int | None = None
        self.terminal: int | None = None
        self._open: list[int] = []
        size = body.get("pty")
        env = environment.of_command(body.get("env"), terminal="xterm-256color" if size else "dumb")
        self.group = starter.groups.take()
        """Where its processes are, until they are gone."""
        theirs: list[int] = []
        try:
            if size:
                self._open_terminal(theirs, size)
                # The first terminal that the leader of a session opens controls it (tty_ioctl(4)).
                controlling = (os.POSIX_SPAWN_OPEN, 0, os.ttyname(theirs[0]), os.O_RDWR, 0)
                actions: Sequence[tuple[Any, ...]] = [controlling, *_copies((0, 0), first=1)]
            else:
                self._open_pipes(theirs, stdin=bool(body.get("stdin")))
                actions = _copies(theirs)
            workdir = body.get("workdir") or "/"
            self.pid = starter.start(argv, workdir=workdir, env=env, actions=actions, group=self.group)
        except BaseException:
            self.close()
            self.let_go()
            raise
        finally:
            for end in theirs:
                os.close(end)

    def _open_pipes(self, theirs: list[int], *, stdin: bool) -> None:
        """Open what leads to the command; ``theirs`` gets its standard input, output and error."""
        if stdin:
            end, self.stdin = os.pipe()
            self._open.append(self.stdin)
        else:
            end = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        theirs.append(end)
        for stream in (STDOUT, STDERR):
            ours, end = os.pipe()
            self.pipes[ours] = stream
            self._open.append(ours)
            theirs.append(end)
        for fd in self._open:
            os.set_blocking(fd, False)

    def _open_terminal(self, theirs: list[int], size: dict[str, Any]) -> None:
        master, slave = os.openpty()
        theirs.append(slave)
        self._open.append(master)
        self.pipes[master] = STDOUT
        self.stdin = self.terminal = master
        self.resize(size)
        os.set_blocking(master, False)

    def let_go(self) -> None:
        """Remove its control group: nothing of it runs any more."""
        if self.group is not None:
            self.group.remove()
            self.group = None

    def resize(self, size: dict[str, Any]) -> None:
        """Give the command's terminal ``rows`` and ``cols``."""
        if self.terminal is None:
            raise InvalidRequest("it has no terminal")
        fcntl.ioctl(self.terminal, TIOCSWINSZ, struct.pack("HHHH", int(size["rows"]), int(size["cols"]), 0, 0))

    @property
    def over(self) -> bool:
        """Whether the command has ended."""
        return self.status is not None

    @property
    def gone(self) -> bool:
        """Whether nothing of it runs any more, as far as can be known."""
        return self.over and not (self.group and self.group.populated)

    @property
    def kept_bytes(self) -> int:
        """How much of its output is held."""
        return sum(map(len, self.rings.values()))

    def read(self, fd: int) -> bool | None:
        """Take in what a pipe holds: ``True``, or ``False`` at its end, or ``None`` if it holds nothing now."""
        try:
            data = os.read(fd, DATA_CHUNK_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            # A terminal whose other end is closed (pty(7) leaves it to the reader to find out).
            if error.errno != errno.EIO:
                raise
            data = b""
        self.rings[self.pipes[fd]].add(data)
        return bool(data)

    def write(self, item: Input) -> bool | None:
        """Write input: ``True`` when it is all taken, ``None`` if not now, ``False`` if nobody reads it any more."""
        if self.stdin is None:
            return False
        try:
            while item.taken < len(item.data):
                item.taken += os.write(self.stdin, item.data[item.taken : item.taken + DATA_CHUNK_BYTES])
            if item.ends and self.terminal is not None:
                os.write(self.stdin, END_OF_INPUT)
        except BlockingIOError:
            return None
        except OSError:
            return False
        return True

    def kill(self, number: int, note: str) -> bool:
        """Signal the whole process group, with SIGKILL all descendants; tell whether there was anything to signal."""
        if number == signal.SIGKILL and self.group and self.group.populated and self.group.kill():
            self.note = note
            return True
        if self.over:
            # Its number may be another's by now.
            return False
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        self.note = note
        return True

    def check_deadline(self, now: float) -> None:
        """Kill the process group once its time is up."""
        if self.deadline is not None and now >= self.deadline and not self.timed_out:
            self.timed_out = True
            self.kill(signal.SIGKILL, f"The time limit passed; group {self.pid} and its descendants were killed.")

    def ended(self, status: int) -> None:
        """Take note of the end of the command itself."""
        self.status = status
        self._duration_s = time.monotonic() - self._started

    def close_input(self) -> None:
        """Close the standard input; a terminal stays open for its output."""
        if self.stdin is not None and self.terminal is None:
            os.close(self.stdin)
            self._open.remove(self.stdin)
            self.stdin = None

    def close(self) -> None:
        """Close all that leads to the command."""
        for fd in self._open:
            os.close(fd)
        self._open.clear()
        self.pipes.clear()
        self.stdin = self.terminal = None

    def facts(self) -> dict[str, Any]:
        """Describe the job."""
        code = None if self.status is None else os.waitstatus_to_exitcode(self.status)
        return {
            "job": self.id,
            "carried_from": self.carried_from,
            "command": self.command,
            "started_at": self.started_at,
            "running": code is None,
            "exit_code": code if code is not None and code >= 0 else None,
            "signal": -code if code is not None and code < 0 else None,
            "timed_out": self.timed_out,
            "duration_s": self._duration_s if self.over else time.monotonic() - self._started,
            "stdout_bytes": self.rings[STDOUT].end,
            "stderr_bytes": self.rings[STDERR].end,
            "note": self.note,
        }


def _copies(descriptors: Sequence[int], first: int = 0) -> list[tuple[int, int, int]]:
    """Return what makes a child's descriptors, from a number on, copies of these."""
    return [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(descriptors, first)]
