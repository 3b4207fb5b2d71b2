"""Actors: state owned by one task, reached through a bounded mailbox of typed messages.

What ends an actor is a bug, and nothing else: an ordinary failure of a handler (an `AgentisoError`, or an `OSError`,
which is the host's) is its asker's, and one of a background task is retried or reported, also where Trio delivers it in
an exception group.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from actors.model.errors import ActorGone
from actors.runtime.background import OnFailure, keep_trying
from actors.runtime.mailbox import Envelope, Mailbox, Message
from actors.runtime.nursery import failure_of, ordinary_failure

TEARDOWN_S: Final = 30.0


class Actor:
    """The base of actors: override `handle`, and `setup`, `teardown` and `check` as needed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nursery: trio.Nursery
        """For the readers of connections, which never fail; whatever else runs long belongs into `background`."""

    async def setup(self) -> None:
        """Prepare; runs at each (re)start before the first message."""

    async def teardown(self) -> None:
        """Clean up; always runs, shielded, for at most `TEARDOWN_S`."""

    def check(self, message: Message[Any]) -> None:
        """Raise an `AgentisoError` if ``message`` is not acceptable now; called just before it is handled."""

    async def handle(self, message: Message[Any]) -> Any:
        """Do what ``message`` asks and return its result."""
        raise NotImplementedError

    def background(
        self, name: str, function: Callable[..., Awaitable[object]], *args: Any, on_failure: OnFailure | None = None
    ) -> None:
        """Run a task until it returns or the actor stops.

        An `AgentisoError` or `OSError` of it is logged, and it is run again after a growing pause; with an
        ``on_failure`` it ends and that is told instead.  Anything else crashes this actor.
        """
        self.nursery.start_soon(keep_trying, f"{self.name}: {name}", function, args, on_failure, name=name)

    async def run(self, mailbox: Mailbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Set up, then handle messages until cancelled; an unexpected exception of a handler ends it."""
        try:
            async with trio.open_nursery() as self.nursery:
                await self.setup()
                task_status.started()
                self.nursery.start_soon(self._handle_in_turn, mailbox)
                while True:
                    self.nursery.start_soon(self._serve, await mailbox.beside.receive())
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + TEARDOWN_S):
                await self.teardown()

    async def _handle_in_turn(self, mailbox: Mailbox) -> None:
        while True:
            await self._serve(await mailbox.in_turn.receive())

    async def _serve(self, envelope: Envelope) -> None:
        """Handle one message; whatever happens, its asker learns the outcome."""
        message, reply = envelope.message, envelope.reply
        if not reply.begin():
            return
        what = type(message).__name__
        try:
            with reply.scope:
                self.check(message)
                reply.settle(await self.handle(message))
            # Reached without an outcome only if the handler was cancelled for its asker's sake.
            reply.settle(cancelled=True)
        except BaseException as error:
            if (failure := failure_of(error)) is not None:
                reply.settle(error=failure)
                return
            if ordinary_failure(error, trio.Cancelled) is None:
                gone = ActorGone(f"{self.name} crashed while it handled {what}; the outcome is unknown.")
                gone.__cause__ = error
                reply.settle(error=gone)
            raise
        finally:
            # An outcome is missing only when the whole actor is being cancelled.
            reply.settle(error=ActorGone(f"{self.name} was stopped while it handled {what}; the outcome is unknown."))
