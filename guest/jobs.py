"""The table of jobs: every command that was started here, independent of the connection that asked for it.

Their output is read all the time into bounded rings.  Whoever asks gets it from there, any number of times; only a
follower who is slow holds a command up.  A finished job stays until it is released or its place is needed.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import re
import secrets
import selectors
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from guest.environment import Environment
from guest.filework import InvalidRequest
from guest.job import Input, Job
from guest.link import Link
from guest.reader import Reader
from guest.starter import Starter
from guest.wire import Data

Answer = Callable[[int, "dict[str, Any]"], None]
Handler = Callable[[int, "dict[str, Any]"], "dict[str, Any] | None"]

MAX_JOBS: Final = 1000
MAX_KEPT_BYTES: Final = 32 * 1024 * 1024
"""Of all jobs' output together; beyond it the oldest finished ones' output goes, then all but the end of the rest."""
SMALL_RING_BYTES: Final = 64 * 1024
MAX_DRAINED_CHUNKS: Final = 8
"""What is read of a pipe after its command ended; a descendant that holds it may go on writing for ever."""
MAX_INPUTS: Final = 16
MAX_INPUT_BYTES: Final = 64 * 1024
INPUT_WAIT_S: Final = 10.0
KILL_WAIT_S: Final = 5.0
ID: Final = re.compile(r"[A-Za-z0-9_-]{1,32}\Z")


class Jobs:
    """All jobs of one guest."""

    def __init__(self, link: Link, selector: selectors.BaseSelector, starter: Starter, answer: Answer) -> None:
        self._link = link
        self._selector = selector
        self._starter = starter
        self._answer = answer
        self._environment = Environment()
        self._jobs: dict[str, Job] = {}
        self._running: dict[int, Job] = {}
        """By process id."""
        self._lingering: list[Job] = []
        """Those that are over while something that they started may still run."""
        self._untidy = False
        self._readers: list[Reader] = []
        self._kept_bytes = 0
        self.began_anew = False
        """Whether an earlier agent of this guest ended, and what it knew with it."""
        self.handlers: dict[str, Handler] = {
            "exec": self._exec,
            "job_start": self._start,
            "job_follow": lambda request_id, body: self._read(request_id, body, follow=True),
            "job_read": lambda request_id, body: self._read(request_id, body, follow=False),
            "job_credit": self._credit,
            "job_kill": self._kill,
            "job_input": self._input,
            "job_resize": self._resize,
            "job_list": self._list,
            "job_release": self._release,
            "set_env": lambda _id, body: {"count": self._environment.change(body["vars"])},
        }

    # -- for the loop

    def next_deadline(self) -> float | None:
        """Return when something is to be done although nothing happens."""
        deadlines = [job.deadline for job in self._running.values() if job.deadline and not job.timed_out]
        deadlines += [reader.deadline for reader in self._readers if reader.deadline is not None]
        deadlines += [item.deadline for job in self._running.values() for item in job.inputs]
        return min(deadlines, default=None)

    def on_ready(self, job: Job, fd: int, events: int) -> None:
        """Read or write what a job's descriptor is ready for."""
        if events & selectors.EVENT_READ and fd in job.pipes:
            before = job.kept_bytes
            if job.read(fd) is False:
                self._watch_fd(job, fd, 0)
                del job.pipes[fd]
            self._keep(job, before)
        if events & selectors.EVENT_WRITE:
            self._feed(job)

    def serve(self) -> None:
        """Send one piece to each reader in turn while the host takes them; then read on from who may be read."""
        sent = True
        while sent and self._link.has_room:
            sent = False
            for reader in list(self._readers):
                sent = self._serve(reader) or sent
        for job in self._running.values():
            self._watch(job)

    def _serve(self, reader: Reader) -> bool:
        if not self._link.has_room:
            return False
        piece = reader.next_piece()
        if piece is not None:
            self._link.send(Data(reader.request_id, *piece))
            return True
        if reader.done():
            self._readers.remove(reader)
            self._answer(reader.request_id, reader.result())
        return False

    def check_deadlines(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        for job in self._running.values():
            job.check_deadline(now)
            for item in [item for item in job.inputs if now >= item.deadline]:
                job.inputs.remove(item)
                self._answer_input(item, closed=False)

    def reap(self) -> None:
        """Take note of every process that has ended."""
        self._untidy = True
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            job = self._running.pop(pid, None)
            if job is not None:
                self._finish(job, status)

    def tidy(self) -> None:
        """Do what nobody waits for, after something has ended: remove empty groups, and make one ahead."""
        if not self._untidy:
            return
        self._untidy = False
        for job in list(self._lingering):
            if job.gone:
                self._lingering.remove(job)
                job.let_go()
            elif job.group is not None:
                job.group.rest()
        # If it cannot be made now, the next command says why.
        with contextlib.suppress(OSError):
            self._starter.groups.make_ahead()

    def forget_host(self) -> None:
        """Let go of all who asked; the jobs run on."""
        self._readers.clear()
        for job in self._running.values():
            for item in job.inputs:
                item.request_id = None

    def renew_ids(self) -> None:
        """Give every job another id: this machine is another's fork now."""
        jobs = list(self._jobs.values())
        self._jobs = {}
        for job in jobs:
            job.carried_from, job.id = job.id, self._new_id()
            self._jobs[job.id] = job

    def running(self) -> list[dict[str, Any]]:
        """Describe those that run."""
        return [job.facts() for job in self._running.values()]

    # -- what is asked

    def _exec(self, request_id: int, body: dict[str, Any]) -> None:
        """Start a command and follow it in one request."""
        job = self._begin(body)
        self._readers.append(Reader(request_id, job, body, follow=True))

    def _start(self, _request_id: int, body: dict[str, Any]) -> dict[str, Any]:
        return self._begin(body).facts()

    def _begin(self, body: dict[str, Any]) -> Job:
        job_id = body.get("job") or self._new_id()
        if not ID.match(job_id) or job_id in self._jobs:
            raise InvalidRequest(f"{job_id!r} is no id for a new job")
        while len(self._jobs) >= MAX_JOBS:
            self._forget(next(self._finished(), None))
        job = Job(job_id, body, self._starter, self._environment)
        self._jobs[job.id] = self._running[job.pid] = job
        self._watch(job)
        return job

    def _new_id(self) -> str:
        while (job_id := secrets.token_hex(4)) in self._jobs:
            pass
        return job_id

    def _finished(self) -> Iterator[Job]:
        return (job for job in self._jobs.values() if job.over)

    def _forget(self, job: Job | None) -> None:
        if job is None:
            raise InvalidRequest(f"{MAX_JOBS} commands are running already")
        self._kept_bytes -= job.kept_bytes
        del self._jobs[job.id]

    def _find(self, body: dict[str, Any]) -> Job:
        job = self._jobs.get(str(body.get("job")))
        if job is not None:
            return job
        why = ""
        if self.began_anew:
            why = "; the guest agent ended at some time and began anew, without what it knew of commands"
        raise FileNotFoundError(errno.ENOENT, f"no job {str(body.get('job'))[:32]!r} is known here{why}")

    def _read(self, request_id: int, body: dict[str, Any], *, follow: bool) -> None:
        self._readers.append(Reader(request_id, self._find(body), body, follow=follow))

    def _credit(self, _request_id: int, body: dict[str, Any]) -> dict[str, Any]:
        """Let a follower have more; it may be over already."""
        for reader in self._readers:
            if reader.request_id == body["target"] and reader.credit is not None:
                reader.credit += int(body["bytes"])
        return {}

    def _kill(self, request_id: int, body: dict[str, Any]) -> dict[str, Any] | None:
        """Signal a job; the answer comes when it is over, with SIGKILL when nothing of it is left, or after a wait."""
        job, number = self._find(body), int(body.get("signal", signal.SIGKILL))
        if not 1 <= number < signal.NSIG:
            raise InvalidRequest(f"there is no signal {number}")
        who = f"group {job.pid} and its descendants" if number == signal.SIGKILL else f"process group {job.pid}"
        if not job.kill(number, f"Signal {number} was sent to {who}."):
            return {**job.facts(), "signalled": False, "gone": job.gone}
        wait = {"wait_s": body.get("wait_s", KILL_WAIT_S), "gone": number == signal.SIGKILL}
        self._readers.append(Reader(request_id, job, wait, follow=False))
        return None

    def _input(self, request_id: int, body: dict[str, Any]) -> None:
        job, data = self._find(body), base64.b64decode(body.get("data", ""), validate=True)
        if len(data) > MAX_INPUT_BYTES:
            raise InvalidRequest(f"more than {MAX_INPUT_BYTES} bytes of input at once")
        if job.stdin is None and not job.over:
            raise InvalidRequest("its standard input is closed, or was never open")
        if len(job.inputs) >= MAX_INPUTS:
            raise InvalidRequest(f"{MAX_INPUTS} pieces of input wait for it already")
        deadline = time.monotonic() + body.get("wait_s", INPUT_WAIT_S)
        job.inputs.append(Input(request_id, data, ends=bool(body.get("end")), deadline=deadline))
        self._feed(job)

    def _feed(self, job: Job) -> None:
        while job.inputs:
            taken = job.write(job.inputs[0])
            if taken is None:
                break
            item = job.inputs.popleft()
            self._answer_input(item, closed=not taken)
            if (item.ends or not taken) and job.stdin is not None and job.terminal is None:
                self._watch_fd(job, job.stdin, 0)
                job.close_input()
        self._watch(job)

    def _answer_input(self, item: Input, *, closed: bool) -> None:
        if item.request_id is not None:
            self._answer(item.request_id, {"taken": item.taken, "closed": closed})

    def _resize(self, _request_id: int, body: dict[str, Any]) -> dict[str, Any]:
        job = self._find(body)
        if not job.over:
            job.resize(body)
        return {}

    def _list(self, _request_id: int, _body: dict[str, Any]) -> dict[str, Any]:
        return {"jobs": [job.facts() for job in self._jobs.values()], "began_anew": self.began_anew}

    def _release(self, _request_id: int, body: dict[str, Any]) -> dict[str, Any]:
        job = self._find(body)
        if not job.over:
            raise InvalidRequest("it is running; kill it first")
        self._forget(job)
        return {}

    # -- output

    def _keep(self, job: Job, before: int) -> None:
        """Count what a job holds now, and make room if that is too much in all."""
        self._kept_bytes += job.kept_bytes - before
        if self._kept_bytes <= MAX_KEPT_BYTES:
            return
        for victim in [*self._finished(), job]:
            if self._kept_bytes <= MAX_KEPT_BYTES or any(reader.job is victim for reader in self._readers):
                continue
            size = victim.kept_bytes
            for ring in victim.rings.values():
                ring.trim(0 if victim.over else SMALL_RING_BYTES)
            self._kept_bytes += victim.kept_bytes - size

    def _watch(self, job: Job) -> None:
        for fd, stream in job.pipes.items():
            held = any(reader.job is job and reader.behind(stream) for reader in self._readers)
            writing = fd == job.stdin and job.inputs
            self._watch_fd(job, fd, (0 if held else selectors.EVENT_READ) | (selectors.EVENT_WRITE if writing else 0))
        if job.stdin is not None and job.stdin not in job.pipes:
            self._watch_fd(job, job.stdin, selectors.EVENT_WRITE if job.inputs else 0)

    def _watch_fd(self, job: Job, fd: int, events: int) -> None:
        watched = self._selector.get_map().get(fd)
        if watched is None:
            if events:
                self._selector.register(fd, events, job)
        elif not events:
            self._selector.unregister(fd)
        elif watched.events != events:
            self._selector.modify(fd, events, job)

    def _finish(self, job: Job, status: int) -> None:
        """Take what an ended command's pipes hold, whoever else may hold the pipes."""
        job.ended(status)
        before = job.kept_bytes
        for fd in list(job.pipes):
            for _ in range(MAX_DRAINED_CHUNKS):
                if not job.read(fd):
                    break
            self._watch_fd(job, fd, 0)
        if job.stdin is not None:
            self._watch_fd(job, job.stdin, 0)
        self._keep(job, before)
        while job.inputs:
            self._answer_input(job.inputs.popleft(), closed=True)
        job.close()
        self._lingering.append(job)
