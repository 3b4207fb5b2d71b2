"""Asking an actor: what an asker may rely on.

- A full mailbox refuses the message at once (`MailboxFull`); nothing was done.
- When the deadline passes, or the asker is cancelled, while the message waits for its turn, it is withdrawn and never
  runs (`NeverBegun`).
- When its handler runs already, that is cancelled.  The asker goes on only once the handler has settled: the work was
  finished after all, and its result is returned, or it was cancelled, and the message's kind (`WhenCancelled`) tells
  what that means: rolled back or not (`DeadlineExceeded`), or gone on with by itself (`Unfinished`).
- For that the asker waits, shielded, at most `SETTLE_S`.  A handler that takes longer is still under way, and what
  will come of it is unknown (`OutcomeUnknown`); an asker that was cancelled leaves this in the log.
- An `AgentisoError` of the handler is the asker's, and so is an `OSError`; any other exception crashes the actor, the
  asker gets `ActorGone`, and the supervisor acts.
"""

from __future__ import annotations

import logging
from typing import Final, Generic, Self, TypeVar

import trio

from actors.model.errors import AgentisoError, DeadlineExceeded, NeverBegun, OutcomeUnknown, Unfinished
from actors.runtime.mailbox import Envelope, Mailbox, Message, Reply, WhenCancelled

R = TypeVar("R")
T = TypeVar("T")
log = logging.getLogger("agentiso.actors")
SETTLE_S: Final = 30.0
"""Longer than any single revert step of a handler; beyond it the asker is released and told so."""


class ActorRef(Generic[R]):
    """A handle to an actor; stays valid across its restarts."""

    def __init__(self, name: str, mailbox: Mailbox) -> None:
        self.name = name
        self._mailbox = mailbox
        self.stopped = trio.Event()

    @classmethod
    def gone(cls, name: str, reason: str) -> Self:
        """Return a handle to an actor that does not run."""
        mailbox = Mailbox()
        mailbox.close(reason)
        return cls(name, mailbox)

    @property
    def alive(self) -> bool:
        """Whether the actor accepts messages."""
        return not self._mailbox.is_closed

    async def ask(self, message: Message[T], *, deadline_s: float | None = None) -> T:
        """Have a message handled and return its result; see the module's text for what an asker may rely on."""
        envelope, kind = Envelope(message), type(message)
        reply, limit_s = envelope.reply, kind.DEADLINE_S if deadline_s is None else deadline_s
        self._mailbox.put(self.name, envelope)
        try:
            with trio.move_on_after(limit_s):
                await reply.settled.wait()
        finally:
            if not reply.settled.is_set():
                await self._give_up(reply, kind.__name__)
        what = f"{self.name} did not finish {kind.__name__} within {limit_s:g} s"
        if late := _lateness(reply, kind.WHEN_CANCELLED, what):
            raise late
        if reply.error is not None:
            raise reply.error
        result: T = reply.result
        return result

    async def _give_up(self, reply: Reply, what: str) -> None:
        """Withdraw a message that has not begun; have one that has be cancelled, and wait for what comes of that."""
        if not reply.begun:
            reply.withdrawn = True
            return
        reply.scope.cancel(reason="the asker gave up")
        with trio.CancelScope(shield=True, deadline=trio.current_time() + SETTLE_S):
            await reply.settled.wait()
        if not reply.settled.is_set():
            log.error("%s still works on %s, %.0f s after its asker gave up", self.name, what, SETTLE_S)


def _lateness(reply: Reply, fate: WhenCancelled, what: str) -> AgentisoError | None:
    """Return the error of a message that was not answered in time: what of it was done, and what was not."""
    if reply.withdrawn:
        return NeverBegun(f"{what}: other requests came first, and nothing of it was done.")
    if not reply.settled.is_set():
        return OutcomeUnknown(
            f"{what}, and is not done with cancelling it {SETTLE_S:.0f} s later: it is still under way and its outcome "
            "is unknown."
        )
    if not reply.cancelled:
        return None
    late = Unfinished if fate is WhenCancelled.GOES_ON else DeadlineExceeded
    return late(f"{what}; {fate.value}.")
