"""Subscriptions to resources, in both eras of the protocol: who is told of what, how often, and who is not."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx2
import mcp_types as types
import pytest
import trio
from mcp import Client as McpClient
from mcp.client.streamable_http import streamable_http_client
from mcp.server.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp.shared.exceptions import MCPError
from trio.testing import lockstep_stream_pair

from actors.model.settings import Settings
from agentiso.access.gate import Gate
from agentiso.library.system import System
from agentiso.mcp import subscriptions
from agentiso.mcp.http import make_http_app, serve_http
from agentiso.mcp.server import make_server, serve_connection
from agentiso.mcp.watches import INTERVAL_S
from agentiso.protocol.sessions import Client
from tests.standins import Caller, caller, open_stopped

# The SDK's client discourages what only the handshake era has.
pytestmark = pytest.mark.filterwarnings("ignore:resources/:mcp.shared.exceptions.MCPDeprecationWarning")
LIMIT_S = 30
ROOT = "agentiso://workspaces"
ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    async with open_stopped(Settings(state_dir=tmp_path), {"mine": "ann", "spare": "ann", "other": "bob"}) as opened:
        yield opened


@pytest.fixture
async def gate(system: System) -> Gate:
    return Gate(system.settings)


@attrs.frozen
class Told:
    """A client of one era and what it is told."""

    client: McpClient
    next_uri: Callable[[], Awaitable[str]]


@asynccontextmanager
async def subscription(client: McpClient, mode: str, *uris: str) -> AsyncIterator[Any]:
    """Subscribe in the way of an era; the stateless one's stream is yielded."""
    if mode == "legacy":
        for uri in uris:
            await client.session.subscribe_resource(uri)
        yield None
    else:
        async with client.listen(resource_subscriptions=uris) as stream:
            yield stream


@asynccontextmanager
async def subscribed(system: System, gate: Gate, mode: str, *uris: str, session: str = "ann") -> AsyncIterator[Told]:
    """Yield a client that is subscribed to resources."""
    async with told(mode, uris, lambda **options: caller(system, gate, session, **options)) as made:
        yield made


@asynccontextmanager
async def told(mode: str, uris: tuple[str, ...], open_caller: Callable[..., Any]) -> AsyncIterator[Told]:
    sending, receiving = trio.open_memory_channel[str](100)

    async def take(message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            sending.send_nowait(str(message.params.uri))

    async with (
        open_caller(mode=mode, message_handler=take) as made,
        subscription(made.client, mode, *uris) as stream,
    ):

        async def next_uri() -> str:
            event = await anext(stream)
            assert isinstance(event, ResourceUpdated)
            return event.uri

        yield Told(made.client, receiving.receive if stream is None else next_uri)


async def change(system: System, workspace: str, number: int) -> None:
    """Change what is told of a workspace, but not in the list."""
    await (await system.get(workspace)).set_lifetime(ttl_s=number * 1000)


@ERAS
async def test_a_server_says_that_its_resources_can_be_subscribed_to(system: System, gate: Gate, mode: str) -> None:
    with trio.fail_after(LIMIT_S):
        async with caller(system, gate, "ann", mode=mode) as ann:
            resources = ann.client.server_capabilities.resources
            assert resources is not None
            assert resources.subscribe


@ERAS
async def test_a_change_of_a_workspace_is_told_to_those_who_watch_it_or_the_list(
    system: System, gate: Gate, mode: str
) -> None:
    with trio.fail_after(LIMIT_S):
        async with (
            subscribed(system, gate, mode, f"{ROOT}/mine") as one,
            subscribed(system, gate, mode, f"{ROOT}/other", session="bob") as another,
            subscribed(system, gate, mode, ROOT, session="bob") as all_of_them,
        ):
            await change(system, "mine", 1)
            assert await one.next_uri() == f"{ROOT}/mine"
            await (await system.get("mine")).destroy()
            assert await one.next_uri() == f"{ROOT}/mine"
            assert await all_of_them.next_uri() == ROOT
            await change(system, "other", 80)
            assert await another.next_uri() == f"{ROOT}/other"


@ERAS
async def test_the_tree_is_told_of_what_stands_in_it_and_not_of_others(system: System, gate: Gate, mode: str) -> None:
    with trio.fail_after(LIMIT_S):
        async with subscribed(system, gate, mode, f"{ROOT}/mine/tree", f"{ROOT}/spare/tree") as ann:
            await change(system, "spare", 80)
            assert await ann.next_uri() == f"{ROOT}/spare/tree"
            await (await system.get("mine")).destroy()
            assert await ann.next_uri() == f"{ROOT}/mine/tree"


@ERAS
@pytest.mark.parametrize(
    ("uri", "why"),
    [
        (f"{ROOT}/other", "belongs to session 'bob'"),
        (f"{ROOT}/other/tree", "belongs to session 'bob'"),
        (f"{ROOT}/other/jobs/1", "belongs to session 'bob'"),
        (f"{ROOT}/nothing", "There is no workspace 'nothing'"),
        (f"{ROOT}/mine/nothing", "There is no resource"),
        (f"{ROOT}/mine/console", "nothing tells when a log grows"),
        (f"{ROOT}/mine/qemu-log", "nothing tells when a log grows"),
        (f"{ROOT}/mine/jobs/1", "is stopped"),
    ],
)
async def test_what_cannot_be_subscribed_to_is_refused_with_the_reason(
    system: System, gate: Gate, mode: str, uri: str, why: str
) -> None:
    with trio.fail_after(LIMIT_S):
        async with caller(system, gate, "ann", mode=mode) as ann:
            with pytest.raises(MCPError, match=why) as refused:
                async with subscription(ann.client, mode, uri):
                    pass
        assert refused.value.error.code == types.INVALID_PARAMS
        assert refused.value.error.data == {"uri": uri}


async def test_a_stream_names_what_it_will_tell_of(system: System, gate: Gate) -> None:
    with trio.fail_after(LIMIT_S):
        async with caller(system, gate, "ann") as ann:
            asked = [f"{ROOT}/mine", f"{ROOT}/other", f"{ROOT}/mine/console"]
            async with ann.client.listen(resource_subscriptions=asked, resources_list_changed=True) as stream:
                assert stream.honored.resource_subscriptions == [f"{ROOT}/mine"]
                await (await system.get("spare")).destroy()
                assert await anext(stream) == ResourcesListChanged()


@ERAS
async def test_a_workspace_that_becomes_anothers_is_told_once_and_never_again(
    system: System, gate: Gate, mode: str
) -> None:
    with trio.fail_after(LIMIT_S):
        async with subscribed(system, gate, mode, f"{ROOT}/mine", f"{ROOT}/spare") as ann:
            await system.adopt(await system.get("mine"), "bob")
            assert await ann.next_uri() == f"{ROOT}/mine"
            await change(system, "mine", 80)
            for port in (81, 82):
                # The second comes later than another one of the first workspace would.
                await change(system, "spare", port)
                assert await ann.next_uri() == f"{ROOT}/spare"


async def test_who_unsubscribes_is_told_no_more(system: System, gate: Gate) -> None:
    with trio.fail_after(LIMIT_S):
        async with subscribed(system, gate, "legacy", f"{ROOT}/mine", f"{ROOT}/spare") as ann:
            await ann.client.session.unsubscribe_resource(f"{ROOT}/mine")
            await ann.client.session.unsubscribe_resource(f"{ROOT}/never")
            await change(system, "mine", 80)
            await change(system, "spare", 81)
            assert await ann.next_uri() == f"{ROOT}/spare"


@ERAS
async def test_a_session_has_a_limit_and_gets_its_room_back(
    system: System, gate: Gate, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "MAX_SUBSCRIPTIONS", 1)
    server = make_server(system, gate, Client("ann", "memory"))
    with trio.fail_after(LIMIT_S):
        for _ in range(2):
            # What is refused takes nothing of it, and all that a connection has is given back at its end.
            async with McpClient(server, mode=mode, raise_exceptions=True) as client:
                with pytest.raises(MCPError, match="There is no workspace"):
                    async with subscription(client, mode, f"{ROOT}/nothing"):
                        pass
                async with subscription(client, mode, f"{ROOT}/mine"):
                    with pytest.raises(MCPError, match="has 1 subscriptions"):
                        async with subscription(client, mode, f"{ROOT}/spare"):
                            pass


async def test_a_client_that_does_not_read_keeps_nobody_waiting(system: System, gate: Gate) -> None:
    client, served = lockstep_stream_pair()

    async def say(method: str, **body: Any) -> None:
        await client.send_all(json.dumps({"jsonrpc": "2.0", "method": method, **body}).encode() + b"\n")

    with trio.fail_after(LIMIT_S):
        async with (
            trio.open_nursery() as nursery,
            aclosing(lines(client)) as incoming,
            subscribed(system, gate, "auto", ROOT, session="bob") as other,
        ):
            stream: Any = served
            nursery.start_soon(serve_connection, make_server(system, gate), stream)
            about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
            await say("initialize", id=1, params=about)
            await anext(incoming)
            await say("notifications/initialized")
            await say("resources/subscribe", id=2, params={"uri": f"{ROOT}/mine"})
            assert json.loads(await anext(incoming))["id"] == 2
            for port in range(80, 90):
                # Nothing of this is read by the first client, and the second one is told all the same.
                await change(system, "mine", port)
            await (await system.get("spare")).destroy()
            assert await other.next_uri() == ROOT
            for _ in range(2):
                # What got stuck, and what came of all that happened meanwhile.
                assert json.loads(await anext(incoming))["params"] == {"uri": f"{ROOT}/mine"}
            await client.aclose()


async def lines(stream: trio.abc.ReceiveStream) -> AsyncGenerator[bytes, None]:
    buffer = b""
    while data := await stream.receive_some():
        *whole, buffer = (buffer + bytes(data)).split(b"\n")
        for line in whole:
            yield line


@ERAS
@pytest.mark.filterwarnings("ignore:Async generator 'http(x|core)2:ResourceWarning")
async def test_clients_over_http_are_told_and_share_nothing_but_the_server(
    system: System, gate: Gate, mode: str
) -> None:
    app = make_http_app(make_server(system, gate), gate, system.settings.http)

    @asynccontextmanager
    async def over_http(session: str, **options: Any) -> AsyncIterator[Caller]:
        headers = {"Authorization": f"Bearer {gate.sessions.open(session)}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=LIMIT_S) as http,
            McpClient(streamable_http_client(url, http_client=http), **options) as client,
        ):
            yield Caller(client)

    async def is_told(client: Told, workspace: str) -> None:
        """Change a workspace until its change is told: what comes before a client's stream is open is lost."""
        for number in itertools.count(1):
            await change(system, workspace, number)
            with trio.move_on_after(INTERVAL_S):
                assert await client.next_uri() == f"{ROOT}/{workspace}"
                return

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(serve_http, app, "127.0.0.1:0")
            uris = (f"{ROOT}/mine",), (f"{ROOT}/other",)
            async with (
                told(mode, uris[0], partial(over_http, "ann")) as ann,
                told(mode, uris[1], partial(over_http, "bob")) as bob,
            ):
                await is_told(ann, "mine")
                await is_told(bob, "other")
                with pytest.raises(MCPError, match="belongs to session 'bob'"):
                    async with subscription(ann.client, mode, f"{ROOT}/other"):
                        pass
            nursery.cancel_scope.cancel()
