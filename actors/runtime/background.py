"""Background tasks of an actor: what fails in an ordinary way is tried again, or reported, and takes nobody along."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import trio

from actors.model.errors import AgentisoError
from actors.runtime.nursery import ordinary_failure

log = logging.getLogger("agentiso.actors")
RETRY_S: Final = 1.0
RETRY_MAX_S: Final = 300.0
"""The pause before a task is tried again doubles from `RETRY_S` up to this; a task that ran as long begins anew."""

OnFailure: TypeAlias = Callable[[Exception], None]
"""Told of the failure that ended a task."""


async def keep_trying(
    name: str, function: Callable[..., Awaitable[object]], args: tuple[Any, ...], on_failure: OnFailure | None
) -> None:
    """Run a function until it returns; after a failure once more, or with ``on_failure`` no more."""
    pause_s = RETRY_S
    while True:
        began = trio.current_time()
        try:
            await function(*args)
        except BaseException as error:
            failure = ordinary_failure(error, AgentisoError, OSError)
            if failure is None:
                raise
            if on_failure is not None:
                on_failure(failure)
                return
        else:
            return
        if trio.current_time() - began > RETRY_MAX_S:
            pause_s = RETRY_S
        log.warning("%s failed and is tried again in %.0f s: %s", name, pause_s, failure)
        await trio.sleep(pause_s)
        pause_s = min(2 * pause_s, RETRY_MAX_S)
