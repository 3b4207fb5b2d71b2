"""What is asked of a guest's files.

Whatever is large goes in pieces, both ways, and no faster than the slower side: what comes is bounded by credit that
is given as it is consumed, what goes is taken by the guest as it writes.  It may take as long as it takes, and ends
when the guest goes mute.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import trio

from actors.machine.guest.calls import GuestCalls
from actors.machine.guest.pulse import Patience
from actors.model.errors import GuestRefused, NoCapacity, RemoteProtocolError
from actors.model.guest import Edited, FileContent, FileEntry, Helper, TreeReport
from actors.model.text import shown
from guest.errors import only_error
from guest.untrusted import MALFORMED, finite, parse, whole
from guest.wire import DATA_CHUNK_BYTES, FILE_STREAM, Data, Message

MAX_FILE_BYTES: Final = 256 * 1024 * 1024
"""Of a file that is held in memory as a whole; streams have no such bound."""
MAX_LISTING_BYTES: Final = 16 * 1024 * 1024
WINDOW_BYTES: Final = 1024 * 1024
"""How much may be on its way to a consumer who is slow."""
SLACK_BYTES: Final = 2 * DATA_CHUNK_BYTES
"""A guest sends whole pieces as long as it has any credit."""
GIVEN_UP: Final = FILE_STREAM + 1
"""Data on this stream says that the rest of a file will not come."""
GIVE_UP_S: Final = 1.0
"""Nobody waits longer to tell a guest that something is not wanted any more."""
MAX_NAMED_SKIPS: Final = 20
MAX_NAME_CHARS: Final = 255
"""Linux's own limit of a name in a directory (NAME_MAX)."""

Sink: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Consumes one piece; the next comes when it returns."""


class GuestFiles:
    """``client.files``."""

    def __init__(self, client: GuestCalls) -> None:
        self._client = client

    async def read(self, path: str, offset: int = 0, limit: int | None = None) -> FileContent:
        """Read a file, or a piece of it, of at most `MAX_FILE_BYTES`."""
        content = await self._collect(
            {"op": "file_read", "path": path, "offset": offset, "limit": limit}, MAX_FILE_BYTES
        )
        size = max(whole_number(content[1], "size"), offset + len(content[0]) if content[0] else 0)
        return FileContent(content[0], size, offset, whole_number(content[1], "mode") & 0o7777)

    async def stream(
        self, path: str, sink: Sink, *, offset: int = 0, limit: int | None = None, max_bytes: int
    ) -> FileContent:
        """Give a file, or a piece of it, to a consumer as it comes; the content of what is returned is empty."""
        body = {"op": "file_read", "path": path, "offset": offset, "limit": limit}
        reply = await self._pull(body, sink, max_bytes=max_bytes)
        return FileContent(b"", whole_number(reply, "size"), offset, whole_number(reply, "mode") & 0o7777)

    async def read_tree(self, path: str, sink: Sink, *, exclude: Sequence[str], max_bytes: int) -> TreeReport:
        """Give the records of a directory tree (`guest.tree`) to a consumer as they come."""
        reply = await self._pull({"op": "tree_read", "path": path, "exclude": list(exclude)}, sink, max_bytes=max_bytes)
        return _report(reply)

    async def list(self, path: str) -> tuple[FileEntry, ...]:
        """List a directory, sorted by name."""
        lines, _ = await self._collect({"op": "file_list", "path": path}, MAX_LISTING_BYTES)
        try:
            return tuple(_entry(parse(line)) for line in lines.splitlines())
        except MALFORMED as error:
            raise self._client.broke(f"its directory listing is malformed: {error!r}") from error

    async def look(self, path: str, *, follow: bool) -> FileEntry:
        """Tell what is at a path."""
        try:
            return _entry(await self._client.call({"op": "file_stat", "path": path, "follow": follow}))
        except MALFORMED as error:
            raise self._client.broke(f"its description of a file is malformed: {error!r}") from error

    async def edit(self, path: str, old: str, new: str, *, replace_all: bool) -> Edited:
        """Replace text in a file."""
        body = {"op": "file_edit", "path": path, "old": old, "new": new, "replace_all": replace_all}
        reply = await self._client.call(body)
        return Edited(whole_number(reply, "replacements"), whole_number(reply, "size"))

    async def helper(self, name: str) -> Helper:
        """Tell how one of the guest layer's own programs is started."""
        reply = await self._client.call({"op": "helper", "name": name})
        try:
            env = {str(key): str(value) for key, value in dict(reply["env"]).items()}
            return Helper(tuple(str(word) for word in reply["argv"]), str(reply["workdir"]), env)
        except MALFORMED as error:
            raise self._client.broke(f"its description of a helper is malformed: {error!r}") from error

    async def _collect(self, body: dict[str, Any], cap: int) -> tuple[bytes, dict[str, Any]]:
        content = bytearray()

        def on_data(_stream: int, data: bytes) -> None:
            # What exceeds the cap is dropped as it comes: the reply says whether it was legal.
            if len(content) <= cap:
                content.extend(data)

        reply = await self._client.call(body, on_data, limit_s=math.inf, patience=Patience())
        if len(content) > cap:
            raise GuestRefused(
                f"What is at {shown(body['path'])} is larger than {cap // 2**20} MiB.",
                remedy="Read a file in pieces, with offset and limit; list a directory with a command, such as ls.",
            )
        return bytes(content), reply

    async def _pull(self, body: dict[str, Any], sink: Sink, *, max_bytes: int) -> dict[str, Any]:
        """Make a request whose data goes to a consumer, with no more than a window of it in memory."""
        client = self._client
        request_id = client.new_request_id()
        sending, receiving = trio.open_memory_channel[bytes](math.inf)
        waiting = total = 0

        def on_data(_stream: int, data: bytes) -> None:
            nonlocal waiting, total
            waiting, total = waiting + len(data), total + len(data)
            if waiting > WINDOW_BYTES + SLACK_BYTES:
                raise RemoteProtocolError("more data came than was asked for")
            if total > max_bytes:
                sending.close()
            else:
                sending.send_nowait(data)

        async def consume() -> None:
            nonlocal waiting
            consumed = 0
            async for data in receiving:
                await sink(data)
                consumed += len(data)
                if consumed >= WINDOW_BYTES // 4:
                    waiting -= consumed
                    credit = {"op": "file_credit", "target": request_id, "bytes": consumed}
                    consumed = 0
                    # It is not answered.
                    await client.send(Message({**credit, "id": client.new_request_id()}))
            if total > max_bytes:
                _too_large(body["path"], max_bytes)

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(consume)
                reply = await client.call(
                    {**body, "credit": WINDOW_BYTES},
                    on_data,
                    request_id=request_id,
                    limit_s=math.inf,
                    patience=Patience(),
                )
                sending.close()
        except BaseException as caught:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + GIVE_UP_S):
                stop = {"op": "file_credit", "target": request_id, "bytes": 0, "stop": True}
                await client.send(Message({**stop, "id": client.new_request_id()}))
            if isinstance(caught, BaseExceptionGroup):
                raise only_error(caught) from None
            raise
        return reply

    async def write(
        self, path: str, content: bytes | AsyncIterable[bytes], mode: int | None = 0o644, *, max_bytes: int
    ) -> int:
        """Replace a file atomically and return its size in bytes; if it is given up, the file stays as it was."""
        pieces = _one(content) if isinstance(content, bytes) else content
        reply = await self._push({"op": "file_write", "path": path, "mode": mode}, _cut(path, pieces, max_bytes))
        return whole_number(reply, "size")

    async def write_tree(
        self, path: str, records: AsyncIterable[bytes], *, max_bytes: int, max_entries: int
    ) -> TreeReport:
        """Write the records of a directory tree (`guest.tree`) into a directory, which is made if it is missing."""
        body = {"op": "tree_write", "path": path, "max_bytes": max_bytes, "max_entries": max_entries}
        return _report(await self._push(body, records))

    async def _push(self, body: dict[str, Any], pieces: AsyncIterable[bytes]) -> dict[str, Any]:
        client = self._client
        request_id = client.new_request_id()

        async def send() -> None:
            try:
                async with closing(pieces):
                    async for piece in pieces:
                        await client.send(Data(request_id, FILE_STREAM, piece))
                await client.send(Data(request_id, FILE_STREAM, b""))
            except BaseException:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + GIVE_UP_S):
                    await client.send(Data(request_id, GIVEN_UP, b""))
                raise

        return await client.call(body, request_id=request_id, limit_s=math.inf, patience=Patience(), and_then=send)


async def _one(content: bytes) -> AsyncIterable[bytes]:
    yield content


async def _cut(path: str, pieces: AsyncIterable[bytes], max_bytes: int) -> AsyncIterable[bytes]:
    """Cut what comes into the pieces of the wire."""
    total = 0
    async with closing(pieces):
        async for piece in pieces:
            total += len(piece)
            if total > max_bytes:
                _too_large(path, max_bytes)
            for start in range(0, len(piece), DATA_CHUNK_BYTES):
                yield piece[start : start + DATA_CHUNK_BYTES]


@asynccontextmanager
async def closing(pieces: AsyncIterable[bytes]) -> AsyncIterator[None]:
    """Close what produces the pieces at the end of the block, if it can be closed: it may hold a file."""
    try:
        yield
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()


def _too_large(path: str, max_bytes: int) -> None:
    raise NoCapacity(
        f"{shown(path)} has more than {max_bytes} bytes.", remedy="Raise limits.max_transfer_mb, or split it."
    )


def _entry(facts: dict[str, Any]) -> FileEntry:
    return FileEntry(
        str(facts["name"])[:MAX_NAME_CHARS],
        str(facts["kind"])[:20],
        whole(facts["size"]),
        whole(facts["mode"]),
        finite(facts["mtime"]),
    )


def whole_number(reply: dict[str, Any], field: str) -> int:
    """Return a field that has to be a number of things; 0 if a guest says something else."""
    value = reply.get(field)
    return value if isinstance(value, int) and 0 <= value < 2**63 else 0


def _report(reply: dict[str, Any]) -> TreeReport:
    named = reply.get("skipped")
    skipped = [str(line)[:500] for line in named[:MAX_NAMED_SKIPS]] if isinstance(named, list) else []
    return TreeReport(
        whole_number(reply, "entries"),
        whole_number(reply, "bytes"),
        tuple(skipped),
        whole_number(reply, "skipped_count"),
    )
