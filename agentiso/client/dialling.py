"""Reaching the supervisor of a state directory: greeting it, and starting it where none answers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from actors.model.errors import HostUnfit, SupervisorEnding, SupervisorGone
from actors.model.files import failures_reported, tail
from actors.model.settings import Settings
from actors.runtime import unix_sockets
from agentiso.protocol.greeting import MAX_ANSWER_BYTES, Greeting, Welcome, read_answer
from agentiso.protocol.places import LOG, RUNS_ALREADY, SOCKET

START_LIMIT_S: Final = 60.0
ANSWER_LIMIT_S: Final = 20.0
"""For a supervisor that may be busy with others' machines."""
ENDING_LIMIT_S: Final = 10.0
"""For how long supervisors that end before they answer are taken for those that were ending anyway."""
AGAIN_S: Final = 1.0
"""For how long the one that was there first is given to answer before another is started: it may have been ending."""
ON_DEMAND: Final = ("--idle-exit", "60")
"""A supervisor that nobody asked for ends once it is not needed."""
_started: Final[list[trio.Process]] = []
"""Supervisors that this process started: they outlive what used them, and dropping one that runs would be reported as a
leak."""


async def connect(
    settings: Settings, greeting: Greeting, *, config: Path | None = None, arguments: Sequence[str] = ON_DEMAND
) -> tuple[trio.SocketStream, Welcome]:
    """Connect to the supervisor of a state directory and greet it; it is started, with ``arguments``, if none runs.

    One that somebody else is starting is waited for, and one that ends instead of answering makes way for the next.

    Raises:
        HostUnfit: it does not start; the message has the end of its log.
        OtherVersion: it is of a version that does not understand this one.
        Unauthorized: the token is worth nothing.
        SupervisorGone: it does not answer.

    """
    limit = trio.current_time() + ENDING_LIMIT_S
    while True:
        try:
            return await _greeted(await _reach(settings, config, arguments), greeting)
        except SupervisorEnding:
            if trio.current_time() > limit:
                raise
            await trio.sleep(0.02)


async def connect_running(settings: Settings, greeting: Greeting) -> tuple[trio.SocketStream, Welcome] | None:
    """Connect to the supervisor of a state directory and greet it if one serves there, otherwise return ``None``.

    Raises:
        OtherVersion, Unauthorized, SupervisorGone: as of `connect`.

    """
    try:
        return await _greeted(await _dial(settings.state_dir / SOCKET), greeting)
    except (OSError, SupervisorEnding):
        return None


def is_running(settings: Settings) -> bool:
    """Tell whether a supervisor serves a state directory's socket, or listens there at least."""
    try:
        unix_sockets.connect(settings.state_dir / SOCKET).close()
    except BlockingIOError:
        return True
    except OSError:
        return False
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
    raise _mute(ANSWER_LIMIT_S)


async def _dial(path: Path) -> trio.SocketStream:
    """Connect to the socket of a supervisor.

    Raises:
        SupervisorGone: it takes no connection.
        OSError: nobody listens.

    """
    try:
        return await unix_sockets.dial(path)
    except TimeoutError as error:
        raise _mute(unix_sockets.DIAL_LIMIT_S) from error


def _mute(limit_s: float) -> SupervisorGone:
    return SupervisorGone(
        f"The supervisor runs and does not answer within {limit_s:.0f} s; nothing was asked of it.",
        remedy="See its daemon.log; `agentiso daemon restart` replaces it, and machines run on.",
    )


async def _reach(settings: Settings, config: Path | None, arguments: Sequence[str]) -> trio.SocketStream:
    """Connect to the socket, and start a supervisor where nobody listens."""
    path = settings.state_dir / SOCKET
    process: trio.Process | None = None
    start_at = trio.current_time()
    with trio.move_on_after(START_LIMIT_S):
        while True:
            try:
                stream = await _dial(path)
            except OSError:
                status = process.poll() if process else RUNS_ALREADY
            else:
                _end_needless(process, stream)
                return stream
            if status == RUNS_ALREADY and trio.current_time() >= start_at:
                process, start_at = await _start(settings, config, arguments), trio.current_time() + AGAIN_S
            elif status not in (None, RUNS_ALREADY):
                break
            await trio.sleep(0.02)
    log_path = settings.state_dir / LOG
    raise HostUnfit(f"The supervisor did not start. Its log ends:\n{tail(log_path, 1500)}", remedy=f"See {log_path}.")


def _end_needless(process: trio.Process | None, stream: trio.SocketStream) -> None:
    """End a supervisor that was started beside the one that answers: it would take over once that one ends."""
    if process is not None and process.pid != unix_sockets.peer_pid(stream):
        process.terminate()


async def _start(settings: Settings, config: Path | None, arguments: Sequence[str]) -> trio.Process:
    with failures_reported():
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    argv = [sys.executable, "-m", "agentiso.cli", *(("--config", str(config)) if config else ()), "daemon", *arguments]
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
