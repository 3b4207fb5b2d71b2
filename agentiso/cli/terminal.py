"""The command line's end of `agentiso.supervisor.live`: output as it comes, input, a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import sys
import termios
import tty
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from actors.model.errors import SupervisorGone
from actors.model.settings import Settings
from actors.runtime import open_plain_nursery
from agentiso.cli.common import ending_signals
from agentiso.cli.output import write_all
from agentiso.client.dialling import connect
from agentiso.client.silence import watch
from agentiso.client.tools import ToolFailed
from agentiso.protocol.framed import Framed
from agentiso.protocol.greeting import Greeting
from guest.wire import FILE_STREAM, Data, Event, Message

READ_BYTES: Final = 32 * 1024
DEFAULT_SIZE: Final = (24, 80)

OnOutput = Callable[[int, bytes], Awaitable[None]]


@attrs.frozen
class Attached:
    """What became of it: a job, and how it ended, unless it goes on."""

    job_id: str
    end: dict[str, Any] | None
    interrupted: int | None = None
    """The signal that ended the waiting."""


async def attach(
    settings: Settings,
    config: Path | None,
    request: dict[str, Any],
    on_output: OnOutput,
    *,
    yield_s: float | None = None,
    stdin: bool = False,
) -> Attached:
    """Attach to a job, or start one, and give its output to ``on_output`` until it ends.

    Raises:
        ToolFailed: the supervisor's error.
        SupervisorGone: it ended before the job did, which goes on, or does not answer any more.

    """
    job_id, end, interrupted = "", None, None
    workspace, job = request.get("workspace"), request.get("job") or request.get("job_id") or "JOB"
    follow_on = f"`agentiso jobs {workspace}` lists its jobs, and `agentiso output -f {workspace} {job}` follows on."
    stream, _ = await connect(settings, Greeting("live"), config=config)
    async with stream, open_plain_nursery() as nursery:
        peer = Framed(stream)
        nursery.start_soon(watch, settings, "the job, if it was started, goes on", follow_on)

        async def interrupt(*, task_status: trio.TaskStatus[None]) -> None:
            nonlocal interrupted
            with trio.open_signal_receiver(*ending_signals()) as received:
                task_status.started()
                async for number in received:
                    interrupted = number
                    nursery.cancel_scope.cancel(reason="the user interrupted it")

        await nursery.start(interrupt)
        await _say(peer, Message(request))
        while (event := await peer.receive()) is not None:
            if isinstance(event, Data):
                await on_output(event.stream, event.payload)
            elif "job" in event.body:
                job_id = str(event.body["job"])
                if yield_s is not None:
                    nursery.cancel_scope.deadline = trio.current_time() + yield_s
                if stdin:
                    nursery.start_soon(_send_input, peer)
                if request.get("terminal"):
                    nursery.start_soon(_follow_size, peer)
            elif "end" in event.body:
                end = event.body
                break
            else:
                _raise(event.body)
        else:
            what = f"the job {job_id} goes on" if job_id else "whether the command was started is unknown"
            raise SupervisorGone(
                f"The supervisor ended; {what}.",
                remedy=f"{follow_on} Both start a supervisor.",
            )
        nursery.cancel_scope.cancel(reason="the job has ended")
    return Attached(job_id, end, interrupted)


def _raise(body: dict[str, Any]) -> None:
    error = body.get("error") or {}
    failed = ToolFailed(
        str(error.get("message", "The supervisor said something unknown.")), remedy=error.get("remedy", "")
    )
    failed.facts["code"] = error.get("code")
    raise failed


async def _say(peer: Framed, event: Event) -> None:
    """Send an event; that the supervisor is gone is told by what is received."""
    with contextlib.suppress(trio.BrokenResourceError):
        await peer.send(event)


async def _send_input(peer: Framed) -> None:
    while True:
        try:
            await trio.lowlevel.wait_readable(0)
        except PermissionError:
            # A regular file is always ready and cannot be waited for.
            await trio.lowlevel.checkpoint()
        data = os.read(0, READ_BYTES)
        await _say(peer, Data(0, FILE_STREAM, data))
        if not data:
            return


async def _follow_size(peer: Framed) -> None:
    with trio.open_signal_receiver(signal.SIGWINCH) as received:
        async for _ in received:
            rows, cols = terminal_size()
            await _say(peer, Message({"rows": rows, "cols": cols}))


def terminal_size() -> tuple[int, int]:
    """Return (rows, columns) of our terminal."""
    try:
        rows, cols, _, _ = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))
    except OSError:
        return DEFAULT_SIZE
    return (rows, cols) if rows and cols else DEFAULT_SIZE


@contextmanager
def raw_terminal() -> Iterator[None]:
    """Have every key go to the other side, Ctrl-C too, until the end of the block."""
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSAFLUSH, before)


async def write_through(stream: int, data: bytes) -> None:
    """Write output to our own stdout or stderr at once; a reader that has stalled does not hold up an interruption."""
    fd = (sys.stdout if stream == 1 else sys.stderr).fileno()
    await trio.to_thread.run_sync(write_all, fd, data, abandon_on_cancel=True)
