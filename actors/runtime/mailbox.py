"""Mailboxes: two bounded Trio memory channels, one for what is handled in turn, one for what runs beside it.

A mailbox belongs to its actor's name, not to one life of the actor: what waits in it when the actor crashes is
handled by the restarted one.
"""

from __future__ import annotations

import enum
from typing import Any, ClassVar, Final, Generic, TypeVar

import attrs
import trio

from actors.model.errors import ActorGone, MailboxFull

R = TypeVar("R")
MAILBOX_SIZE: Final = 256
"""How many messages may wait in each of a mailbox's two channels; one that was withdrawn keeps its place."""


class WhenCancelled(enum.Enum):
    """What has become of a message whose handler was cancelled for its asker's sake."""

    REVERTS = "it was rolled back"
    LOOKS = "it was cancelled, and changes nothing"
    STOPS = "it was cancelled, and what of it was done by then stays done"
    GOES_ON = "it cannot be cancelled"
    """Whoever asked has only stopped waiting."""


@attrs.frozen
class Message(Generic[R]):
    """A request that is answered with an ``R``."""

    CONCURRENT: ClassVar[bool] = False
    """Handled beside whatever else is, instead of in turn with the others that are not."""
    DEADLINE_S: ClassVar[float] = 60.0
    """How long an asker waits unless it says otherwise."""
    WHEN_CANCELLED: ClassVar[WhenCancelled] = WhenCancelled.STOPS
    """The least that can be said, unless its handler does better."""


@attrs.define(eq=False)
class Reply:
    """What becomes of one message; shared by its asker and the actor."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Around its handler."""
    settled: trio.Event = attrs.field(factory=trio.Event)
    begun: bool = False
    withdrawn: bool = False
    cancelled: bool = False
    result: Any = None
    error: BaseException | None = None

    def begin(self) -> bool:
        """Tell whether the message is still wanted; from then on it cannot be withdrawn, only cancelled."""
        self.begun = not self.withdrawn
        return self.begun

    def settle(self, result: Any = None, error: BaseException | None = None, *, cancelled: bool = False) -> None:
        """Record the outcome, once."""
        if not self.settled.is_set():
            self.result, self.error, self.cancelled = result, error, cancelled
            self.settled.set()


@attrs.frozen(eq=False)
class Envelope:
    """A message on its way, and where its outcome goes."""

    message: Message[Any]
    reply: Reply = attrs.field(factory=Reply)


class Mailbox:
    """The messages that wait for an actor, at most ``size`` in each channel."""

    def __init__(self, size: int = MAILBOX_SIZE) -> None:
        self._size = size
        self._closed: str | None = None
        self._in_turn, self.in_turn = trio.open_memory_channel[Envelope](size)
        self._beside, self.beside = trio.open_memory_channel[Envelope](size)

    def put(self, name: str, envelope: Envelope) -> None:
        """Add an envelope.

        Raises:
            MailboxFull: its channel is full; nothing was done.
            ActorGone: the mailbox is closed; nothing was done.

        """
        if self._closed is not None:
            raise ActorGone(f"{name} is gone: {self._closed}. Nothing was done.")
        try:
            (self._beside if type(envelope.message).CONCURRENT else self._in_turn).send_nowait(envelope)
        except trio.WouldBlock:
            raise MailboxFull(
                f"{name} has {self._size} requests waiting; nothing was done.", remedy="Try again in a moment."
            ) from None

    def close(self, reason: str) -> None:
        """Refuse all that waits and all that comes."""
        self._closed = self._closed or reason
        for channel in (self.in_turn, self.beside):
            while channel.statistics().current_buffer_used:
                gone = ActorGone(f"The actor is gone: {self._closed}. Nothing was done.")
                channel.receive_nowait().reply.settle(error=gone)

    @property
    def is_closed(self) -> bool:
        """Whether nothing is accepted any more."""
        return self._closed is not None

    def __len__(self) -> int:
        return sum(channel.statistics().current_buffer_used for channel in (self.in_turn, self.beside))
