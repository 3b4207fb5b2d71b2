"""Determinism: what differs from run to run - threads, clocks, chance - made the same for every run of one seed."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import pytest
import trio
from trio.testing import MockClock

T = TypeVar("T")

EPOCH: Final = 1_800_000_000.0
"""What the wall clock says when a run begins."""


def run(seed: int, main: Callable[[], Awaitable[T]], instrument: trio.abc.Instrument) -> T:
    """Run a program whose tasks take their turns as the seed says, and whose time passes when all of them wait."""
    with pytest.MonkeyPatch.context() as patch:
        chance = random.Random(seed)
        no_threads(patch)
        for module, name in ((os, "urandom"), (random, "_urandom")):
            patch.setattr(module, name, chance.randbytes)
        patch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
        trio._core._run._r.seed(seed)
        random.seed(seed)
        clock = MockClock(autojump_threshold=0)
        zero = clock.current_time()
        patch.setattr(time, "time", lambda: EPOCH + clock.current_time() - zero)
        patch.setattr(time, "time_ns", lambda: int(time.time() * 1e9))
        return trio.run(main, clock=clock, instruments=[instrument])


def no_threads(patch: pytest.MonkeyPatch) -> None:
    """Have what is given to a thread be done at once, with others' turns before and after it."""

    async def run_sync(function: Callable[..., Any], *args: Any, **_options: Any) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        await trio.lowlevel.cancel_shielded_checkpoint()
        try:
            return function(*args)
        finally:
            await trio.lowlevel.cancel_shielded_checkpoint()

    patch.setattr(trio.to_thread, "run_sync", run_sync)
    # Whoever is in another thread all the same, with a token, goes by the real one.
    from_thread = trio.from_thread.run_sync

    def from_here(function: Callable[..., Any], *args: Any, trio_token: trio.lowlevel.TrioToken | None = None) -> Any:
        return from_thread(function, *args, trio_token=trio_token) if trio_token else function(*args)

    patch.setattr(trio.from_thread, "run_sync", from_here)
    patch.setattr(trio.from_thread, "check_cancelled", lambda: None)
