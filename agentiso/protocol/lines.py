"""Lines of JSON-RPC from a client: bounded; of one that is too long the id is kept, under which it is answered."""

from __future__ import annotations

import json
import re
from typing import Final

MAX_LINE_BYTES: Final = 16 * 1024 * 1024
EDGE_BYTES: Final = 1024
"""Kept of each end of a line that is too long."""
# Only the outermost object's first or last member is recognised: within it, anything may be called "id".
_ID: Final = re.compile(
    r'\A\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"id"\s*:\s*(\d{1,18}|"[^"\\]{1,200}")\s*,'
    r'|,\s*"id"\s*:\s*(\d{1,18}|"[^"\\]{1,200}")\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*\Z'
)
TOO_LONG: Final = (
    f"A message may have {MAX_LINE_BYTES // 2**20} MiB. Send less at once: file_write takes pieces of a file that a "
    "command puts together, and file_upload copies files of any size."
)
INVALID_REQUEST: Final = -32600
"""JSON-RPC 2.0, section 5.1."""
INTERNAL_ERROR: Final = -32603


class Line:
    """What came of a line so far."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self.too_long = False

    def add(self, part: bytes | bytearray) -> None:
        """Take in more of it."""
        self._kept += part
        self.too_long = self.too_long or len(self._kept) > MAX_LINE_BYTES
        if self.too_long:
            del self._kept[EDGE_BYTES:-EDGE_BYTES]

    @property
    def content(self) -> bytes:
        """All of it, or its two ends."""
        return bytes(self._kept)

    @property
    def text(self) -> str:
        """The same as text."""
        return self._kept.decode(errors="replace")


def id_of(edges: str) -> int | str | None:
    """Return the id of a request of which only the two ends are known."""
    found = _ID.search(edges)
    known: int | str | None = json.loads(found.group(1) or found.group(2)) if found else None
    return known


def error_line(request_id: int | str | None, code: int, message: str) -> bytes:
    """Return the answer to a request that failed as such."""
    body = {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}}
    return json.dumps(body).encode() + b"\n"
