"""Reaching the supervisor of a state directory: greeting it, and starting it where none answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import trio

from actors.model.errors import HostUnfit, SupervisorEnding, SupervisorGone
from actors.model.files import failures_reported, tail
from actors.model.settings import Settings
from actors.registry.lock import holder_of, is_held
from actors.runtime import unix_sockets
from agentiso.protocol.greeting import MAX_ANSWER_BYTES, Greeting, Welcome, read_answer
from agentiso.protocol.places import DAEMON_LOCK, LOG, RUNS_ALREADY, SOCKET

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
NOBODY: Final = (FileNotFoundError, ConnectionRefusedError)
"""What tells that nobody listens.  Other failures tell nothing of that."""
_started: Final[list[trio.Process]] = []
"""Supervisors that this process started: they outlive what used them, and dropping one that runs would be reported as a
leak."""


async def connect(
    settings: Settings, greeting: Greeting, *, config: Path | None = None
) -> tuple[trio.SocketStream, Welcome]:
    """Connect to the supervisor of a state directory and greet it; it is started if none runs.

    One that somebody else is starting is waited for, and one that ends instead of answering makes way for the next.

    Raises:
        HostUnfit: it does not start; the message has the end of its log.
        HostFailed, NoCapacity: the state directory cannot be used.
        OtherVersion: it is of a version that does not understand this one.
        Unauthorized: the token is worth nothing.
        SupervisorGone: it does not answer, or is starting or ending for too long.

    """
    limit = trio.current_time() + ENDING_LIMIT_S
    while True:
        try:
            with failures_reported():
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
        with failures_reported():
            return await _greeted(await _dial(settings), greeting)
    except (*NOBODY, SupervisorEnding):
        return None


def is_running(settings: Settings) -> bool:
    """Tell whether somebody listens at a state directory's socket; whether it answers is another question.

    Raises:
        HostFailed, NoCapacity: that cannot be told.

    """
    with failures_reported():
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
        return stream, await greet(stream, greeting)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


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
        remedy="See its daemon.log; `agentiso daemon restart` replaces it, and machines run on.",
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
        raise SupervisorGone(
            f"The supervisor{_who(settings)} takes no connections: it stands still. Nothing was asked of it.",
            remedy=f"`agentiso daemon restart` replaces it, and machines run on. Its log: {settings.state_dir / LOG}.",
        ) from None


async def _reach(settings: Settings, config: Path | None) -> trio.SocketStream:
    """Connect to the socket; where nobody listens a supervisor is started, unless one starts or ends there already."""
    process: trio.Process | None = None
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
                    process = await _start(settings, config)
            await trio.sleep(PAUSE_S)
    log_path = settings.state_dir / LOG
    if status in (None, RUNS_ALREADY):
        raise SupervisorGone(
            f"A supervisor{_who(settings)} is starting or ending, and has not been ready within "
            f"{START_LIMIT_S:.0f} s. Nothing was asked of it.",
            remedy=f"Wait and try again; {log_path} says what it does. `agentiso daemon restart` replaces it.",
        )
    raise HostUnfit(f"The supervisor did not start. Its log ends:\n{tail(log_path, 1500)}", remedy=f"See {log_path}.")


def _who(settings: Settings) -> str:
    """Return the pid of the supervisor, as far as it can be known, to be put into a sentence."""
    holder = holder_of(settings.state_dir / DAEMON_LOCK)
    return f", pid {holder.pid}," if holder else ""


def _end_needless(process: trio.Process | None, stream: trio.SocketStream) -> None:
    """End a supervisor that was started beside the one that answers: it would take over once that one ends."""
    if process is not None and process.pid != unix_sockets.peer_pid(stream):
        process.terminate()


async def _start(settings: Settings, config: Path | None) -> trio.Process:
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    argv = [sys.executable, "-m", "agentiso.cli", *(("--config", str(config)) if config else ()), "daemon"]
    argv += ["--idle-exit", str(ON_DEMAND_S)]
    with (settings.state_dir / LOG).open("ab") as output:
        process = await trio.lowlevel.open_process(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            env={**os.environ, "AGENTISO_STATE_DIR": str(settings.state_dir)},
        )  # fmt: skip
    reap()
    _started.append(process)
    return process


def reap() -> None:
    """Let go of the supervisors that this process started and that have ended."""
    _started[:] = [process for process in _started if process.poll() is None]
