"""What becomes of a workspace when nobody asks for it: suspended when idle, destroyed when its time is over."""

from __future__ import annotations

import contextlib
import time
from typing import Final

import attrs
import trio

from actors.model.errors import AgentisoError, InvalidArgument
from actors.model.info import Lifetime
from actors.model.states import State
from actors.workspace.idleness import Idleness
from actors.workspace.lifecycle import suspend
from actors.workspace.resources import Resources

IDLE: Final = "idle"
"""By whom a workspace was suspended that resumes when it is asked for something."""
REQUEST: Final = "request"
CLOCK_LOOK_S: Final = 60.0
"""For how long the host's wall clock is trusted not to have jumped."""


class Watch:
    """The watch over one workspace's lifetime."""

    def __init__(self, own: Resources, idleness: Idleness, changing: trio.Lock) -> None:
        self._own = own
        self._idleness = idleness
        self._changing = changing
        self._round = trio.CancelScope()

    def change(self, lifetime: Lifetime) -> None:
        """Give the workspace another lifetime, which begins now.

        Raises:
            InvalidArgument: a time is not above 0.

        """
        check(lifetime)
        expires_at = time.time() + lifetime.ttl_s if lifetime.ttl_s else None
        self._own.save(idle_suspend_s=lifetime.idle_suspend_s, expires_at=expires_at)
        self.renew()

    def renew(self) -> None:
        """Keep watch by the record as it is now."""
        self._round.cancel(reason="the workspace has another lifetime")

    async def run(self) -> None:
        """Keep watch until cancelled, anew for each lifetime."""
        while True:
            with trio.CancelScope() as self._round:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._suspend_when_idle)
                    nursery.start_soon(self._expire)

    async def _suspend_when_idle(self) -> None:
        limit_s = self._own.record.idle_suspend_s
        while True:
            await self._idleness.wait(limit_s)
            async with self._changing:
                unused = limit_s is not None and self._idleness.seconds >= limit_s
                if unused and self._own.lifecycle.state is State.RUNNING:
                    # If it fails, it is tried again after as long a time.
                    with trio.CancelScope(shield=True), contextlib.suppress(AgentisoError):
                        await suspend(self._own, IDLE)
            self._idleness.touch()

    async def _expire(self) -> None:
        expires_at = self._own.record.expires_at
        if expires_at is None:
            return
        while True:
            # In steps, since the wall clock may jump.
            while (left := expires_at - time.time()) > 0:  # noqa: ASYNC110
                await trio.sleep(min(left, CLOCK_LOOK_S))
            # Said again as long as it is there: whoever was told may have crashed.
            self._own.host.expired(self._own.record.id)
            await trio.sleep(CLOCK_LOOK_S)


def check(lifetime: Lifetime) -> None:
    """Raise `InvalidArgument` unless every time of a lifetime is above 0."""
    for what, seconds in attrs.asdict(lifetime).items():
        if seconds is not None and not seconds > 0:
            raise InvalidArgument(f"{what} is {seconds}.", remedy="Use a number of seconds above 0, or leave it out.")
