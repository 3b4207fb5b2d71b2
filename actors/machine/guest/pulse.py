"""A guest's pulse: when it last gave a sign of life, since when it owes one, and how long others wait for it.

A guest is *mute* while it does not answer what every guest answers at once, a ping.  Work that takes its time, a
transfer or a command, is not bounded by a total but by this: who is silent is pinged, and given up when mute for long.
A consumer or a producer on this side that is slow does not count against the guest, which answers its pings meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from actors.model.errors import AgentisoError

STALL_S: Final = 30.0
"""A guest that is mute for so long is taken for dead; software emulation is slow."""
MUTE_S: Final = 5.0
"""The same where the time that the caller gave is over already."""
ANSWER_S: Final = 8.0
"""How long a caller waits for a first answer who can do nothing without one."""
QUIET_S: Final = 3.0
"""After so long without a sign of life a guest is pinged, if somebody waits for it."""
PING_S: Final = 2.0
"""The least time for the answer to a ping."""
NOTED_S: Final = 3.0
"""A guest that owes an answer for longer is called mute to whoever looks."""


@attrs.frozen
class Patience:
    """How long a request that takes its time waits for a guest that has gone mute."""

    mute_s: float = STALL_S
    at_least_s: float = 0.0
    """It is not given up earlier than this after its beginning: what its caller allowed for it."""


class Pulse:
    """The signs of life of one guest."""

    def __init__(self) -> None:
        self.answered_at: float | None = None
        """Wall-clock time of the last byte that came from it, in s."""
        self.still = False
        """Whether its virtual CPUs stand still, so that it cannot be blamed."""
        self._sign = trio.current_time()
        self._owing: tuple[float, float] | None = None
        """Since when an answer is owed: wall-clock and trio's time."""

    def heard(self) -> None:
        """Note that bytes came from the guest: whatever it owed, it is alive."""
        self._sign, self._owing, self.answered_at = trio.current_time(), None, time.time()

    def took(self) -> None:
        """Note that bytes of a transfer were taken on their way to the guest: that is progress, if no answer."""
        self._sign = trio.current_time()

    def asked(self) -> None:
        """Note that something was asked that is answered at once."""
        self._owing = self._owing or (time.time(), trio.current_time())

    def stand_still(self) -> None:
        """Hold nothing against the guest until it runs on."""
        self.still = True

    def run_on(self) -> None:
        """Count its silence from now on."""
        self.still, self._sign = False, trio.current_time()
        if self._owing is not None:
            self._owing = time.time(), trio.current_time()

    @property
    def quiet_since(self) -> float:
        """Trio's time of the last sign of life or progress."""
        return self._sign

    @property
    def mute_since(self) -> float | None:
        """Wall-clock time, in s, since when the guest owes an answer; ``None`` unless it does for a while."""
        if self.still or self._owing is None or trio.current_time() - self._owing[1] < NOTED_S:
            return None
        return self._owing[0]

    async def wait_mute(self, patience: Patience, done: trio.Event, ping: Callable[[float], Awaitable[None]]) -> float:
        """Wait until the guest is mute for longer than ``patience``, or until ``done``.

        Returns for how many seconds it has given no sign of life; ``ping`` is called with the time for its answer.
        """
        began = trio.current_time()
        while not done.is_set():
            quiet_s = trio.current_time() - max(began, self._sign)
            if self.still or quiet_s < QUIET_S:
                with trio.move_on_after(QUIET_S if self.still else QUIET_S - quiet_s):
                    await done.wait()
                continue
            left_s = max(patience.mute_s - quiet_s, began + patience.at_least_s - trio.current_time(), PING_S)
            sign = self._sign
            try:
                await ping(left_s)
            except AgentisoError:
                # It may have made progress, or been made to stand still, while the answer was waited for.
                if self._sign == sign and not self.still:
                    break
        return trio.current_time() - max(began, self._sign)
