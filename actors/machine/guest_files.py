"""What is asked of a guest's files."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Any, Final

from actors.errors import GuestRefused
from actors.model import FileContent, FileEntry
from guest.wire import DATA_CHUNK_BYTES, FILE_STREAM, Data

if TYPE_CHECKING:
    from actors.machine.guest_client import GuestClient

MAX_FILE_BYTES: Final = 256 * 1024 * 1024
MAX_LISTING_BYTES: Final = 16 * 1024 * 1024


class GuestFiles:
    """``client.files``."""

    def __init__(self, client: GuestClient) -> None:
        self._client = client

    async def read(self, path: str, offset: int = 0, limit: int | None = None) -> FileContent:
        """Read a file, or a piece of it, of at most `MAX_FILE_BYTES`."""
        content = await self._collect(
            {"op": "file_read", "path": path, "offset": offset, "limit": limit}, MAX_FILE_BYTES
        )
        return FileContent(content[0], int(content[1].get("size", 0)), offset)

    async def list(self, path: str) -> tuple[FileEntry, ...]:
        """List a directory, sorted by name."""
        lines, _ = await self._collect({"op": "file_list", "path": path}, MAX_LISTING_BYTES)
        try:
            found = [json.loads(line) for line in lines.splitlines()]
            return tuple(
                FileEntry(str(e["name"]), str(e["kind"]), int(e["size"]), int(e["mode"]), float(e["mtime"]))
                for e in found
            )
        except (KeyError, TypeError, ValueError) as error:
            raise self._client.broke(f"its directory listing is malformed: {error!r}") from error

    async def _collect(self, body: dict[str, Any], cap: int) -> tuple[bytes, dict[str, Any]]:
        content = bytearray()

        def on_data(_stream: int, data: bytes) -> None:
            # What exceeds the cap is dropped as it comes: the reply says whether it was legal.
            if len(content) <= cap:
                content.extend(data)

        reply = await self._client.call(body, on_data, limit_s=math.inf)
        if len(content) > cap:
            raise GuestRefused(
                f"{body['path']} is larger than {cap // 2**20} MiB.",
                remedy="Read it in pieces with offset and limit.",
            )
        return bytes(content), reply

    async def write(self, path: str, content: bytes | AsyncIterable[bytes], mode: int | None = 0o644) -> int:
        """Replace a file atomically and return its size in bytes."""
        client = self._client
        request_id = client.new_request_id()

        async def send() -> None:
            if isinstance(content, bytes):
                for start in range(0, len(content), DATA_CHUNK_BYTES):
                    await client.send(Data(request_id, FILE_STREAM, content[start : start + DATA_CHUNK_BYTES]))
            else:
                async for piece in content:
                    for start in range(0, len(piece), DATA_CHUNK_BYTES):
                        await client.send(Data(request_id, FILE_STREAM, piece[start : start + DATA_CHUNK_BYTES]))
            await client.send(Data(request_id, FILE_STREAM, b""))

        body = {"op": "file_write", "path": path, "mode": mode}
        reply = await client.call(body, request_id=request_id, limit_s=math.inf, and_then=send)
        return int(reply.get("size", 0))
