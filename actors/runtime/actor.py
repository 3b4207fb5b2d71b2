"""Actors: state owned by one task, reached through a bounded mailbox of typed messages.

`ActorRef.ask` puts a message into the mailbox and waits for its outcome.  What an asker may rely on:

- A full mailbox refuses the message at once (`MailboxFull`); nothing was done.
- When the deadline passes or the asker is cancelled while the message waits, it is withdrawn and never runs.
- When it runs already, its handler is cancelled and reverts; the asker goes on only once the handler has settled, for
  which it waits, shielded, at most `SETTLE_S`.  So the work is finished or rolled back, never half done.
- An `AgentisoError` of the handler is the asker's; any other exception crashes the actor, the asker gets `ActorGone`,
  and the supervisor acts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, Final, Generic, TypeVar

import attrs
import trio

from actors.model.errors import ActorGone, AgentisoError, DeadlineExceeded, MailboxFull

R = TypeVar("R")
T = TypeVar("T")
SETTLE_S: Final = 30.0
"""Longer than any single revert step of a handler; beyond it the asker is released and told so."""
TEARDOWN_S: Final = 30.0
MAILBOX_SIZE: Final = 256


@attrs.frozen
class Message(Generic[R]):
    """A request that is answered with an ``R``."""

    CONCURRENT: ClassVar[bool] = False
    """Handled beside whatever else is, instead of in turn with the others that are not."""
    DEADLINE_S: ClassVar[float] = 60.0
    """How long an asker waits unless it says otherwise."""


@attrs.define(eq=False)
class Envelope:
    """A message on its way, and its outcome."""

    message: Message[Any]
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    settled: trio.Event = attrs.field(factory=trio.Event)
    started: bool = False
    withdrawn: bool = False
    result: Any = None
    error: BaseException | None = None

    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
        """Record the outcome, once."""
        if not self.settled.is_set():
            self.result, self.error = result, error
            self.settled.set()


class Mailbox:
    """A bounded queue that survives its actor's restarts."""

    def __init__(self, size: int = MAILBOX_SIZE) -> None:
        self._size = size
        self._waiting: deque[Envelope] = deque()
        self._arrival = trio.Event()
        self._closed: str | None = None

    def put(self, name: str, envelope: Envelope) -> None:
        """Add an envelope, or raise `MailboxFull` or `ActorGone`."""
        if self._closed is not None:
            raise ActorGone(f"{name} is gone: {self._closed}.")
        if len(self._waiting) >= self._size:
            raise MailboxFull(f"{name} has {self._size} requests waiting.", remedy="Try again in a moment.")
        self._waiting.append(envelope)
        self._arrival.set()

    async def get(self, wanted: Callable[[Envelope], bool]) -> Envelope:
        """Wait for the first envelope that is ``wanted`` and was not withdrawn; the others stay in their order."""
        while True:
            for envelope in tuple(self._waiting):
                if envelope.withdrawn or wanted(envelope):
                    self._waiting.remove(envelope)
                    if not envelope.withdrawn:
                        return envelope
            self._arrival = trio.Event()
            await self._arrival.wait()

    def look_again(self) -> None:
        """Have `get` ask once more what is wanted."""
        self._arrival.set()

    def close(self, reason: str) -> None:
        """Refuse all that waits and all that comes."""
        self._closed = reason
        while self._waiting:
            self._waiting.popleft().settle(error=ActorGone(f"The actor is gone: {reason}."))

    @property
    def is_closed(self) -> bool:
        """Whether nothing is accepted any more."""
        return self._closed is not None

    def __len__(self) -> int:
        return len(self._waiting)


class ActorRef(Generic[R]):
    """A handle to an actor; stays valid across its restarts."""

    def __init__(self, name: str, mailbox: Mailbox) -> None:
        self.name = name
        self._mailbox = mailbox
        self.stopped = trio.Event()

    @property
    def alive(self) -> bool:
        """Whether the actor accepts messages."""
        return not self._mailbox.is_closed

    async def ask(self, message: Message[T], *, deadline_s: float | None = None) -> T:
        """Have a message handled and return its result; see the module's text for what an asker may rely on."""
        envelope = Envelope(message)
        limit = type(message).DEADLINE_S if deadline_s is None else deadline_s
        self._mailbox.put(self.name, envelope)
        try:
            with trio.move_on_after(limit):
                await envelope.settled.wait()
        finally:
            if not envelope.settled.is_set():
                await self._retract(envelope)
        if not envelope.settled.is_set() or isinstance(envelope.error, trio.Cancelled):
            raise DeadlineExceeded(
                f"{self.name} did not finish {type(message).__name__} within {limit:.0f} s; it was rolled back.",
                remedy="Try again when the host is less busy.",
            )
        if envelope.error is not None:
            raise envelope.error
        result: T = envelope.result
        return result

    async def _retract(self, envelope: Envelope) -> None:
        envelope.withdrawn = True
        if envelope.started:
            envelope.scope.cancel(reason="the asker gave up")
            with trio.CancelScope(shield=True, deadline=trio.current_time() + SETTLE_S):
                await envelope.settled.wait()


class Actor:
    """The base of actors: override `handle`, and `setup`, `teardown` and `check` as needed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nursery: trio.Nursery
        """For long-lived background tasks; cancelled when the actor stops."""

    async def setup(self) -> None:
        """Prepare; runs at each (re)start before the first message."""

    async def teardown(self) -> None:
        """Clean up; always runs, shielded, for at most `TEARDOWN_S`."""

    def check(self, message: Message[Any]) -> None:
        """Raise an `AgentisoError` if ``message`` is not acceptable now; called just before it is handled."""

    async def handle(self, message: Message[Any]) -> Any:
        """Do what ``message`` asks and return its result."""
        raise NotImplementedError

    async def run(self, mailbox: Mailbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Set up, then handle messages until cancelled; an unexpected exception of a handler ends it."""
        under_way: set[Envelope] = set()

        def may_begin(envelope: Envelope) -> bool:
            # Of those that are not concurrent there is one at a time; the others overtake what waits for it.
            return type(envelope.message).CONCURRENT or all(type(each.message).CONCURRENT for each in under_way)

        async def serve(envelope: Envelope) -> None:
            await self._serve(envelope, under_way)
            if not type(envelope.message).CONCURRENT:
                mailbox.look_again()

        try:
            async with trio.open_nursery() as self.nursery:
                await self.setup()
                task_status.started()
                while True:
                    envelope = await mailbox.get(may_begin)
                    envelope.started = True
                    under_way.add(envelope)
                    self.nursery.start_soon(serve, envelope)
        finally:
            for envelope in under_way:
                envelope.settle(error=ActorGone(f"{self.name} stopped before it answered."))
            with trio.CancelScope(shield=True, deadline=trio.current_time() + TEARDOWN_S):
                await self.teardown()

    async def _serve(self, envelope: Envelope, under_way: set[Envelope]) -> None:
        try:
            with envelope.scope:
                self.check(envelope.message)
                envelope.settle(await self.handle(envelope.message))
        except AgentisoError as error:
            envelope.settle(error=error)
        except Exception as error:
            gone = ActorGone(f"{self.name} crashed while it handled {type(envelope.message).__name__}.")
            gone.__cause__ = error
            envelope.settle(error=gone)
            raise
        else:
            if envelope.scope.cancelled_caught:
                envelope.settle(error=DeadlineExceeded(f"{type(envelope.message).__name__} was rolled back."))
        finally:
            # An outcome is missing only when the whole actor is being cancelled.
            envelope.settle(error=ActorGone(f"{self.name} was stopped."))
            under_way.discard(envelope)
