"""The wire protocol between host and guest agent, without any I/O.

A frame is a 4-byte big-endian length and a payload.  A payload that begins with ``{`` is a JSON control message; one
that begins with a zero byte is a data frame: the request it belongs to, a stream number, and raw bytes, of which
none means the end of that stream.  The codec says whose fault an error is: `LocalProtocolError` is a bug here,
`RemoteProtocolError` the peer's.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any, Final, Union

from guest.errors import LocalProtocolError, RemoteProtocolError
from guest.untrusted import check_depth

PROTOCOL_VERSION: Final = 1
MAX_FRAME_BYTES: Final = 1024 * 1024
"""No peer can make the other buffer more than this."""
DATA_CHUNK_BYTES: Final = 64 * 1024
"""A pipe's capacity on Linux; larger chunks would only delay other requests."""

FILE_STREAM: Final = 0
STDOUT: Final = 1
STDERR: Final = 2

# Made once: the module's own functions look at their arguments, and for white space, each time.
_read_json = json.JSONDecoder().raw_decode
_write_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_LENGTH = struct.Struct(">I")
_DATA = struct.Struct(">BIB")


@dataclass(frozen=True)
class Message:
    """A control message: a JSON object."""

    body: dict[str, Any]


@dataclass(frozen=True)
class Data:
    """Raw bytes of one stream of one request."""

    request_id: int
    stream: int
    payload: bytes


Event = Union[Message, Data]  # noqa: UP007 - the guest's Python may be older than 3.10


class Codec:
    """Bytes in, events out, and the reverse."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._offset = 0

    def receive_data(self, data: bytes) -> None:
        """Take in bytes as they come, in pieces of any size."""
        if self._offset > DATA_CHUNK_BYTES:
            del self._buffer[: self._offset]
            self._offset = 0
        self._buffer += data

    def next_event(self) -> Event | None:
        """Return the next whole event, or ``None`` when more bytes are needed.

        Raises:
            RemoteProtocolError: the peer broke the protocol; nothing after this can be trusted.

        """
        available = len(self._buffer) - self._offset
        if available < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer, self._offset)
        if not 0 < length <= MAX_FRAME_BYTES:
            raise RemoteProtocolError(f"A frame of {length} bytes was announced; 1 to {MAX_FRAME_BYTES} are allowed.")
        if available < _LENGTH.size + length:
            return None
        start = self._offset + _LENGTH.size
        payload = bytes(self._buffer[start : start + length])
        self._offset = start + length
        if self._offset == len(self._buffer):
            self._buffer.clear()
            self._offset = 0
        return _decode(payload)


def _decode(payload: bytes) -> Event:
    if payload[0] == 0:
        if len(payload) < _DATA.size:
            raise RemoteProtocolError(f"A data frame of {len(payload)} bytes is shorter than its header.")
        _, request_id, stream = _DATA.unpack_from(payload)
        return Data(request_id, stream, payload[_DATA.size :])
    try:
        text = payload.decode()
        body, end = _read_json(text)
        check_depth(body, text)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"A control message is not valid JSON: {error}.") from None
    if end != len(text) or not isinstance(body, dict):
        raise RemoteProtocolError("A control message is not one JSON object.")
    return Message(body)


def encode(event: Event) -> bytes:
    """Return the frame of an event.

    Raises:
        LocalProtocolError: it is too large or cannot be written as JSON.

    """
    if isinstance(event, Data):
        payload = _DATA.pack(0, event.request_id, event.stream) + event.payload
    else:
        try:
            payload = _write_json(event.body).encode("ascii")
        except (TypeError, ValueError, RecursionError) as error:
            raise LocalProtocolError(f"A control message cannot be written as JSON: {error}.") from error
    if len(payload) > MAX_FRAME_BYTES:
        raise LocalProtocolError(f"A frame of {len(payload)} bytes exceeds {MAX_FRAME_BYTES}.")
    return _LENGTH.pack(len(payload)) + payload
