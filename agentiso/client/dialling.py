"""Reaching the supervisor of a state directory: its sockets, starting it where none answers, ending it."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

import trio

from actors.model.errors import HostUnfit, SupervisorEnding
from actors.model.files import exhaustion_reported, tail
from actors.model.settings import Settings
from actors.runtime import unix_sockets
from agentiso.protocol.greeting import Hello, say_hello
from agentiso.protocol.places import LOG, RUNS_ALREADY, SOCKET

T = TypeVar("T")
START_LIMIT_S: Final = 60.0
ENDING_LIMIT_S: Final = 10.0
"""For how long supervisors that end before they answer are taken for those that were ending anyway."""
AGAIN_S: Final = 1.0
"""For how long the one that was there first is given to answer before another is started: it may have been ending."""
_started: Final[list[trio.Process]] = []
"""Supervisors that this process started: they outlive what used them, and dropping one would be reported as a leak."""


async def connect(settings: Settings, *, config: Path | None = None, socket: str = SOCKET) -> trio.SocketStream:
    """Connect to a socket of the supervisor of a state directory, starting it if none runs.

    One that somebody else is starting is waited for.

    Raises:
        HostUnfit: it does not start; the message has the end of its log.

    """
    path = settings.state_dir / socket
    process: trio.Process | None = None
    start_at = trio.current_time()
    with trio.move_on_after(START_LIMIT_S):
        while True:
            try:
                stream = unix_sockets.dial(path)
            except OSError:
                status = process.poll() if process else RUNS_ALREADY
            else:
                _end_needless(process, stream)
                return stream
            if status == RUNS_ALREADY and trio.current_time() >= start_at:
                process, start_at = await _start(settings, config), trio.current_time() + AGAIN_S
            elif status not in (None, RUNS_ALREADY):
                break
            await trio.sleep(0.02)
    log_path = settings.state_dir / LOG
    raise HostUnfit(f"The supervisor did not start. Its log ends:\n{tail(log_path, 1500)}", remedy=f"See {log_path}.")


async def connect_as(settings: Settings, hello: Hello, *, config: Path | None = None) -> trio.SocketStream:
    """Connect to the supervisor's socket and say hello there.

    Raises:
        HostUnfit: it does not start.
        Unauthorized: the token is worth nothing.
        InvalidArgument: the supervisor does not know what was asked for, or says nothing.

    """

    async def greet() -> trio.SocketStream:
        stream = await connect(settings, config=config)
        try:
            await say_hello(stream, hello)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    return await until_answered(greet)


async def until_answered(greet: Callable[[], Awaitable[T]]) -> T:
    """Connect and greet again while a supervisor ends instead of answering, as one does that was ending anyway."""
    limit = trio.current_time() + ENDING_LIMIT_S
    while True:
        try:
            return await greet()
        except SupervisorEnding:
            if trio.current_time() > limit:
                raise
            await trio.sleep(0.02)


def _end_needless(process: trio.Process | None, stream: trio.SocketStream) -> None:
    """End a supervisor that was started beside the one that answers: it would take over once that one ends."""
    pid, _, _ = struct.unpack("3i", stream.socket.getsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_PEERCRED, 12))
    if process is not None and process.pid != pid:
        process.terminate()


async def _start(settings: Settings, config: Path | None) -> trio.Process:
    """Start a supervisor that ends once it is not needed."""
    with exhaustion_reported():
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    argv = [sys.executable, "-m", "agentiso.cli", "daemon", "--idle-exit", "60"]
    if config:
        argv[3:3] = ["--config", str(config)]
    with (settings.state_dir / LOG).open("ab") as output:
        process = await trio.lowlevel.open_process(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            env={**os.environ, "AGENTISO_STATE_DIR": str(settings.state_dir)},
        )  # fmt: skip
    _started.append(process)
    return process


def is_running(settings: Settings) -> bool:
    """Tell whether a supervisor serves a state directory's socket."""
    try:
        unix_sockets.connect(settings.state_dir / SOCKET).close()
    except OSError:
        return False
    return True


def stop_daemon(settings: Settings) -> bool:
    """Ask the running supervisor to end; tell whether there was one."""
    try:
        pid = int((settings.state_dir / "lock").read_text())
        os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError):
        return False
    return True
