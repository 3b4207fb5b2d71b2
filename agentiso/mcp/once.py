"""Calls that a client repeats: with one idempotency key they are done once, and each gets the first one's result."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import attrs
import trio

from actors.model.errors import ActorGone, AgentisoError, InvalidArgument, OutcomeUnknown, Unfinished
from agentiso.mcp.elicitation import InputNeeded
from guest.errors import only_error

KEPT: Final = 1000
"""Attempts that are remembered; the oldest is forgotten first."""


@attrs.define(eq=False)
class _Attempt:
    arguments: str
    over: trio.Event = attrs.field(factory=trio.Event)
    kept: bool = False
    result: Any = None
    failure: str | None = None
    """What was said when it failed in a way that does not tell what came of it."""


class Once:
    """Remembers what came of calls by key, for as long as the supervisor runs."""

    def __init__(self) -> None:
        self._attempts: dict[tuple[str, ...], _Attempt] = {}

    async def __call__(
        self,
        key: tuple[str, ...],
        arguments: Mapping[str, Any],
        work: Callable[[], Awaitable[Any]],
        *,
        idempotent: bool = False,
    ) -> Any:
        """Do work, or return what it gave when it was done under this key before.

        A call that comes while another is at it waits for that one.  What failed or was cancelled, and was undone
        therefore, is done again, and so is ``idempotent`` work whatever came of it.

        Raises:
            InvalidArgument: the key was used for other arguments.
            OutcomeUnknown: what came of it the first time is not known, so that it may be done already.

        """
        said = json.dumps(arguments, sort_keys=True)
        while (known := self._attempts.get(key)) is not None:
            if known.arguments != said:
                raise InvalidArgument(
                    "This idempotency_key was used with other arguments.", remedy="Use a new key for each new request."
                )
            await known.over.wait()
            if known.failure is not None:
                raise OutcomeUnknown(
                    f"This was tried under this idempotency_key, and whether it was done is unknown: {known.failure}",
                    remedy="Look with workspace_list; with a new key it is done again.",
                )
            if known.kept:
                return known.result
        attempt = self._attempts[key] = _Attempt(said)
        try:
            attempt.result = await work()
            attempt.kept = True
        except BaseException as error:
            if not idempotent and _may_be_done(error):
                attempt.kept, attempt.failure = True, str(only_error(error)) or type(error).__name__
            raise
        finally:
            if not attempt.kept:
                del self._attempts[key]
            attempt.over.set()
            self._forget_oldest()
        return attempt.result

    def _forget_oldest(self) -> None:
        over = [key for key, attempt in self._attempts.items() if attempt.kept]
        for key in over[: max(0, len(over) - KEPT)]:
            del self._attempts[key]


def _may_be_done(error: BaseException) -> bool:
    """Tell whether work that failed so may have been done all the same, or still be."""
    _, unknown = BaseExceptionGroup("of work", [error]).split(_was_undone)
    return unknown is not None


def _was_undone(error: BaseException) -> bool:
    if isinstance(error, AgentisoError):
        return not isinstance(error, OutcomeUnknown | Unfinished | ActorGone)
    return isinstance(error, trio.Cancelled | InputNeeded)
