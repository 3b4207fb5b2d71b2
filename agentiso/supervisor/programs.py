"""The supervisor's side of the library's wire: each connection asks the actors as if it were in their process."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

import trio
from trio_util import AsyncBool

from actors.machine.guest.jobs import Window
from actors.model.errors import ActorGone, AgentisoError, InvalidArgument, NoCapacity, RemoteProtocolError
from actors.model.info import LIBRARY, WorkspaceInfo
from actors.model.settings import Settings
from actors.registry import messages as r
from actors.registry.ephemeral import Ephemeral
from actors.runtime import ActorRef, Message, open_plain_nursery
from agentiso.access.audit import AuditLog, fields_of
from agentiso.protocol.carry import assemble, plain_error, plain_result, plain_settings, vocabulary
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
    Piece,
    Wanted,
)
from agentiso.protocol.greeting import VERSION, Greeting, OtherVersion, difference
from agentiso.protocol.link import Link
from agentiso.protocol.sessions import Client

log = logging.getLogger("agentiso.remote")
END_S: Final = 120.0
PROGRAM: Final = Client(LIBRARY, "library")


def check(greeting: Greeting) -> None:
    """Raise `OtherVersion` unless a program knows the same messages and results as this supervisor."""
    if greeting.vocabulary != vocabulary():
        raise OtherVersion(
            f"The running supervisor (agentiso {VERSION}) is {difference(VERSION, greeting.version)} this program "
            f"(agentiso {greeting.version:.40}): they do not ask and answer in the same words."
        )


def introduction(settings: Settings) -> dict[str, Any]:
    """Return what a program is told when it is welcomed."""
    return {"settings": plain_settings(settings)}


async def serve_library(
    stream: trio.abc.Stream, registry: r.RegistryRef, audit: AuditLog, made: Ephemeral | None
) -> None:
    """Serve one connection until its client leaves or is gone; then end what it made, unless ``made`` is ``None``.

    When the supervisor ends first, or cuts the client off, that stays noted: its program lives, may attach again, and
    what it made is destroyed once it is dead.  The audit log tells of each message.
    """
    async with stream:
        await _Connection(stream, registry, audit, made).run()


class _Connection:
    def __init__(
        self, stream: trio.abc.Stream, registry: r.RegistryRef, audit: AuditLog, made: Ephemeral | None
    ) -> None:
        self._registry = registry
        self._audit = audit
        self._found: WeakKeyDictionary[ActorRef[Any], r.Found] = WeakKeyDictionary()
        self._link = Link(stream, export=self._export, resolve=self._resolve)
        self._actors: dict[int, ActorRef[Any]] = {REGISTRY: registry}
        self._last_key = REGISTRY
        self._asks: dict[int, trio.CancelScope] = {}
        self._streams: dict[tuple[int, str], _Pieces] = {}
        self._windows: dict[tuple[int, str], Window] = {}
        self._sinks: dict[tuple[int, str], _Sink] = {}
        self._made = made
        self._client_left = False
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        async with self._link.sending():
            try:
                await self._serve()
            except RemoteProtocolError as error:
                log.warning("a client of the library breaks the protocol and is cut off: %s", error)
            if not self._client_left:
                return
            with trio.CancelScope(shield=True, deadline=trio.current_time() + END_S):
                if self._made is not None:
                    await self._made.end_all(self._registry)
                with contextlib.suppress(NoCapacity):
                    self._link.send_nowait(Bye())
                    await self._link.flush()

    async def _serve(self) -> None:
        """Handle frames until the client leaves; what it still asks is cancelled then."""
        with self._scope:
            async with open_plain_nursery() as asks:
                while True:
                    match await self._link.receive():
                        case Ask() as ask:
                            scope = self._asks[ask.ask] = trio.CancelScope()
                            asks.start_soon(self._answer, ask, scope)
                        case Cancel(number):
                            if number in self._asks:
                                self._asks[number].cancel(reason="the asker gave up")
                        case Piece(number, field) as piece:
                            if (number, field) in self._streams:
                                self._streams[number, field].put(piece)
                        case Consumed() as consumed:
                            self._consumed(asks, consumed)
                        case None | Bye():
                            self._client_left = True
                            self._scope.cancel(reason="the client left")
                            return
                        case frame:
                            raise RemoteProtocolError(f"A client sent {type(frame).__name__}.")

    def _consumed(self, asks: trio.Nursery, consumed: Consumed) -> None:
        place = consumed.ask, consumed.field
        if place in self._sinks:
            self._sinks[place].taken()
        if place in self._windows:
            asks.start_soon(self._windows[place].consumed, consumed.size)

    async def _answer(self, ask: Ask, scope: trio.CancelScope) -> None:
        try:
            with scope:
                message = assemble(ask.kind, ask.fields, {n: self._live(ask.ask, n, k) for n, k in ask.live.items()})
                actor = self._actors.get(ask.to)
                if actor is None:
                    raise ActorGone("The workspace is gone.")
                result = await self._ask(actor, message, ask)
                if self._made is not None:
                    self._made.note(message, result)
                await self._link.send(Done(ask.ask, plain_result(type(message), result)))
            if scope.cancelled_caught:
                await self._link.send(Cancelled(ask.ask))
        except AgentisoError as error:
            await self._link.send(Failed(ask.ask, plain_error(error)))
        finally:
            del self._asks[ask.ask]
            for field in ask.live:
                self._streams.pop((ask.ask, field), None)
                self._windows.pop((ask.ask, field), None)
                self._sinks.pop((ask.ask, field), None)

    async def _ask(self, actor: ActorRef[Any], message: Message[Any], ask: Ask) -> Any:
        """Ask an actor, and note in the audit log what came of it."""
        given = {name: value for name, value in fields_of(message).items() if name not in ask.live}
        with self._audit.call(PROGRAM, ask.kind, given) as entry:
            if (found := self._found.get(actor)) is not None:
                entry.about(found.workspace_id, found.name)
            result = await actor.ask(message, deadline_s=ask.deadline_s)
            self._found |= {found.ref: found for found in _handles(result)}
            match result:
                case r.Found() | WorkspaceInfo():
                    entry.about(result.workspace_id, result.name)
                case r.Made(found) | r.Imported(found):
                    entry.about(found.workspace_id, found.name)
            return result

    def _live(self, number: int, field: str, kind: list[Any]) -> Any:
        match kind:
            case ["call", _]:
                return self._callback(number, field)
            case ["sink", _]:
                sink = self._sinks[number, field] = _Sink(self._link, number, field)
                return sink.give
            case ["window", int(size)]:
                window = self._windows[number, field] = Window(size)
                return window
            case ["stream", _]:
                stream = self._streams[number, field] = _Pieces(self._link, number, field)
                return stream
        raise RemoteProtocolError(f"There is no live value of kind {kind!r:.40}.")

    def _callback(self, number: int, field: str) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            try:
                self._link.send_nowait(Called(number, field, list(arguments)))
            except NoCapacity as error:
                # It is called amid an actor's work, which must not suffer.
                log.warning("a client of the library is cut off: %s", error)
                self._scope.cancel(reason="the client does not read")

        return call

    def _export(self, value: Any) -> int:
        if not isinstance(value, ActorRef):
            raise TypeError(f"a {type(value).__name__} is not data")
        self._actors = {key: actor for key, actor in self._actors.items() if actor.alive}
        for key, actor in self._actors.items():
            if actor is value:
                return key
        self._last_key += 1
        self._actors[self._last_key] = value
        return self._last_key

    def _resolve(self, key: int) -> Any:
        raise RemoteProtocolError(f"A client sent a reference ({key}).")


def _handles(answer: Any) -> tuple[r.Found, ...]:
    """Return the handles of workspaces in an answer."""
    match answer:
        case r.Found():
            return (answer,)
        case r.Made(found) | r.Imported(found):
            return (found,)
        case r.Forked(found):
            return found
    return ()


class _Pieces:
    """Contents that a client has, fetched piece by piece as they are wanted."""

    def __init__(self, link: Link, ask: int, field: str) -> None:
        self._link = link
        self._ask = ask
        self._field = field
        self._give, self._take = trio.open_memory_channel[Piece](1)

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> bytes:
        await self._link.send(Wanted(self._ask, self._field))
        piece = await self._take.receive()
        if piece.fault:
            raise InvalidArgument(
                f"The contents could not be read to their end: {piece.fault}.", remedy="Mend what yields them."
            )
        if not isinstance(piece.data, bytes):
            raise StopAsyncIteration
        return piece.data

    def put(self, piece: Piece) -> None:
        """Take in the piece that was wanted."""
        try:
            self._give.send_nowait(piece)
        except trio.WouldBlock:
            raise RemoteProtocolError("A client sent contents that nobody wanted.") from None


class _Sink:
    """A consumer that a client has: it gets the next piece when it has taken the one before."""

    def __init__(self, link: Link, ask: int, field: str) -> None:
        self._link = link
        self._ask = ask
        self._field = field
        self._taken = AsyncBool()

    async def give(self, *arguments: Any) -> None:
        """Have the client take something; return when it has."""
        self._taken.value = False
        await self._link.send(Called(self._ask, self._field, list(arguments)))
        await self._taken.wait_value(True)

    def taken(self) -> None:
        """Note that it has."""
        self._taken.value = True
