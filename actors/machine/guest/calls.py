"""What files and jobs need of the channel: requests, each with a reply, and pieces of data."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from actors.machine.guest.pulse import Patience
from actors.model.errors import GuestBroken
from guest.wire import Data, Message

REPLY_LIMIT_S: Final = 30.0
"""A guest that is silent for so long on a small request is taken for dead; software emulation is slow."""


class GuestCalls(Protocol):
    """The part of a `GuestClient` that is the same for all that is asked of a guest."""

    async def call(
        self,
        body: dict[str, Any],
        on_data: Callable[[int, bytes], None] | None = None,
        *,
        request_id: int | None = None,
        limit_s: float = REPLY_LIMIT_S,
        patience: Patience | None = None,
        and_then: Callable[[], Awaitable[None]] | None = None,
    ) -> dict[str, Any]:
        """Make a request and return what the guest answers."""

    async def send(self, event: Message | Data) -> None:
        """Send one event, to which there is no answer."""

    def new_request_id(self) -> int:
        """Return a number that no request has had yet."""

    def broke(self, reason: str) -> GuestBroken:
        """Mark the channel as of no further use; return the error to raise."""
