"""The lines of a client on a stream, each a message; what the SDK would drop without a word is answered here.

The SDK takes no notice of a line that it cannot read, so that the client would wait for ever.  A request among these
gets an error, under its id as far as that can be known; the connection goes on.  A line's length is bounded: of one
that is longer only the two ends are kept, where a request's id is.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import mcp_types as types
import trio

from actors.model.text import plain
from guest.untrusted import parse

log = logging.getLogger("agentiso.mcp")
MAX_LINE_BYTES: Final = 16 * 1024 * 1024
EDGE_BYTES: Final = 1024
"""Kept of each end of a line that is too long."""
RECEIVE_BYTES: Final = 65536
# Only the outermost object's first or last member is recognised: within it, anything may be called "id".
_ID: Final = re.compile(
    r'\A\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"id"\s*:\s*(\d{1,18}|"[^"\\]{1,200}")\s*,'
    r'|,\s*"id"\s*:\s*(\d{1,18}|"[^"\\]{1,200}")\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*\Z'
)
TOO_LONG: Final = (
    f"A message may have {MAX_LINE_BYTES // 2**20} MiB. Send less at once: file_write takes pieces of a file that a "
    "command puts together, and file_upload copies files of any size."
)
SURROGATE: Final = "The message has a lone surrogate (such as \\ud800), which is no character. Send text as UTF-8."
NO_MESSAGE: Final = "The line is not a message of JSON-RPC 2.0. Send one message a line."


class Lines:
    """A socket's bytes as lines of text; ``said`` was read of it already, ``answer`` sends the client a line."""

    def __init__(self, stream: trio.abc.ReceiveStream, said: bytes, answer: Callable[[str], Awaitable[None]]) -> None:
        self._stream = stream
        self._said = said
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[str]:
        line = _Line()
        while data := self._said or await self._stream.receive_some(RECEIVE_BYTES):
            self._said = b""
            first, *more = data.split(b"\n")
            line.add(first)
            for part in more:
                if await self._is_message(line):
                    yield line.text
                line = _Line()
                line.add(part)

    async def _is_message(self, line: _Line) -> bool:
        """Tell whether the SDK can read a line; a request that it cannot read is answered."""
        if line.too_long:
            await self._refuse(types.INVALID_REQUEST, TOO_LONG, _id_of(line.text))
            return False
        if not line.text.strip():
            return False
        try:
            types.jsonrpc_message_adapter.validate_json(line.text, by_name=False)
        except ValueError:
            await self._refuse(*_fault(line.text))
            return False
        return True

    async def _refuse(self, code: int, message: str, request_id: int | str | None) -> None:
        log.warning("a client's message (id %r) was not taken: %s", request_id, message)
        body = {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}}
        await self._answer(json.dumps(body) + "\n")


class _Line:
    """What came of a line so far."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self.too_long = False

    def add(self, part: bytes | bytearray) -> None:
        self._kept += part
        self.too_long = self.too_long or len(self._kept) > MAX_LINE_BYTES
        if self.too_long:
            del self._kept[EDGE_BYTES:-EDGE_BYTES]

    @property
    def text(self) -> str:
        return self._kept.decode(errors="replace")


def _fault(line: str) -> tuple[int, str, int | str | None]:
    """Return the code and the message that answer a line which is no message, and the id it is about."""
    try:
        body = parse(line)
        what = NO_MESSAGE if plain(body) == body else SURROGATE
    except ValueError:
        return types.PARSE_ERROR, NO_MESSAGE, None
    return types.INVALID_REQUEST, what, _request_id(body)


def _request_id(body: Any) -> int | str | None:
    """Return a request's id; an answer's is none of ours, and one that cannot be repeated is of no use."""
    found = body.get("id") if isinstance(body, dict) and "method" in body else None
    return found if isinstance(found, int | str) and not isinstance(found, bool) and plain(found) == found else None


def _id_of(edges: str) -> int | str | None:
    """Return the id of a request of which only the two ends are known."""
    found = _ID.search(edges)
    known: int | str | None = json.loads(found.group(1) or found.group(2)) if found else None
    return known
