"""A command running in the guest: its process group, its pipes and what became of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from typing import Any, Final

from guest.cgroup import Groups
from guest.wire import DATA_CHUNK_BYTES, STDERR, STDOUT

DEFAULT_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "SHELL": "/bin/sh",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
}
SHELL: Final = "/bin/sh"
FALLBACK_SHELL: Final = os.environ.get("AGENTISO_FALLBACK_SHELL", SHELL)
"""For root disks that hold no shell."""


class Job:
    """One command.  ``request_id`` is the request that waits for it, ``None`` once its asker is gone."""

    def __init__(self, job_id: int, request_id: int | None, body: dict[str, Any], groups: Groups) -> None:
        self.id = job_id
        self._groups = groups
        self._group = f"{os.getpid()}-{job_id}"
        self.request_id = request_id
        argv = body.get("argv") or [SHELL if os.path.exists(SHELL) else FALLBACK_SHELL, "-c", body["command"]]
        self.command = " ".join(argv)[:200]
        self.started = time.monotonic()
        timeout_s = body.get("timeout_s")
        self.deadline = self.started + timeout_s if timeout_s else None
        self.timed_out = False
        self.note = ""
        self.totals = {STDOUT: 0, STDERR: 0}
        self.status: int | None = None
        with groups.birthplace(self._group):
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=body.get("workdir") or "/",
                env={**DEFAULT_ENVIRONMENT, **(body.get("env") or {})},
                start_new_session=True,
            )
        self.pid = self._process.pid
        with contextlib.suppress(OSError), open(f"/proc/{self.pid}/oom_score_adj", "w") as file:
            # The agent's own exemption from the kernel's out-of-memory killer is not for its commands.
            file.write("0")
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.pipes = {self._process.stdout.fileno(): STDOUT, self._process.stderr.fileno(): STDERR}
        for fd in self.pipes:
            os.set_blocking(fd, False)

    def read(self, fd: int) -> bytes | None:
        """Return what a pipe holds, ``b""`` at its end, ``None`` if it holds nothing now."""
        try:
            data = os.read(fd, DATA_CHUNK_BYTES)
        except BlockingIOError:
            return None
        self.totals[self.pipes[fd]] += len(data)
        return data

    def kill(self, number: int, note: str) -> bool:
        """Signal the whole process group, with SIGKILL all descendants; tell whether there was anything to signal."""
        if number == signal.SIGKILL and self._groups.kill(self._group):
            self.note = note
            return True
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        self.note = note
        return True

    def exited(self, status: int) -> None:
        """Take note of the end of the command itself; its descendants may still run."""
        self.status = status
        self._process.returncode = os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """Close the pipes."""
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def result(self) -> dict[str, Any]:
        """Describe the end of the command."""
        assert self.status is not None
        code = os.waitstatus_to_exitcode(self.status)
        return {
            "exit_code": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "timed_out": self.timed_out,
            "stdout_bytes": self.totals[STDOUT],
            "stderr_bytes": self.totals[STDERR],
            "duration_s": time.monotonic() - self.started,
            "note": self.note,
        }

    def check_deadline(self, now: float) -> None:
        """Kill the process group once its time is up."""
        if self.deadline is not None and now >= self.deadline and not self.timed_out:
            self.timed_out = True
            self.kill(signal.SIGKILL, f"The time limit passed; group {self.pid} and its descendants were killed.")
