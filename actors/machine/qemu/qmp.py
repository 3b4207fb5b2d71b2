"""QMP, QEMU's control protocol: a codec without I/O and a Trio client over it.

Messages are lines of JSON (QEMU: docs/interop/qmp-spec).  Replies are matched by id, so one that comes after its
command was given up can never answer another.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import count
from typing import Any, Final

import trio
from trio_util import AsyncBool

from actors.model.errors import MachineFailed, QmpError, RemoteProtocolError
from guest.untrusted import parse

LONG_S: Final = 10.0
"""How long a command may take that may have to wait for QEMU's disk."""
MUTE_LOOK_S: Final = 1.0
"""How long one may take while an earlier one has waited that long in vain."""
MAX_LINE_BYTES: Final = 8 * 1024 * 1024
"""More than any reply to the commands in use."""
RECEIVE_BYTES: Final = 64 * 1024


OnEvent = Callable[[str, dict[str, Any]], None]


class QmpCodec:
    """Bytes in, JSON objects out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> list[dict[str, Any]]:
        """Take in bytes and return the messages they complete.

        Raises:
            RemoteProtocolError: a line is too long or not a JSON object.

        """
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        if len(rest) > MAX_LINE_BYTES:
            raise RemoteProtocolError(f"QEMU sent a line of more than {MAX_LINE_BYTES} bytes.")
        return [self._parse(bytes(line)) for line in lines if line.strip()]

    @staticmethod
    def _parse(line: bytes) -> dict[str, Any]:
        try:
            message = parse(line)
        except ValueError as error:
            raise RemoteProtocolError(f"QEMU sent a line that is not JSON: {error}.") from None
        if not isinstance(message, dict):
            raise RemoteProtocolError("QEMU sent a line that is not a JSON object.")
        parts = (message.get("error", {}), message.get("data", {}))
        if not isinstance(message.get("id", 0), int) or not all(isinstance(part, dict) for part in parts):
            raise RemoteProtocolError("QEMU sent a message of the wrong form.")
        return message


class Pending:
    """A command under way."""

    def __init__(self, request_id: int, command: str) -> None:
        self.id = request_id
        self.command = command
        self.done = trio.Event()
        self.reply: dict[str, Any] | None = None


class QmpClient:
    """A QMP connection.  Its reader runs in the nursery given to `open` and never fails it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._codec = QmpCodec()
        self._ids = count(1)
        self._pending: dict[int, Pending] = {}
        self._greeted = trio.Event()
        self._sending = trio.Lock()
        self._closed: str | None = None
        self._mute = False
        """Whether a command was waited for in vain, for long, and nothing has been answered since."""
        self._scope = trio.CancelScope()
        self._on_event: OnEvent | None = None
        self._stalled = AsyncBool()
        self._ended = trio.Event()
        self.shutdown: dict[str, Any] | None = None
        """The data of the SHUTDOWN event, once QEMU has sent one (QEMU: qapi/run-state.json)."""

    @classmethod
    async def open(cls, nursery: trio.Nursery, stream: trio.abc.Stream, on_event: OnEvent | None = None) -> QmpClient:
        """Wait for QEMU's greeting and leave its negotiation mode; the caller bounds the wait.

        ``on_event`` is called with the name and the data of each event.

        Raises:
            MachineFailed: QEMU closed the connection.

        """
        client = cls(stream)
        client._on_event = on_event
        nursery.start_soon(client._read)
        try:
            await client._greeted.wait()
            await client.execute("qmp_capabilities")
        except BaseException:
            client._scope.cancel(reason="QMP did not open")
            await trio.aclose_forcefully(stream)
            raise
        return client

    async def execute(
        self, command: str, arguments: dict[str, Any] | None = None, *, limit_s: float = LONG_S
    ) -> dict[str, Any]:
        """Run one command and return what it returns.

        Raises:
            QmpError: QEMU refused it.
            MachineFailed: QEMU is gone, or did not answer within ``limit_s``.

        """
        return await self.finish(await self.begin(command, arguments), limit_s=limit_s)

    async def begin(self, command: str, arguments: dict[str, Any] | None = None) -> Pending:
        """Send one command without waiting for its end; `finish` has to follow."""
        pending = Pending(next(self._ids), command)
        message: dict[str, Any] = {"execute": command, "id": pending.id}
        if arguments:
            message["arguments"] = arguments
        self._pending[pending.id] = pending
        try:
            await self._send(message)
        except BaseException:
            del self._pending[pending.id]
            raise
        return pending

    async def finish(self, pending: Pending, *, limit_s: float = LONG_S) -> dict[str, Any]:
        """Wait for a command's end and return what it returns; errors as of `execute`.

        What has let one command wait in vain for long is given a moment for the next one, so that who needs several
        does not wait for each.
        """
        if self._mute and limit_s < math.inf:
            limit_s = min(limit_s, MUTE_LOOK_S)
        try:
            with trio.move_on_after(limit_s):
                await pending.done.wait()
            if not pending.done.is_set():
                self._mute |= limit_s >= LONG_S
        finally:
            del self._pending[pending.id]
        return self._result(pending, limit_s)

    def _result(self, pending: Pending, limit_s: float) -> dict[str, Any]:
        command = pending.command
        if pending.reply is None:
            if self._closed:
                raise MachineFailed(f"{self._closed}.")
            raise MachineFailed(
                f"QEMU did not answer {command!r} within {limit_s:.0f} s.",
                remedy="workspace_logs has what it wrote last; a stop, an undo or a restore needs no answer of it.",
            )
        if "error" in pending.reply:
            error = pending.reply["error"]
            raise QmpError(
                f"QEMU refused {command!r}: {error.get('desc')}.",
                qmp_class=error.get("class"),
                command=command,
            )
        result = pending.reply.get("return")
        return result if isinstance(result, dict) else {"return": result}

    async def _send(self, message: dict[str, Any]) -> None:
        async with self._sending:
            if self._closed is None:
                try:
                    await self._stream.send_all(json.dumps(message).encode() + b"\n")
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self._close("QEMU closed its QMP connection")

    async def _read(self) -> None:
        reason = "The QMP connection was given up"
        try:
            with self._scope:
                reason = await self._read_to_end()
        finally:
            # Also when it is cancelled: nobody shall wait for what nobody reads.
            self._close(reason)

    async def _read_to_end(self) -> str:
        try:
            while data := await self._stream.receive_some(RECEIVE_BYTES):
                for message in self._codec.receive_data(bytes(data)):
                    self._take(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except RemoteProtocolError as error:
            return str(error)
        return "QEMU closed its QMP connection"

    async def wait_stalled(self) -> bool:
        """Wait until QEMU stops the machine since its disk cannot be written; false when the connection ends."""
        await self._stalled.wait_value(True)
        self._stalled.value = self._closed is not None
        return self._closed is None

    async def wait_ended(self) -> None:
        """Wait until nothing more will be read, neither events nor answers."""
        await self._ended.wait()

    def _take(self, message: dict[str, Any]) -> None:
        if "QMP" in message:
            self._greeted.set()
        elif "event" in message:
            if message["event"] == "BLOCK_IO_ERROR":
                # Unless its action was "stop", the guest was told and runs on: then resuming it does no harm.
                self._stalled.value = True
            elif message["event"] == "SHUTDOWN":
                self.shutdown = message.get("data", {})
            if self._on_event is not None:
                self._on_event(str(message["event"]), message.get("data", {}))
        else:
            self._mute = False
            if (pending := self._pending.get(message.get("id", 0))) is not None:
                pending.reply = message
                pending.done.set()

    def _close(self, reason: str) -> None:
        self._closed = self._closed or reason
        self._greeted.set()
        self._stalled.value = True
        self._ended.set()
        for pending in self._pending.values():
            pending.done.set()

    async def aclose(self) -> None:
        """Close the connection; commands under way fail."""
        self._scope.cancel(reason="QMP is closed")
        self._close("The QMP connection was closed")
        await trio.aclose_forcefully(self._stream)
