"""What is asked of a guest to compare its file system with another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import trio

from actors.machine.guest.client import GuestClient
from actors.machine.guest.pulse import ANSWER_S, Patience
from actors.model.diff import Entry, Walk
from actors.model.errors import GuestRefused
from guest.untrusted import MALFORMED, parse, whole

MAX_WALK_BYTES: Final = 64 * 1024 * 1024
LOOK_LIMIT_S: Final = 180.0
MAX_DIGESTS: Final = 200
"""Asked for at once: as many of the longest paths are still within a frame."""


async def walk(client: GuestClient, path: str, max_entries: int) -> tuple[Walk, bool]:
    """Look at every file of one file system below ``path``; also tell whether that was all there is."""
    lines, facts = await _collect(client, {"op": "walk", "path": path, "max_entries": max_entries})
    try:
        found = await trio.to_thread.run_sync(_entries, lines, max_entries)
    except MALFORMED as error:
        raise client.broke(f"its walk is malformed: {error!r}") from error
    return found, facts.get("truncated") is False


async def digests(client: GuestClient, paths: Sequence[str]) -> dict[str, str | None]:
    """Return the digests of files; ``None`` for those that cannot be read any more."""
    found: dict[str, str | None] = {}
    for start in range(0, len(paths), MAX_DIGESTS):
        asked = list(paths[start : start + MAX_DIGESTS])
        lines, _ = await _collect(client, {"op": "digests", "paths": asked})
        try:
            said = [parse(line) for line in lines.splitlines() if line]
            found |= {path: None if one is None else str(one)[:64] for path, one in zip(asked, said, strict=True)}
        except MALFORMED as error:
            raise client.broke(f"its digests are malformed: {error!r}") from error
    return found


def _entries(lines: bytes, max_entries: int) -> dict[str, Entry]:
    found = {}
    for line in lines.splitlines()[: max_entries + 1]:
        path, kind, size, mode, mtime, ctime, inode, target = parse(line)
        link = None if target is None else str(target)
        found[str(path)] = Entry(
            str(kind)[:10], whole(size), whole(mode), whole(mtime), whole(ctime), whole(inode), link
        )
    return found


async def _collect(client: GuestClient, body: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    content = bytearray()

    def on_data(_stream: int, data: bytes) -> None:
        if len(content) <= MAX_WALK_BYTES:
            content.extend(data)

    reply = await client.call(body, on_data, limit_s=LOOK_LIMIT_S, patience=Patience(ANSWER_S))
    if len(content) > MAX_WALK_BYTES:
        raise GuestRefused(
            f"What the guest tells of its files exceeds {MAX_WALK_BYTES // 2**20} MiB.",
            remedy="Compare a directory that holds fewer.",
        )
    return bytes(content), reply
