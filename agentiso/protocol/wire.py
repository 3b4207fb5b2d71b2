"""Bodies and the bytes within them, without any I/O.

A frame is two 4-byte big-endian lengths, a JSON object, and blobs: the object's byte strings, which stand in it as
``{"$bytes": [offset, length]}``.  A reference to an actor stands in it as ``{"$ref": key}``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any, Final

from actors.model.errors import LocalProtocolError, RemoteProtocolError
from guest.untrusted import parse

MAX_JSON_BYTES: Final = 64 * 1024 * 1024
MAX_BLOBS_BYTES: Final = 1024 * 1024 * 1024
"""More than any whole file or output that a guest client hands over."""
_LENGTHS = struct.Struct(">II")
_COMPACT_AT: Final = 256 * 1024

Body = dict[str, Any]


def encode(body: Body, export: Callable[[Any], int]) -> bytes:
    """Return the frame of a body; ``export`` gives the key of whatever is not data, or raises `TypeError`.

    Raises:
        LocalProtocolError: it is too large or cannot be written as JSON.

    """
    blobs: list[bytes] = []
    size = 0

    def spell(value: Any) -> dict[str, Any]:
        nonlocal size
        if not isinstance(value, bytes | bytearray | memoryview):
            return {"$ref": export(value)}
        blobs.append(bytes(value))
        size += len(blobs[-1])
        return {"$bytes": [size - len(blobs[-1]), len(blobs[-1])]}

    try:
        text = json.dumps(body, separators=(",", ":"), default=spell).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise LocalProtocolError(f"This cannot be carried: {error}.") from error
    if len(text) > MAX_JSON_BYTES or size > MAX_BLOBS_BYTES:
        raise LocalProtocolError(
            f"{len(text)} bytes of JSON and {size} bytes of data are more than one frame carries.",
            remedy="Stream large contents instead.",
        )
    return b"".join((_LENGTHS.pack(len(text), size), text, *blobs))


class Codec:
    """Bytes in, bodies out; ``resolve`` gives what a key stands for."""

    def __init__(self, resolve: Callable[[int], Any]) -> None:
        self._resolve = resolve
        self._buffer = bytearray()
        self._offset = 0

    def receive_data(self, data: bytes | bytearray) -> None:
        """Take in bytes as they come, in pieces of any size."""
        if self._offset > _COMPACT_AT:
            del self._buffer[: self._offset]
            self._offset = 0
        self._buffer += data

    def next_body(self) -> Body | None:
        """Return the next whole body, or ``None`` when more bytes are needed.

        Raises:
            RemoteProtocolError: the peer broke the protocol; nothing after this can be trusted.

        """
        available = len(self._buffer) - self._offset
        if available < _LENGTHS.size:
            return None
        text_bytes, blob_bytes = _LENGTHS.unpack_from(self._buffer, self._offset)
        if not 0 < text_bytes <= MAX_JSON_BYTES or blob_bytes > MAX_BLOBS_BYTES:
            raise RemoteProtocolError(f"A frame of {text_bytes} and {blob_bytes} bytes was announced.")
        if available < _LENGTHS.size + text_bytes + blob_bytes:
            return None
        start = self._offset + _LENGTHS.size
        middle, end = start + text_bytes, start + text_bytes + blob_bytes
        with memoryview(self._buffer) as view:
            text, blobs = bytes(view[start:middle]), bytes(view[middle:end])
        self._offset = end
        if end == len(self._buffer):
            self._buffer.clear()
            self._offset = 0
        return self._decode(text, blobs)

    def _decode(self, text: bytes, blobs: bytes) -> Body:
        def read(value: dict[str, Any]) -> Any:
            if len(value) != 1:
                return value
            match value:
                case {"$bytes": [int(offset), int(length)]}:
                    if not 0 <= offset <= offset + length <= len(blobs):
                        raise RemoteProtocolError(f"Bytes {offset} to {offset + length} of {len(blobs)} are not there.")
                    return blobs[offset : offset + length]
                case {"$ref": int(key)}:
                    return self._resolve(key)
            return value

        try:
            body = parse(text, object_hook=read)
        except ValueError as error:
            raise RemoteProtocolError(f"A frame is not valid JSON: {error}.") from None
        if not isinstance(body, dict):
            raise RemoteProtocolError(f"A frame is a {type(body).__name__}, not an object.")
        return body
