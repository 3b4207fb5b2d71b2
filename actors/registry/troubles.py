"""What could not be read or finished is kept as it is, told, and tried again.

Meanwhile nothing is collected, unless it is known that nothing needed depends on it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import attrs
import trio

from actors.machine.storage.store import Store
from actors.model.errors import AgentisoError
from actors.model.info import Trouble

LOOK_AGAIN_S: Final = 30.0
Again: TypeAlias = Callable[[], Awaitable[None]]
"""Tries again what there was trouble with; what is wrong then is added anew, or raised."""


@attrs.frozen
class _Known:
    trouble: Trouble
    again: Again
    blocks: bool


class Troubles:
    """Kept by the registry."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, str], _Known] = {}
        self._blocking: frozenset[str] = frozenset()
        self._looking = trio.Lock()

    def all(self) -> tuple[Trouble, ...]:
        """Return what there is, oldest first."""
        return tuple(known.trouble for known in self._known.values())

    def add(self, trouble: Trouble, again: Again, *, blocks: bool = True) -> None:
        """Enter a trouble, or what is known of one now, and how it is tried again.

        One that ``blocks`` keeps the store from being collected: something may need a piece that only it would name.
        """
        self._known[trouble.what, trouble.path] = _Known(trouble, again, blocks)
        self._block()

    async def keep_looking(self) -> None:
        """Try everything again now and then, until cancelled."""
        while True:
            await trio.sleep(LOOK_AGAIN_S)
            await self.look_again()

    async def look_again(self) -> None:
        """Try everything again, and collect if something is mended."""
        async with self._looking:
            before = dict(self._known)
            for key, known in before.items():
                # What was mended is held by somebody before it blocks no more.
                self._known[key] = attrs.evolve(known, again=_never)
                try:
                    await known.again()
                except (AgentisoError, OSError):
                    self._known[key] = known
                except BaseException:
                    self._known[key] = known
                    raise
                if self._known[key].again is _never:
                    del self._known[key]
            self._block()
            if before.keys() - self._known.keys():
                await self._store.collect()

    def _block(self) -> None:
        for what in self._blocking:
            self._store.blocked.pop(what, None)
        whys = {known.trouble.what: known.trouble.why for known in self._known.values() if known.blocks}
        self._blocking = frozenset(whys)
        self._store.blocked |= whys


async def _never() -> None:
    """Mark a trouble that is being tried again."""
