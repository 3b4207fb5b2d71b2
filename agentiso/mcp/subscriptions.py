"""Subscriptions: a client is told that a resource has changed, and reads it again.

In the handshake era a client subscribes to one resource after the other and is told on its connection; in the stateless
era it opens a stream for those that it names.  Either way a task per subscription waits for changes and for its client,
so that a client that does not read keeps nobody waiting, and has the latest change still to come when it reads again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

import attrs
import mcp_types as types
import trio
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
)

from actors.model.errors import AgentisoError, InvalidArgument, NoCapacity
from actors.runtime import open_plain_nursery
from agentiso.library.system import System
from agentiso.mcp.calls import client_of
from agentiso.mcp.resources import Resources, place_of, wrong
from agentiso.mcp.uris import ROOT
from agentiso.mcp.watches import INTERVAL_S, JobWatch, RecordWatch, Watch
from agentiso.protocol.sessions import Client

log = logging.getLogger("agentiso.mcp")
MAX_SUBSCRIPTIONS: Final = 256
"""Of one session at the same time, over all its connections; each is a task, and one on a job a request in a guest."""
_STATE: Final = "agentiso.subscriptions"


class Subscriptions:
    """The handlers of one server."""

    def __init__(self, system: System, resources: Resources) -> None:
        self._system = system
        self._resources = resources
        self._counts: Counter[str] = Counter()

    # -- the handshake era

    async def subscribe(self, context: Any, params: types.SubscribeRequestParams) -> types.EmptyResult:
        """Tell a connection of the changes of a resource from now on."""
        uri, mine = str(params.uri), _of_connection(context.session)
        with ExitStack() as counted:
            try:
                watch = await self._begin(client_of(context), uri, counted)
            except AgentisoError as error:
                raise wrong(uri, error) from error
            if uri not in mine:
                mine[uri] = scope = trio.CancelScope()
                counted.callback(_drop, mine, uri, scope)
                tell = partial(context.session.send_resource_updated, uri)
                context.lifespan_context.nursery.start_soon(_serve, uri, scope, watch, tell, counted.pop_all())
        return types.EmptyResult()

    async def unsubscribe(self, context: Any, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
        """Tell a connection of a resource's changes no longer; it may never have been told of any."""
        scope = _of_connection(context.session).pop(str(params.uri), None)
        if scope is not None:
            scope.cancel(reason="the client unsubscribed")
        return types.EmptyResult()

    # -- the stateless era

    async def listen(
        self, context: Any, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        """Tell on this request's stream of the changes of those resources of which the client may be told.

        The acknowledgement names them; if it would name nothing, the request is wrong.
        """
        asked, client = params.notifications, client_of(context)
        bus = InMemorySubscriptionBus()
        with ExitStack() as counted:
            watches, refused = await self._begin_all(client, asked.resource_subscriptions or (), counted)
            others = asked.resources_list_changed or asked.tools_list_changed or asked.prompts_list_changed
            if refused and not watches and not others:
                uri, error = refused.popitem()
                raise wrong(uri, error) from error
            events: list[tuple[Watch, ServerEvent]] = [
                (watch, ResourceUpdated(uri=uri)) for uri, watch in watches.items()
            ]
            if asked.resources_list_changed:
                listing = RecordWatch(self._system, partial(self._resources.listed, context, None))
                await listing.begin()
                events.append((listing, ResourcesListChanged()))
            honoured = asked.model_copy(update={"resource_subscriptions": list(watches)})
            async with open_plain_nursery() as nursery:
                for watch, event in events:
                    nursery.start_soon(_follow, watch, partial(bus.publish, event))
                result = await ListenHandler(bus)(context, params.model_copy(update={"notifications": honoured}))
                nursery.cancel_scope.cancel(reason="the stream is over")
        return result

    async def _begin_all(
        self, client: Client, uris: Iterable[str], counted: ExitStack
    ) -> tuple[dict[str, Watch], dict[str, AgentisoError]]:
        watches: dict[str, Watch] = {}
        refused: dict[str, AgentisoError] = {}
        for uri in dict.fromkeys(uris):
            try:
                watches[uri] = await self._begin(client, uri, counted)
            except AgentisoError as error:
                refused[uri] = error
        return watches, refused

    # -- both

    async def _begin(self, client: Client, uri: str, counted: ExitStack) -> Watch:
        """Return a watch on a resource that has begun, and counts until ``counted`` is closed.

        Raises:
            NotFound: there is no such resource.
            NotOwner: it belongs to another session.
            InvalidArgument: nothing tells when it changes.
            NoCapacity: the session has too many subscriptions.

        """
        if self._counts[client.session] >= MAX_SUBSCRIPTIONS:
            raise NoCapacity(
                f"Session {client.session!r} has {MAX_SUBSCRIPTIONS} subscriptions, which is the limit.",
                remedy="End some of them.",
            )
        self._counts[client.session] += 1
        with ExitStack() as failed:
            failed.callback(self._counts.subtract, [client.session])
            watch = await self._watch(client, uri)
            await watch.begin()
            counted.push(failed.pop_all())
        return watch

    async def _watch(self, client: Client, uri: str) -> Watch:
        resources, system = self._resources, self._system
        if uri == ROOT:
            return RecordWatch(system, partial(resources.list_text, client))
        place = place_of(uri)
        workspace_id = (await resources.find(client, place.workspace)).id
        # By id from now on: the name may come to be another's.
        find = partial(resources.find, client, workspace_id)
        if place.job is not None:
            return JobWatch(system, find, workspace_id, place.job)
        match place.part:
            case "":

                async def info() -> object:
                    # Neither its idleness nor what it occupies is a change that somebody made.
                    return attrs.evolve(await (await find()).info(), idle_s=0.0, disk_used_bytes=None)

                return RecordWatch(system, info, workspace_id)
            case "tree":

                async def tree() -> object:
                    return await resources.tree(await find())

                return RecordWatch(system, tree)
            case _:
                raise InvalidArgument(
                    f"{uri} cannot be subscribed to: nothing tells when a log grows.", remedy="Read it again instead."
                )


async def _follow(watch: Watch, tell: Callable[[], Awaitable[None]]) -> None:
    """Announce each change, with a pause after it, until there can be none any more."""
    while await watch.next():
        await tell()
        await trio.sleep(INTERVAL_S)
    await tell()


async def _serve(
    uri: str, scope: trio.CancelScope, watch: Watch, tell: Callable[[], Awaitable[None]], over: ExitStack
) -> None:
    """Follow a subscription of a connection until it is over, and say so."""
    try:
        with over, scope:
            await _follow(watch, tell)
    except Exception:
        log.exception("a subscription to %s failed; the others go on", uri)


def _of_connection(session: Any) -> dict[str, trio.CancelScope]:
    """Return the subscriptions of the connection that a session stands for; they end with it."""
    # The SDK's connection has both for its handlers' use, who have no other way to it so far.
    connection = session._connection
    if _STATE not in connection.state:
        mine: dict[str, trio.CancelScope] = {}
        connection.state[_STATE] = mine
        connection.exit_stack.callback(_cancel_all, mine)
    found: dict[str, trio.CancelScope] = connection.state[_STATE]
    return found


def _drop(mine: dict[str, trio.CancelScope], uri: str, scope: trio.CancelScope) -> None:
    if mine.get(uri) is scope:
        del mine[uri]


def _cancel_all(scopes: dict[str, trio.CancelScope]) -> None:
    for scope in scopes.values():
        scope.cancel(reason="the connection has ended")
