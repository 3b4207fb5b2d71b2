"""The host's end of a guest agent's channel: many requests at once over one stream.

What is asked of files and of commands is in `guest_files` and `guest_jobs`.

The guest is hostile: whatever it sends is bounded, and a broken rule ends this client alone.  Its reader runs in the
nursery given to `GuestClient.open` and never fails it: it marks the client broken, and every pending request fails
saying that its outcome is unknown.
"""

from __future__ import annotations

import math
import platform
import secrets
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, Final

import attrs
import trio
from trio_util import move_on_when

from actors.machine.guest.calls import REPLY_LIMIT_S
from actors.machine.guest.files import GuestFiles
from actors.machine.guest.identity import Identity, IdentityReply
from actors.machine.guest.jobs import GuestJobs
from actors.machine.guest.pulse import Patience, Pulse
from actors.machine.guest.refusals import refusal, spoken
from actors.machine.guest.sender import FrameSender
from actors.model.errors import ConsumerFailed, GuestBroken, InvalidArgument, LocalProtocolError, RemoteProtocolError
from actors.model.info import Hindrance
from guest.errors import only_error
from guest.handshake import MAX_SKIPPED_BYTES, NONCE_BYTES, EchoScanner, proof, proves, token
from guest.untrusted import MALFORMED, whole
from guest.wire import (
    PROTOCOL_VERSION,
    Codec,
    Data,
    Message,
    encode,
)

RECEIVE_BYTES: Final = 256 * 1024
FREEZE_LIMIT_S: Final = 10.0
"""For what a guest does at once, or within this."""
SYNC_LIMIT_S: Final = 60.0
"""A guest that answers may have gigabytes to write to a slow disk; a mute one is found out by a ping before."""
CLOCK_ERROR_S: Final = 0.02
CLOCK_PROMISE_S: Final = 0.05
CLOCK_TRIES: Final = 3
CLOCK_MAX_TRIES: Final = 20


@attrs.frozen
class Hello:
    """What the agent says of itself."""

    agent_version: str
    arch: str
    kernel: str


class _Request:
    def __init__(self, on_data: Callable[[int, bytes], None] | None) -> None:
        self.on_data = on_data
        self.done = trio.Event()
        self.reply: dict[str, Any] | None = None
        self.failure: Exception | None = None
        """Of what takes its data."""
        self.mute_s = 0.0
        """For how long the guest had given no sign of life when it was given up."""


class GuestClient:
    """A connection to a guest agent that has proven its key, and to which we have proven ours."""

    def __init__(self, stream: trio.abc.Stream, nursery: trio.Nursery) -> None:
        self._stream = stream
        self._nursery = nursery
        self._codec = Codec()
        self._ids = count(1)
        self._requests: dict[int, _Request] = {}
        self.pulse = Pulse()
        self._sender = FrameSender(stream, self.pulse.took)
        self._scope = trio.CancelScope()
        self._reason: str | None = None
        self._broken_at = 0.0
        self.hindrance: Callable[[], Hindrance | None] = lambda: None
        """Tells what the host knows to keep the guest from answering."""
        self.hello: Hello
        self.files = GuestFiles(self)
        self.jobs = GuestJobs(self)

    @classmethod
    async def open(cls, nursery: trio.Nursery, stream: trio.abc.Stream, key: bytes) -> GuestClient:
        """Resynchronise the stream and exchange proofs; the caller bounds the wait.

        Raises:
            GuestBroken: the guest is not the one that holds the key, speaks another version, or speaks nonsense.

        """
        client = cls(stream, nursery)
        host_nonce = secrets.token_bytes(NONCE_BYTES)
        try:
            guest_nonce, first = await client._resynchronise(key, host_nonce)
            client._codec.receive_data(first)
            nursery.start_soon(client._read)
            await client._greet(key, host_nonce, guest_nonce)
        except BaseException:
            client._scope.cancel(reason="the channel did not open")
            await trio.aclose_forcefully(stream)
            raise
        return client

    async def _resynchronise(self, key: bytes, host_nonce: bytes) -> tuple[bytes, bytes]:
        scanner = EchoScanner(host_nonce)
        try:
            await self._stream.send_all(token(key) + host_nonce)
            while data := await self._stream.receive_some(RECEIVE_BYTES):
                if (found := scanner.feed(bytes(data))) is not None:
                    return found
                if scanner.skipped_bytes > MAX_SKIPPED_BYTES:
                    raise GuestBroken(f"The guest sent {MAX_SKIPPED_BYTES} bytes without answering its host.")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise GuestBroken("The guest's channel broke before it answered.") from error
        raise GuestBroken("The guest's channel ended before it answered.")

    async def _greet(self, key: bytes, host_nonce: bytes, guest_nonce: bytes) -> None:
        hello = await self.call(
            {
                "op": "hello",
                "version": PROTOCOL_VERSION,
                "proof": proof(key, b"host", host_nonce, guest_nonce),
            }
        )
        if not proves(key, b"guest", host_nonce, guest_nonce, hello.get("proof")):
            raise GuestBroken("The guest does not hold the channel's key.")
        if hello.get("version") != PROTOCOL_VERSION:
            raise GuestBroken(
                f"The guest agent speaks protocol version {hello.get('version')!r:.20}, this host {PROTOCOL_VERSION}.",
                remedy="Build the image again: agentiso image build",
            )
        self.hello = Hello(*(str(hello.get(field))[:200] for field in ("agent_version", "arch", "kernel")))
        if self.hello.arch != platform.machine():
            raise GuestBroken(f"The guest is {self.hello.arch}, this host {platform.machine()}.")

    # -- requests

    async def identify(self, identity: Identity) -> IdentityReply:
        """Give the guest an identity; what it answers is checked by the caller."""
        body = attrs.asdict(identity)
        reply = await self.call(
            {"op": "identify", **body, **{name: body[name].hex() for name in ("entropy", "nonce", "key")}}
        )
        try:
            return IdentityReply.of(reply)
        except MALFORMED as error:
            raise self.broke(f"its identity reply is malformed: {error!r}") from error

    async def ping(self, limit_s: float = FREEZE_LIMIT_S) -> None:
        """Have the guest answer."""
        await self.call({"op": "ping"}, limit_s=limit_s)

    async def freeze(self, *, write: bool = False, quiesce: bool = False) -> bool:
        """Have all commands of the guest stand still; tell whether they do.

        Then, with ``write``, the root file system is written out; with ``quiesce`` it also takes no writes until
        `release`.
        """
        body = {"op": "freeze", "write": write, "quiesce": quiesce}
        return (await self.call(body, limit_s=FREEZE_LIMIT_S)).get("frozen") is True

    async def let_run(self) -> None:
        """Let the guest's commands run on, its clock as it is."""
        await self.call({"op": "release", "time_ns": None}, limit_s=FREEZE_LIMIT_S)

    async def release(self) -> float:
        """Set the clock like `set_clock`, and let the guest's commands run on from the first time on."""
        return await self._tell_time("release")

    async def set_clock(self) -> float:
        """Set the guest's clock to this host's; return a bound on its error, in s.

        A guest that was late is told the time again, since the way there is part of the error: a few times for a small
        error, on an overloaded host many times for one within the promise.
        """
        return await self._tell_time("set_clock")

    async def _tell_time(self, op: str) -> float:
        for number in range(CLOCK_MAX_TRIES):
            began = time.perf_counter()
            await self.call({"op": op, "time_ns": time.time_ns()}, limit_s=FREEZE_LIMIT_S)
            error_s = time.perf_counter() - began
            if error_s < (CLOCK_ERROR_S if number + 1 < CLOCK_TRIES else CLOCK_PROMISE_S):
                break
        return error_s

    async def grow_root(self, disk_bytes: int) -> int:
        """Grow the root file system to its disk, of so many bytes, and return the file system's size in bytes."""
        reply = await self.call({"op": "grow_root", "disk_bytes": disk_bytes})
        try:
            return whole(reply["file_system_bytes"])
        except MALFORMED as error:
            raise self.broke(f"its answer to grow_root is malformed: {error!r}") from error

    async def sync_disks(self, limit_s: float = SYNC_LIMIT_S) -> None:
        """Have the guest write all dirty data to its disks, during which it does nothing else.

        Raises:
            GuestRefused: its root disk does not take it.

        """
        await self.call({"op": "sync"}, limit_s=limit_s, patience=Patience(math.inf))

    async def shutdown(self) -> None:
        """Have the guest write its disks and end its machine."""
        await self.call({"op": "shutdown"})

    # -- the wire

    async def call(
        self,
        body: dict[str, Any],
        on_data: Callable[[int, bytes], None] | None = None,
        *,
        request_id: int | None = None,
        limit_s: float = REPLY_LIMIT_S,
        patience: Patience | None = None,
        and_then: Callable[[], Awaitable[None]] | None = None,
    ) -> dict[str, Any]:
        """Make a request and return what the guest answers; ``on_data`` gets (stream, bytes) as they come.

        One that has no ``patience`` is answered at once by every guest that is alive.

        Raises:
            InvalidArgument: the request is too large for the channel; nothing was asked.
            GuestRefused: the guest says that it cannot be done.
            GuestBroken: the channel broke, no answer came within ``limit_s``, or the guest went mute and ``patience``
                is at its end; the outcome is unknown.
            ConsumerFailed: ``on_data`` raised something; the guest goes on with what was asked.

        """
        request_id = request_id or self.new_request_id()
        frame = _frame({**body, "id": request_id})
        request = self._requests[request_id] = _Request(on_data)
        if self._reason is not None:
            # Nobody is there to mark it as done.
            request.done.set()
        elif patience is None:
            self.pulse.asked()
        elif patience.mute_s < math.inf:
            self._nursery.start_soon(self._watch, request, patience)
        try:
            with trio.move_on_after(limit_s):
                await self._send(frame)
                if and_then is not None:
                    await _unless(request.done, and_then)
                await request.done.wait()
        finally:
            del self._requests[request_id]
            # Nobody has to watch it any more.
            request.done.set()
        if request.failure is not None:
            asked = spoken(body["op"])
            raise ConsumerFailed(f"What takes the answer to {asked!r} failed: {request.failure!r:.200}.") from (
                request.failure
            )
        if request.reply is None:
            raise self._unreached(spoken(body["op"]), request.mute_s, limit_s)
        if "error" in request.reply:
            raise refusal(body["op"], request.reply["error"])
        result = request.reply.get("ok")
        if not isinstance(result, dict):
            raise self.broke("a reply has neither result nor error")
        return result

    def new_request_id(self) -> int:
        """Return a number that no request has had yet."""
        return next(self._ids)

    def _unreached(self, asked: str, mute_s: float, limit_s: float) -> GuestBroken:
        """Return what is to be said of an answer that did not come."""
        hindrance = self.hindrance()
        mute = f"it did not answer {asked!r} within {limit_s:.0f} s"
        if mute_s:
            mute = f"it has given no sign of life for {mute_s:.0f} s"
        reason = hindrance.why if hindrance else self._reason or mute
        return GuestBroken(
            f"The guest cannot be reached: {reason}. The outcome of {asked!r} is unknown.",
            remedy=hindrance.remedy if hindrance else "",
        )

    async def send(self, event: Message | Data) -> None:
        """Send one event; a broken channel is learned of by who waits for an answer."""
        await self._send(encode(event))

    async def _send(self, frame: bytes) -> None:
        if self._reason is not None:
            # Whoever sends one after the other is to learn of it.
            await trio.lowlevel.checkpoint()
            return
        try:
            await self._sender.send(self._nursery, frame)
        except trio.BrokenResourceError:
            self.broke("the channel broke")

    async def _watch(self, request: _Request, patience: Patience) -> None:
        """Give a request up whose guest goes mute."""
        mute_s = await self.pulse.wait_mute(patience, request.done, self.ping)
        if not request.done.is_set():
            request.mute_s = mute_s
            request.done.set()

    async def _read(self) -> None:
        reason = "the channel was given up"
        try:
            with self._scope:
                reason = await self._read_to_end()
        finally:
            # Also when it is cancelled: nobody shall wait for what nobody reads.
            self.broke(reason)

    async def _read_to_end(self) -> str:
        try:
            self._dispatch()
            while data := await self._stream.receive_some(RECEIVE_BYTES):
                self.pulse.heard()
                self._codec.receive_data(bytes(data))
                self._dispatch()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except RemoteProtocolError as error:
            return f"it broke the protocol: {error.message}"
        return "the channel ended"

    def _dispatch(self) -> None:
        while (event := self._codec.next_event()) is not None:
            request_id = event.request_id if isinstance(event, Data) else event.body.get("id")
            request = self._requests.get(request_id) if isinstance(request_id, int) else None
            # A request that was given up may still be answered: that answer belongs to nobody.
            if request is None or request.reply is not None:
                continue
            if isinstance(event, Message):
                request.reply = event.body
                request.done.set()
            elif request.on_data is not None and request.failure is None:
                _give(request, event)

    def give_up(self, reason: str) -> None:
        """Fail what is under way, and all that is asked from now on, for a reason learned elsewhere."""
        self.broke(reason)

    def broke(self, reason: str) -> GuestBroken:
        """Mark the channel as of no further use, which fails all that is under way; return the error to raise."""
        if self._reason is None:
            self._reason, self._broken_at = reason, time.time()
        self._sender.give_up()
        for request in self._requests.values():
            request.done.set()
        return GuestBroken(f"The guest cannot be reached: {self._reason}.")

    @property
    def broken(self) -> bool:
        """Whether the channel is of no further use."""
        return self._reason is not None

    @property
    def mute_since(self) -> float | None:
        """Wall-clock time, in s, since when the guest does not answer, as far as anybody asked; or ``None``."""
        return self.pulse.mute_since if self._reason is None else self._broken_at

    async def aclose(self) -> None:
        """Close the channel; pending requests fail."""
        self._scope.cancel(reason="the channel is closed")
        self.broke("the channel was closed")
        await trio.aclose_forcefully(self._stream)


def _give(request: _Request, data: Data) -> None:
    """Give data to who asked for it; what goes wrong there is that request's failure, and no other's."""
    assert request.on_data is not None
    try:
        request.on_data(data.stream, data.payload)
    except RemoteProtocolError:
        raise
    except Exception as error:  # noqa: BLE001 - whoever asked raises it
        request.failure = error
        request.done.set()


def _frame(body: dict[str, Any]) -> bytes:
    try:
        return encode(Message(body))
    except LocalProtocolError as error:
        raise InvalidArgument(
            f"{body['op']!r} does not fit into one request to the guest: {error.message}",
            remedy="Write what is long to a file of the guest (file_write), and have it read, or run, from there.",
        ) from error


async def _unless(done: trio.Event, work: Callable[[], Awaitable[None]]) -> None:
    """Do something, unless it is of no use any more."""
    try:
        async with move_on_when(done.wait):
            await work()
    except BaseExceptionGroup as group:
        raise only_error(group) from None
