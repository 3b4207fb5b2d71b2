"""Reaching the supervisor of a state directory: greeting it, and starting it where none answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import trio

from actors.model.errors import HostUnfit, SupervisorEnding, SupervisorGone
from actors.model.settings import Settings
from actors.registry.lock import holder_of, is_held, is_stopped
from actors.runtime import unix_sockets
from agentiso.protocol.greeting import MAX_ANSWER_BYTES, Greeting, Welcome, read_answer
from agentiso.protocol.places import DAEMON_LOCK, LOG, RUNS_ALREADY, SOCKET, make_state_dir, usable

START_LIMIT_S: Final = 60.0
PAUSE_S: Final = 0.02
ANSWER_LIMIT_S: Final = 20.0
"""For a supervisor that may be busy with others' machines."""
ENDING_LIMIT_S: Final = 10.0
"""For how long supervisors that end before they answer are taken for those that were ending anyway."""
AGAIN_S: Final = 1.0
"""For how long the one that was there first is given to answer before another is started: it may have been ending."""
ON_DEMAND_S: Final = 60.0
"""A supervisor that nobody asked for ends once it is not needed."""
REPLACE: Final = "`agentiso daemon restart --force` replaces it, also if it does not end by itself; machines run on."
NOBODY: Final = (FileNotFoundError, ConnectionRefusedError)
"""What tells that nobody listens.  Other failures tell nothing of that."""
SHOWN_BYTES: Final = 4096
"""How much is shown at most of the log of a supervisor that did not start."""
FAILURE: Final = "error: "
"""How the line begins in which a command says why it failed; what follows it to the end belongs to it."""


class _Supervisor(subprocess.Popen[bytes]):
    """A supervisor that this process started, which outlives it: that it is let go is no mistake to be warned of."""

    log_begin = 0
    """How long its log was before it had written anything."""

    def __del__(self) -> None:
        """Let it run on."""


_started: Final[list[_Supervisor]] = []
"""Supervisors that this process started, until they have ended."""


async def connect(
    settings: Settings, greeting: Greeting, *, config: Path | None = None
) -> tuple[trio.SocketStream, Welcome]:
    """Connect to the supervisor of a state directory and greet it; it is started if none runs.

    One that somebody else is starting is waited for, and one that ends instead of answering makes way for the next.

    Raises:
        HostUnfit: it does not start; the message says why, or has what it wrote to its log.
        HostFailed, NoCapacity: the state directory cannot be used.
        OtherVersion: it is of a version that does not understand this one.
        Unauthorized: the token is worth nothing.
        SupervisorGone: it does not answer, or is starting or ending for too long.

    """
    limit = trio.current_time() + ENDING_LIMIT_S
    while True:
        try:
            with usable(settings.state_dir):
                return await _greeted(await _reach(settings, config), greeting)
        except SupervisorEnding:
            if trio.current_time() > limit:
                raise
            await trio.sleep(PAUSE_S)


async def connect_running(settings: Settings, greeting: Greeting) -> tuple[trio.SocketStream, Welcome] | None:
    """Connect to the supervisor of a state directory and greet it if one serves there, otherwise return ``None``.

    Raises:
        HostFailed, NoCapacity, OtherVersion, Unauthorized, SupervisorGone: as of `connect`.

    """
    try:
        with usable(settings.state_dir):
            return await _greeted(await _dial(settings), greeting)
    except (*NOBODY, SupervisorEnding):
        return None


def is_running(settings: Settings) -> bool:
    """Tell whether somebody listens at a state directory's socket; whether it answers is another question.

    Raises:
        HostFailed, NoCapacity: that cannot be told.

    """
    with usable(settings.state_dir):
        try:
            unix_sockets.connect(settings.state_dir / SOCKET).close()
        except NOBODY:
            return False
        except BlockingIOError:
            # Its backlog is full.
            return True
    return True


async def _greeted(stream: trio.SocketStream, greeting: Greeting) -> tuple[trio.SocketStream, Welcome]:
    try:
        check_goes_on(unix_sockets.peer_pid(stream))
        return stream, await greet(stream, greeting)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


def check_goes_on(pid: int) -> None:
    """Raise `SupervisorGone` if a signal has stopped the supervisor, which answers nobody until it goes on."""
    if pid and is_stopped(pid):
        raise SupervisorGone(
            f"The supervisor, pid {pid}, is stopped by a signal; nothing was asked of it.",
            remedy=f"`kill -CONT {pid}` has it go on; `agentiso daemon restart` replaces it, and machines run on.",
        )


async def greet(stream: trio.abc.Stream, greeting: Greeting) -> Welcome:
    """Say who this is and return the supervisor's welcome; it says nothing more before it is spoken to.

    Raises:
        SupervisorEnding: it ended before it answered.
        SupervisorGone: it does not answer.
        OtherVersion, Unauthorized, InvalidArgument: it refuses.

    """
    answer = bytearray()
    try:
        await stream.send_all(greeting.line)
        with trio.move_on_after(ANSWER_LIMIT_S):
            while b"\n" not in answer and len(answer) < MAX_ANSWER_BYTES:
                if not (data := await stream.receive_some(65536)):
                    raise trio.BrokenResourceError
                answer += data
            return read_answer(bytes(answer))
    except trio.BrokenResourceError:
        raise SupervisorEnding("The supervisor ended.", remedy="Try again, or see its daemon.log.") from None
    raise SupervisorGone(
        f"The supervisor runs and does not answer within {ANSWER_LIMIT_S:.0f} s; nothing was asked of it.",
        remedy=f"See its daemon.log. {REPLACE}",
    )


async def _dial(settings: Settings) -> trio.SocketStream:
    """Connect to the socket.

    Raises:
        FileNotFoundError, ConnectionRefusedError: nobody listens.
        SupervisorGone: somebody does and takes no connection.

    """
    try:
        return await unix_sockets.dial(settings.state_dir / SOCKET)
    except TimeoutError:
        _check_holder_goes_on(settings)
        raise SupervisorGone(
            f"The supervisor{_who(settings)} takes no connections: it stands still. Nothing was asked of it.",
            remedy=f"{REPLACE} Its log: {settings.state_dir / LOG}.",
        ) from None


async def _reach(settings: Settings, config: Path | None) -> trio.SocketStream:
    """Connect to the socket; where nobody listens a supervisor is started, unless one starts or ends there already."""
    process: _Supervisor | None = None
    start_at = trio.current_time()
    with trio.move_on_after(START_LIMIT_S):
        while True:
            try:
                stream = await _dial(settings)
            except NOBODY:
                status = process.poll() if process else RUNS_ALREADY
            else:
                _end_needless(process, stream)
                return stream
            if status not in (None, RUNS_ALREADY):
                break
            if status == RUNS_ALREADY and trio.current_time() >= start_at:
                start_at = trio.current_time() + AGAIN_S
                if not is_held(settings.state_dir / DAEMON_LOCK):
                    process = _start(settings, config)
            await trio.sleep(PAUSE_S)
    log_path = settings.state_dir / LOG
    if status in (None, RUNS_ALREADY):
        _check_holder_goes_on(settings)
        raise SupervisorGone(
            f"A supervisor{_who(settings)} is starting or ending, and has not been ready within "
            f"{START_LIMIT_S:.0f} s. Nothing was asked of it.",
            remedy=f"Wait and try again; {log_path} says what it does. {REPLACE}",
        )
    raise _not_started(log_path, process.log_begin if process else 0)


def _not_started(log_path: Path, begin: int) -> HostUnfit:
    """Return why a supervisor did not start: what it said itself, or else the end of what it wrote to its log."""
    try:
        with log_path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(begin, size - SHOWN_BYTES))
            if file.tell() > begin:
                # Of the line that begins before nothing is shown.
                file.readline()
            lines = file.read(SHOWN_BYTES).decode(errors="replace").splitlines()
    except OSError as error:
        return HostUnfit(
            f"The supervisor did not start, and its log cannot be read: {error}.", remedy=f"Look at {log_path}."
        )
    said = next((at for at in reversed(range(len(lines))) if lines[at].startswith(FAILURE)), None)
    if said is not None:
        reason = "\n".join(lines[said:]).removeprefix(FAILURE)
        return HostUnfit(f"The supervisor did not start: {reason}", remedy=f"Its log: {log_path}.")
    return HostUnfit("\n".join(["The supervisor did not start. It wrote last:", *lines]), remedy=f"\nSee {log_path}.")


def _check_holder_goes_on(settings: Settings) -> None:
    if holder := holder_of(settings.state_dir / DAEMON_LOCK):
        check_goes_on(holder.pid)


def _who(settings: Settings) -> str:
    """Return the pid of the supervisor, as far as it can be known, to be put into a sentence."""
    holder = holder_of(settings.state_dir / DAEMON_LOCK)
    return f", pid {holder.pid}," if holder else ""


def _end_needless(process: _Supervisor | None, stream: trio.SocketStream) -> None:
    """End a supervisor that was started beside the one that answers: it would take over once that one ends."""
    if process is not None and process.pid != unix_sockets.peer_pid(stream):
        process.terminate()


def _start(settings: Settings, config: Path | None) -> _Supervisor:
    make_state_dir(settings.state_dir)
    argv = [sys.executable, "-m", "agentiso.cli", *(("--config", str(config)) if config else ()), "daemon"]
    argv += ["--idle-exit", str(ON_DEMAND_S)]
    with (settings.state_dir / LOG).open("ab") as output:
        begin = output.seek(0, os.SEEK_END)
        process = _Supervisor(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            env={**os.environ, "AGENTISO_STATE_DIR": str(settings.state_dir)},
        )  # fmt: skip
    process.log_begin = begin
    reap()
    _started.append(process)
    return process


def reap() -> None:
    """Let go of the supervisors that this process started and that have ended."""
    _started[:] = [process for process in _started if process.poll() is None]
