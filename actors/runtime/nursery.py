"""A nursery for a library's context managers: the one error of its block comes out as itself, not in a group."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from guest.errors import only_error


@asynccontextmanager
async def open_plain_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery whose sole error is raised without the groups around it; several stay a group."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        error = only_error(group)
        if error is group:
            raise
        raise error from error.__cause__
