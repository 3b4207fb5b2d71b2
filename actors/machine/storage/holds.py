"""Who needs which layers and checkpoints.  Held in memory, and rebuilt at start-up from what is written down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from trio_util import AsyncBool

from actors.model.names import new_id

BLOCK: Final = "work under way "
"""How the names of holders begin that may hold what is not there, since they are only about to make it."""


class Holds:
    """What is held, by its holders' names; all methods that are not async are instant."""

    def __init__(self) -> None:
        self._held: dict[str, frozenset[str]] = {}
        self._holders: Counter[str] = Counter()
        self._let_go = AsyncBool(value=False)

    def set(self, owner: str, ids: Iterable[str]) -> None:
        """Say that ``owner`` needs exactly these, and what they stand on."""
        before, now = self._held.get(owner, frozenset()), frozenset(ids)
        self._held[owner] = now
        self._holders.update(now - before)
        self._drop(before - now)

    def release(self, owner: str) -> None:
        """Say that ``owner`` needs nothing any more."""
        self._drop(self._held.pop(owner, frozenset()))

    def _drop(self, ids: frozenset[str]) -> None:
        for identifier in ids:
            self._holders[identifier] -= 1
            if not self._holders[identifier]:
                del self._holders[identifier]
                self._let_go.value = True

    @contextmanager
    def held(self, *ids: str) -> Iterator[str]:
        """Hold ids for the length of a block; the owner's name may be used to hold more."""
        owner = f"{BLOCK}{new_id()}"
        self.set(owner, ids)
        try:
            yield owner
        finally:
            self.release(owner)

    @property
    def needed(self) -> frozenset[str]:
        """All that is held directly."""
        return frozenset(self._holders)

    @property
    def owners(self) -> tuple[str, ...]:
        """All that hold something, or did."""
        return tuple(self._held)

    def holders(self) -> dict[str, list[str]]:
        """Return who holds what directly, by id."""
        found: dict[str, list[str]] = {}
        for owner, ids in self._held.items():
            for identifier in ids:
                found.setdefault(identifier, []).append(owner)
        return found

    def look_again(self) -> None:
        """Have whoever waits for something to be let go of look, whether anything was or not."""
        self._let_go.value = True

    async def wait_let_go(self) -> None:
        """Wait until something was let go of that nobody else holds directly, since this was last waited for."""
        await self._let_go.wait_value(True)
        self._let_go.value = False


def is_block(owner: str) -> bool:
    """Tell whether a holder is a block of work, which may hold what it is only about to make."""
    return owner.startswith(BLOCK)
