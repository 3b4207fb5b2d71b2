"""Commands' output as text for a model: bounded, cut between characters, never cut in silence."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio
from trio_util import AsyncBool

from actors.registry.messages import OnProgress
from actors.runtime import open_plain_nursery

DEFAULT_BYTES: Final = 16 * 1024
MAX_BYTES: Final = 256 * 1024
REPORT_EVERY_S: Final = 0.3
REPORT_BYTES: Final = 2048
MAX_CHARACTER_BYTES: Final = 4


def cut(data: bytes, total: int, *, job_id: str, stream: str) -> str:
    """Return the head and tail of a stream of ``total`` bytes as text, with a mark where bytes are missing."""
    if total <= len(data):
        return data.decode(errors="replace")
    half = len(data) - len(data) // 2
    head, tail = data[: whole(data[:half])], data[half:]
    skipped = next((n for n, byte in enumerate(tail[:MAX_CHARACTER_BYTES]) if byte & 0xC0 != 0x80), 0)
    tail = tail[skipped:]
    missing = total - len(head) - len(tail)
    mark = (
        f"\n[... {missing} of {total} bytes cut; exec_poll job_id={job_id} {stream}_cursor={len(head)} reads on ...]\n"
    )
    return head.decode(errors="replace") + mark + tail.decode(errors="replace")


def last_lines(text: str, count: int, *, cap_bytes: int, more: str) -> str:
    """Return the last lines of the end of a log, of at most ``cap_bytes``; a mark says that and how there is more."""
    lines = text.splitlines()
    if len(lines) > count or len(text.encode(errors="replace")) >= cap_bytes:
        lines = [f"[... what came before is cut; {more} ...]", *lines[-count:]]
    return "\n".join(lines)


def whole(data: bytes) -> int:
    """Return how much of ``data`` ends with a whole UTF-8 character; all of it, if it is not text."""
    for back in range(1, min(MAX_CHARACTER_BYTES, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        needed = 1 if byte >= 0xF8 else 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return len(data) - back if needed > back else len(data)
    return len(data)


@asynccontextmanager
async def reporting(report: OnProgress) -> AsyncIterator[Callable[[int, bytes], None]]:
    """Yield a function that takes output, of which the newest goes to the client a few times a second."""
    newest = bytearray()
    came = AsyncBool()

    def take(_stream: int, data: bytes) -> None:
        newest.extend(data[-REPORT_BYTES:])
        del newest[:-REPORT_BYTES]
        came.value = True

    async def forward() -> None:
        while True:
            await came.wait_value(True)
            came.value = False
            report(newest.decode(errors="replace"))
            newest.clear()
            await trio.sleep(REPORT_EVERY_S)

    async with open_plain_nursery() as nursery:
        nursery.start_soon(forward)
        yield take
        nursery.cancel_scope.cancel(reason="the command is over, or goes on alone")


def limit(timeout_secs: float | None, yield_secs: float | None) -> float | None:
    """Return a command's time limit: the one that was given; else 120 s, or none if it may go on alone."""
    if timeout_secs is None:
        return None if yield_secs is not None else 120.0
    return timeout_secs if math.isfinite(timeout_secs) else None
