"""A person's live connection to a job: the service ``live`` of the supervisor's socket.

It speaks the frames of `guest.wire`.  A client that is welcome begins with a message that names the workspace and a
``job``, or the ``command`` to start as one, perhaps with a ``job_id``; the answer names the job.  Then data frames
carry its output (streams 1 and 2) one way and its input (stream 0, empty for its end) the other, messages with ``rows``
and ``cols`` resize its terminal, and the last message tells its ``end``.  A client that goes away leaves its job
running, but hangs up a terminal; a command that has not started by then is taken back.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence
from typing import Any, Final

import attrs
import trio

from actors.machine.guest.jobs import new_job_id
from actors.model.errors import AgentisoError, GuestBroken, GuestRefused, InvalidArgument, RemoteProtocolError
from actors.model.info import USER
from actors.runtime import open_plain_nursery
from agentiso.access.audit import AuditLog, Entry
from agentiso.library.jobs import READ_BYTES
from agentiso.library.system import System
from agentiso.library.workspace import Workspace
from agentiso.protocol.framed import RECEIVE_BYTES, Framed
from agentiso.protocol.sessions import Client
from guest.wire import FILE_STREAM, STDERR, STDOUT, Data, Event, Message

HANG_UP_S: Final = 10.0
MAX_EARLY: Final = 64
"""Of what a client says before its command has started; more is not looked at until then."""
PERSON: Final = Client(USER, "attach")


async def serve_live(system: System, stream: trio.abc.Stream, audit: AuditLog) -> None:
    """Serve one client until its job has ended or it goes away; the audit log tells of it."""
    async with stream:
        peer = Framed(stream)
        with contextlib.suppress(trio.BrokenResourceError, RemoteProtocolError):
            asked = await peer.receive()
            if not isinstance(asked, Message):
                return
            try:
                with audit.call(PERSON, _what(asked.body), asked.body) as entry:
                    await _serve(system, peer, asked.body, entry)
            except AgentisoError as error:
                said = {"code": error.code, "message": error.message, "remedy": error.remedy}
                await peer.send(Message({"error": said}))


def _what(body: dict[str, Any]) -> str:
    """Return the command of `agentiso` that asks for this."""
    return "output" if body.get("job") is not None else "shell" if body.get("terminal") else "exec"


async def _serve(system: System, peer: Framed, body: dict[str, Any], entry: Entry) -> None:
    # Unless it is told of its end, the client has gone before.
    entry.outcome = "cancelled"
    if body.get("job") is not None:
        show = _follow if body.get("follow") else _read
        if await show(await _find(system, body, entry), peer, str(body["job"])):
            entry.outcome = "ok"
        return
    early: list[Event] = []
    job_id = str(body.get("job_id") or new_job_id())
    if (ws := await _start(system, peer, body, entry, job_id, early)) is None:
        return
    ended = False
    try:
        if ended := await _follow(ws, peer, job_id, early):
            entry.outcome = "ok"
    finally:
        if not ended and body.get("terminal"):
            await _hang_up(ws, job_id)


async def _find(system: System, body: dict[str, Any], entry: Entry) -> Workspace:
    ws = await system.get(str(body.get("workspace")))
    entry.about(ws.id, ws.name)
    return ws


async def _start(
    system: System, peer: Framed, body: dict[str, Any], entry: Entry, job_id: str, early: list[Event]
) -> Workspace | None:
    """Start a command, or return ``None`` if its client goes first; what that says meanwhile is put into ``early``."""
    ws, started = None, False
    async with open_plain_nursery() as nursery:

        async def watch() -> None:
            while len(early) < MAX_EARLY:
                if (event := await peer.receive()) is None:
                    nursery.cancel_scope.cancel(reason="the client has gone")
                    return
                early.append(event)

        nursery.start_soon(watch)
        ws = await _find(system, body, entry)
        await _begin(ws, body, job_id)
        started = True
        nursery.cancel_scope.cancel(reason="it has started")
    if ws is not None and not started:
        await _hang_up(ws, job_id)
    return ws if started else None


async def _begin(ws: Workspace, body: dict[str, Any], job_id: str) -> None:
    size = body.get("terminal")
    try:
        terminal = None if size is None else (int(size[0]), int(size[1]))
        await ws.jobs.start(
            body["command"],
            workdir=body.get("workdir"),
            env=body.get("env"),
            timeout_s=body.get("timeout_s"),
            stdin=bool(body.get("stdin")),
            terminal=terminal,
            job_id=job_id,
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InvalidArgument(
            f"What was asked for is malformed: {error!r}.", remedy="Use the same agentiso on both ends."
        ) from error


async def _follow(ws: Workspace, peer: Framed, job_id: str, early: Sequence[Event] = ()) -> bool:
    """Send a job's output as it comes, until its end, or until the client goes: then return ``False``."""
    await peer.send(Message({"job": job_id}))
    ended = False
    async with open_plain_nursery() as nursery:

        async def inward() -> None:
            for said in early:
                await _pass_on(ws, job_id, said)
            while (event := await peer.receive()) is not None:
                await _pass_on(ws, job_id, event)
            nursery.cancel_scope.cancel(reason="the client has gone")

        nursery.start_soon(inward)
        async with ws.jobs.follow(job_id) as output:
            async for event in output:
                await peer.send(Data(0, event.stream, event.data))
            assert output.job is not None
            ended = True
            await peer.send(Message({"end": attrs.asdict(output.job), "lost": sum(output.lost)}))
        nursery.cancel_scope.cancel(reason="the job has ended")
    return ended


async def _pass_on(ws: Workspace, job_id: str, event: Event) -> None:
    """Pass on what the client says to its job."""
    # One that has just ended refuses both; its end is on its way to the client.
    with contextlib.suppress(GuestRefused):
        if isinstance(event, Data) and event.stream == FILE_STREAM:
            await _feed(ws, job_id, event.payload)
        elif isinstance(event, Message) and "rows" in event.body:
            await ws.jobs.resize(job_id, int(event.body["rows"]), int(event.body["cols"]))


async def _feed(ws: Workspace, job_id: str, data: bytes) -> None:
    """Have a job take all of its input, however long that takes."""
    if not data:
        await ws.jobs.input(job_id, end=True)
    while data:
        taken = await ws.jobs.input(job_id, data)
        if taken.closed:
            return
        data = data[taken.taken_bytes :]


async def _read(ws: Workspace, peer: Framed, job_id: str) -> bool:
    """Send what a job has written so far, and return ``True``."""
    await peer.send(Message({"job": job_id}))
    cursors, lost, sent, found = (0, 0), 0, 0, None
    # A job that writes faster than it is read would never be at its end.
    while found is None or ((found.stdout or found.stderr) and sent < 4 * READ_BYTES):
        found = await ws.jobs.poll(job_id, cursors=cursors, max_bytes=READ_BYTES)
        cursors, lost, sent = found.cursors, lost + sum(found.lost), sent + len(found.stdout + found.stderr)
        for stream, data in ((STDOUT, found.stdout), (STDERR, found.stderr)):
            for start in range(0, len(data), RECEIVE_BYTES):
                await peer.send(Data(0, stream, data[start : start + RECEIVE_BYTES]))
    await peer.send(Message({"end": attrs.asdict(found.job), "lost": lost}))
    return True


async def _hang_up(ws: Workspace, job_id: str) -> None:
    """Tell the processes of a terminal that its person has gone, as a modem line did; then end those that stay."""
    with (
        trio.CancelScope(shield=True, deadline=trio.current_time() + HANG_UP_S),
        contextlib.suppress(GuestRefused, GuestBroken),
    ):
        end = await ws.jobs.kill(job_id, signal.SIGHUP, wait_s=1.0)
        if end.job.running:
            await ws.jobs.kill(job_id)
