"""The progress of a call: what it says of itself, and a heartbeat while it says nothing.

A client gives up on a request of which it has heard nothing for a while, a minute as a rule; every notification begins
that while anew.  One that gave no progress token gets none.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from actors.model.text import printable
from actors.registry.messages import OnProgress
from actors.runtime import open_plain_nursery

BUFFER: Final = 64
"""Texts that wait for a slow client; it misses the others."""
FIRST_BEAT_S: Final = 1.0
"""A call that takes less need not say anything."""
BEAT_S: Final = 5.0
STILL: Final = "still running"
"""What a heartbeat begins with."""


@asynccontextmanager
async def open_progress(session: Any) -> AsyncIterator[OnProgress]:
    """Yield a function whose texts go to the client, which hears from the call at least every few seconds."""
    sending, receiving = trio.open_memory_channel[str](BUFFER)
    began = trio.current_time()
    due = began + FIRST_BEAT_S

    def report(text: str) -> None:
        nonlocal due
        due = trio.current_time() + BEAT_S
        with contextlib.suppress(trio.WouldBlock):
            sending.send_nowait(text)

    async def forward() -> None:
        number = 0
        async for text in receiving:
            number += 1
            await session.report_progress(number, None, printable(text))

    async def beat() -> None:
        while True:
            # What is said meanwhile puts it off.
            await trio.sleep_until(due)
            if trio.current_time() >= due:
                report(f"{STILL}, {trio.current_time() - began:.0f} s")

    async with open_plain_nursery() as nursery:
        nursery.start_soon(forward)
        nursery.start_soon(beat)
        yield report
        nursery.cancel_scope.cancel(reason="the call is over")
