"""Exception groups, in which Trio delivers what happens in a nursery, made into the one error that they mean."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from actors.model.errors import AgentisoError
from actors.model.files import EXHAUSTED, reported
from guest.errors import only_error

E = TypeVar("E", bound=BaseException)
log = logging.getLogger("agentiso.actors")


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


def failure_of(error: BaseException) -> AgentisoError | None:
    """Return the failure that is an asker's and crashes nobody: an `AgentisoError`, or what the host answered."""
    failure: Exception | None = ordinary_failure(error, AgentisoError, OSError)
    if not isinstance(failure, OSError):
        assert failure is None or isinstance(failure, AgentisoError)
        return failure
    if failure.errno not in EXHAUSTED:
        # Nobody below knew what it means, so that it may be a mistake of ours as well.
        log.warning("an answer of the host that nobody expected", exc_info=failure)
    made = reported(failure)
    made.__cause__ = failure
    return made


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        yield error
        return
    for inner in error.exceptions:
        yield from _leaves(inner)
