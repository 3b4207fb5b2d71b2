"""The lines of a client on a stream, each a message; what the SDK would drop without a word is answered here.

The SDK takes no notice of a line that it cannot read, so that the client would wait for ever.  A request among these
gets an error, under its id as far as that can be known; the connection goes on.  A line's length is bounded: of one
that is longer only the two ends are kept, where a request's id is.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import mcp_types as types
import trio

from actors.model.text import plain
from agentiso.protocol.lines import TOO_LONG, Line, error_line, id_of
from guest.untrusted import parse

log = logging.getLogger("agentiso.mcp")
RECEIVE_BYTES: Final = 65536
SURROGATE: Final = "The message has a lone surrogate (such as \\ud800), which is no character. Send text as UTF-8."
NO_MESSAGE: Final = "The line is not a message of JSON-RPC 2.0. Send one message a line."


class Lines:
    """A socket's bytes as lines of text; ``said`` was read of it already, ``answer`` sends the client a line."""

    def __init__(self, stream: trio.abc.ReceiveStream, said: bytes, answer: Callable[[str], Awaitable[None]]) -> None:
        self._stream = stream
        self._said = said
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[str]:
        line = Line()
        while data := self._said or await self._stream.receive_some(RECEIVE_BYTES):
            self._said = b""
            first, *more = data.split(b"\n")
            line.add(first)
            for part in more:
                if await self._is_message(line):
                    yield line.text
                line = Line()
                line.add(part)

    async def _is_message(self, line: Line) -> bool:
        """Tell whether the SDK can read a line; a request that it cannot read is answered."""
        if line.too_long:
            await self._refuse(types.INVALID_REQUEST, TOO_LONG, id_of(line.text))
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
        await self._answer(error_line(request_id, code, message).decode())


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
