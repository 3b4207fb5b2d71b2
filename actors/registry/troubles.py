"""What could not be read or finished is kept as it is, told, and tried again.

Nothing is collected meanwhile, unless it is known that it needs nothing of what is stored.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import trio

from actors.machine.storage.store import Store
from actors.model.errors import AgentisoError
from actors.model.info import Trouble

LOOK_AGAIN_S: Final = 30.0
Again: TypeAlias = Callable[[], Awaitable[None]]
"""Tries again what there was trouble with; what is wrong then is added anew, or raised."""


class Troubles:
    """Kept by the registry."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, str], tuple[Trouble, Again]] = {}
        self._harmless: set[tuple[str, str]] = set()
        self._blocking: frozenset[str] = frozenset()
        self._looking = trio.Lock()

    def all(self) -> tuple[Trouble, ...]:
        """Return what there is, oldest first."""
        return tuple(trouble for trouble, _ in self._known.values())

    def add(self, trouble: Trouble, again: Again, *, blocks: bool = True) -> None:
        """Enter a trouble, or what is known of one now, and how it is tried again.

        One that needs nothing of what is stored ``blocks`` no collection.
        """
        key = (trouble.what, trouble.path)
        self._known[key] = (trouble, again)
        (self._harmless.discard if blocks else self._harmless.add)(key)
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
            for key, (trouble, again) in before.items():
                # What was mended is held by somebody before it blocks no more.
                self._known[key] = (trouble, _never)
                try:
                    await again()
                except (AgentisoError, OSError):
                    self._known[key] = (trouble, again)
                except BaseException:
                    self._known[key] = (trouble, again)
                    raise
                if self._known[key][1] is _never:
                    del self._known[key]
            self._block()
            if before.keys() - self._known.keys():
                await self._store.collect()

    def _block(self) -> None:
        for what in self._blocking:
            self._store.blocked.pop(what, None)
        whys = {trouble.what: trouble.why for key, (trouble, _) in self._known.items() if key not in self._harmless}
        self._blocking = frozenset(whys)
        self._store.blocked |= whys


async def _never() -> None:
    """Mark a trouble that is being tried again."""
