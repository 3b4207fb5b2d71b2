"""Calls that a client repeats: with one idempotency key they are done once, and each gets the first one's result."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import attrs
import trio

from actors.model.errors import InvalidArgument

KEPT: Final = 1000
"""Results that are remembered; the oldest is forgotten first."""


@attrs.define(eq=False)
class _Attempt:
    arguments: str
    over: trio.Event = attrs.field(factory=trio.Event)
    succeeded: bool = False
    result: Any = None


class Once:
    """Remembers results by key, for as long as the supervisor runs."""

    def __init__(self) -> None:
        self._attempts: dict[tuple[str, ...], _Attempt] = {}

    async def __call__(
        self, key: tuple[str, ...], arguments: Mapping[str, Any], work: Callable[[], Awaitable[Any]]
    ) -> Any:
        """Do work, or return what it gave when it was done under this key before.

        A call that comes while another is at it waits for that one.  What failed or was cancelled, and therefore
        undone, is done again.

        Raises:
            InvalidArgument: the key was used for other arguments.

        """
        said = json.dumps(arguments, sort_keys=True)
        while (known := self._attempts.get(key)) is not None:
            if known.arguments != said:
                raise InvalidArgument(
                    "This idempotency_key was used with other arguments.", remedy="Use a new key for each new request."
                )
            await known.over.wait()
            if known.succeeded:
                return known.result
        attempt = self._attempts[key] = _Attempt(said)
        try:
            attempt.result = await work()
            attempt.succeeded = True
        finally:
            if not attempt.succeeded:
                del self._attempts[key]
            attempt.over.set()
        self._forget_oldest()
        return attempt.result

    def _forget_oldest(self) -> None:
        over = [key for key, attempt in self._attempts.items() if attempt.succeeded]
        for key in over[: max(0, len(over) - KEPT)]:
            del self._attempts[key]
