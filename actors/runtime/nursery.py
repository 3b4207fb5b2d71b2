"""Exception groups, in which Trio delivers what happens in a nursery, made into the one error that they mean."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from guest.errors import only_error

E = TypeVar("E", bound=BaseException)


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


def ordinary_failure(error: BaseException, *kinds: type[E]) -> E | None:
    """Return the failure that an error, or a group of whatever depth, stands for if all in it are of these kinds.

    It is the first one, with the others as its notes.  Cancellations beside it are not counted: they follow from it, or
    meet whoever waits next.  ``None`` if there is none, or anything else.
    """
    leaves = list(dict.fromkeys(_leaves(error)))
    failures = [leaf for leaf in leaves if isinstance(leaf, kinds)]
    if not failures or not all(isinstance(leaf, (*kinds, trio.Cancelled)) for leaf in leaves):
        return None
    first, *others = failures
    for other in others:
        first.add_note(f"Beside it: {other}")
    return first


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        yield error
        return
    for inner in error.exceptions:
        yield from _leaves(inner)
