"""The client's side of the library's wire: references to actors that live in the supervisor.

What an asker may rely on is what `actors.runtime` promises, and this: when the supervisor ends, whoever waits gets
`SupervisorGone`; the outcome is unknown then.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import attrs
import trio

from actors.machine.guest.jobs import Window
from actors.model.errors import AgentisoError, OutcomeUnknown, RemoteProtocolError, SupervisorGone
from actors.runtime import SETTLE_S, ActorRef, Mailbox, Message, open_plain_nursery
from agentiso.protocol.carry import dismantle, live_kind, typed_error, typed_result
from agentiso.protocol.frames import (
    REGISTRY,
    Ask,
    Bye,
    Called,
    Cancel,
    Cancelled,
    Consumed,
    Done,
    Failed,
    Frame,
    Piece,
    Wanted,
)
from agentiso.protocol.link import Link

T = TypeVar("T")
GRACE_S: Final = SETTLE_S + 15.0
"""Beyond its own deadline the supervisor waits so long for a handler to settle; one that is later is not well."""
LEAVE_S: Final = 130.0
"""A little longer than the supervisor takes at most to destroy what this client made."""


@asynccontextmanager
async def open_remote(stream: trio.abc.Stream) -> AsyncIterator[ActorRef[Any]]:
    """Yield the registry of the supervisor at the other end of a stream, which has welcomed this client."""
    connection = Connection(stream)
    async with stream, connection.link.sending() as nursery:
        # Shielded: a cancelled caller still waits for what is to be rolled back and destroyed.
        receiving = trio.CancelScope(shield=True)
        nursery.start_soon(connection.run, receiving)
        try:
            yield connection.registry
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LEAVE_S):
                await connection.leave()
            receiving.cancel(reason="the client leaves")


@attrs.define(eq=False)
class _Pending:
    """An ask that was sent, and its outcome."""

    kind: type[Message[Any]]
    live: dict[str, Any]
    nursery: trio.Nursery
    settled: trio.Event = attrs.field(factory=trio.Event)
    result: Any = None
    error: AgentisoError | None = None
    fault: Exception | None = None
    """What the caller's own callback or contents raised."""
    cancelled: bool = False

    def settle(self, *, result: Any = None, error: AgentisoError | None = None) -> None:
        if not self.settled.is_set():
            self.result, self.error = result, error
            self.settled.set()


class Connection:
    """All asks of one stream, side by side."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.link = Link(stream, export=_nothing_to_export, resolve=self._resolve)
        self._numbers = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        self._refs: dict[int, RemoteRef] = {}
        self._over: AgentisoError | None = None
        self._ended = trio.Event()

    @property
    def alive(self) -> bool:
        """Whether the supervisor is there."""
        return self._over is None

    @property
    def registry(self) -> RemoteRef:
        """The registry, which every client knows."""
        return self._resolve(REGISTRY)

    async def ask(self, key: int, message: Message[Any], deadline_s: float) -> Any:
        """Have an actor of the supervisor handle a message."""
        if self._over is not None:
            raise self._over
        fields, live = dismantle(message)
        number = next(self._numbers)
        kinds = {name: kind for name, value in live.items() if (kind := live_kind(value))}
        for name, value in live.items():
            if isinstance(value, Window):
                value.bind(functools.partial(self._consumed, number, name))
        async with open_plain_nursery() as nursery:
            pending = _Pending(type(message), live, nursery)
            await self.link.send(Ask(number, key, type(message).__name__, fields, kinds, deadline_s))
            # It may have waited behind others, and what settles asks at the end knows only those that are pending.
            if self._over is not None:
                raise self._over
            self._pending[number] = pending
            try:
                with trio.move_on_after(deadline_s + GRACE_S):
                    await pending.settled.wait()
            finally:
                if not pending.settled.is_set():
                    await self._retract(number, pending)
                del self._pending[number]
                nursery.cancel_scope.cancel(reason="the ask is settled")
        if pending.fault is not None:
            raise pending.fault
        if pending.error is not None:
            raise pending.error
        if pending.cancelled:
            raise OutcomeUnknown(f"{pending.kind.__name__} was cancelled, and what came of it was not said.")
        if not pending.settled.is_set():
            raise SupervisorGone(
                f"The supervisor did not answer {pending.kind.__name__}; the outcome is unknown.",
                remedy="See the daemon.log of its state directory.",
            )
        return typed_result(pending.kind, pending.result)

    async def run(self, scope: trio.CancelScope) -> None:
        """Handle what the supervisor sends until it is gone, or the scope is cancelled."""
        over: AgentisoError = SupervisorGone(
            "The supervisor ended; the outcome of what was under way is unknown.",
            remedy="Attach again: the next supervisor adopts the machines.",
        )
        try:
            with scope:
                while (frame := await self.link.receive()) is not None and not isinstance(frame, Bye):
                    self._handle(frame)
        except RemoteProtocolError as error:
            over = error
        finally:
            self._over = over
            for pending in self._pending.values():
                pending.settle(error=over)
            self._ended.set()

    async def leave(self) -> None:
        """Say goodbye and wait until the supervisor has done what is to be done at the end."""
        if self._over is None:
            self.link.send_nowait(Bye())
            await self._ended.wait()

    async def _retract(self, number: int, pending: _Pending) -> None:
        self.link.send_nowait(Cancel(number))
        with trio.CancelScope(shield=True, deadline=trio.current_time() + GRACE_S):
            await pending.settled.wait()

    def _handle(self, frame: Frame) -> None:
        match frame:
            case Done(ask, result) if ask in self._pending:
                self._pending[ask].settle(result=result)
            case Failed(ask, error) if ask in self._pending:
                self._pending[ask].settle(error=typed_error(error))
            case Cancelled(ask) if ask in self._pending:
                self._pending[ask].cancelled = True
                self._pending[ask].settle()
            case Called(ask, field, arguments) if ask in self._pending:
                self._call(ask, self._pending[ask], field, arguments)
            case Wanted(ask, field) if ask in self._pending:
                pending = self._pending[ask]
                pending.nursery.start_soon(self._give, ask, pending, field)

    def _call(self, ask: int, pending: _Pending, field: str, arguments: list[Any]) -> None:
        if pending.fault is not None:
            return
        if inspect.iscoroutinefunction(pending.live[field]):
            pending.nursery.start_soon(self._fill, ask, pending, field, arguments)
            return
        try:
            pending.live[field](*arguments)
        except Exception as error:  # noqa: BLE001 - it is the caller's own, and raised to the caller
            pending.fault = error
            self.link.send_nowait(Cancel(ask))

    async def _fill(self, ask: int, pending: _Pending, field: str, arguments: list[Any]) -> None:
        """Have the caller's consumer take what came, then have more sent."""
        try:
            await pending.live[field](*arguments)
        except Exception as error:  # noqa: BLE001 - it is the caller's own, and raised to the caller
            pending.fault = error
            await self.link.send(Cancel(ask))
        else:
            await self.link.send(Consumed(ask, field, 1))

    async def _give(self, ask: int, pending: _Pending, field: str) -> None:
        """Send the next piece of the caller's contents."""
        contents = pending.live[field] = aiter(pending.live[field])
        try:
            data = await anext(contents, None)
            if data is not None:
                data = bytes(memoryview(data))
        except Exception as error:  # noqa: BLE001 - it is the caller's own, and raised to the caller
            pending.fault = error
            await self.link.send(Piece(ask, field, None, f"{type(error).__name__}: {error}"))
        else:
            await self.link.send(Piece(ask, field, data))

    async def _consumed(self, ask: int, field: str, size: int) -> None:
        await self.link.send(Consumed(ask, field, size))

    def _resolve(self, key: int) -> RemoteRef:
        return self._refs.setdefault(key, RemoteRef(self, key))


class RemoteRef(ActorRef[Any]):
    """A handle to an actor of the supervisor."""

    def __init__(self, connection: Connection, key: int) -> None:
        super().__init__(f"actor {key}", Mailbox(0))
        self._connection = connection
        self._key = key

    @property
    def alive(self) -> bool:
        """Whether the supervisor is there."""
        return self._connection.alive

    async def ask(self, message: Message[T], *, deadline_s: float | None = None) -> T:
        """Have a message handled and return its result."""
        limit = type(message).DEADLINE_S if deadline_s is None else deadline_s
        result: T = await self._connection.ask(self._key, message, limit)
        return result


def _nothing_to_export(value: Any) -> int:
    raise TypeError(f"a {type(value).__name__} is not data")
