"""The MCP server over a `System`: the low-level server of the SDK with our own schemas and errors.

Importing this costs about a second, which is why only the daemon does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import mcp_types as types
import trio
from mcp.server.lowlevel import Server
from mcp.server.runner import serve_dual_era_loop
from mcp.server.stdio import stdio_server

from actors.runtime import open_plain_nursery
from agentiso.access.gate import Gate
from agentiso.library.system import System
from agentiso.mcp import prompts
from agentiso.mcp.calls import Calls, Served, client_of
from agentiso.mcp.lines import Lines
from agentiso.mcp.profiles import is_shown
from agentiso.mcp.resources import Resources
from agentiso.mcp.schema import listed_schema
from agentiso.mcp.subscriptions import Subscriptions
from agentiso.mcp.tools import TOOLS, Tool
from agentiso.protocol.sessions import LOCAL, Client

VERSION: Final = "0.1.0"
INSTRUCTIONS: Final = """\
agentiso gives you disposable Linux machines (workspaces) in which you are root and can break nothing else.
Start: workspace_create, then exec and file_* in it. workspace_id takes a name or an id. There is no internet unless \
allow_internet was set at creation.
Go back: before something risky take a snapshot_create and come back with snapshot_restore; running processes come \
back too, any snapshot can be restored, none is lost, and undo takes a restore back. snapshot_diff tells what \
has changed.
Try several ways at once: prepare one workspace, then workspace_fork it with count=N. Every child goes on from the \
same instant, memory and disk, with an identity of its own; the parent runs on. Compare the results, destroy the losers.
Long commands: exec_background starts a job that outlives this conversation, exec_poll reads its output.
Not needed for a while: workspace_suspend keeps all and costs only disk. Not needed any more: workspace_destroy.
When a machine does not answer: workspace_info and workspace_logs. Errors say what to do next.
To read without a tool: agentiso://workspaces, and below it /NAME, /NAME/tree, /NAME/console, /NAME/jobs/ID."""


def make_server(system: System, gate: Gate | None = None, client: Client = LOCAL) -> Server[Any]:
    """Return a server of all tools over a system; ``client`` is who calls where the transport does not say it."""
    rules = gate or Gate(system.settings)
    resources = Resources(system, rules)
    subscriptions = Subscriptions(system, resources)

    @asynccontextmanager
    async def lifespan(_server: Any) -> AsyncIterator[Served]:
        async with open_plain_nursery() as nursery:
            yield Served(client, nursery)
            nursery.cancel_scope.cancel(reason="the connections are over")

    async def list_tools(context: Any, _params: Any) -> types.ListToolsResult:
        asked = client_of(context)
        return types.ListToolsResult(
            tools=[_describe(tool) for tool in TOOLS if not tool.hidden and is_shown(tool, asked)]
        )

    return Server(
        "agentiso",
        version=VERSION,
        instructions=INSTRUCTIONS,
        lifespan=lifespan,
        on_list_tools=list_tools,
        on_call_tool=Calls(system, rules),
        on_list_resources=resources.listed,
        on_list_resource_templates=resources.templates,
        on_read_resource=resources.read,
        on_subscribe_resource=subscriptions.subscribe,
        on_unsubscribe_resource=subscriptions.unsubscribe,
        on_subscriptions_listen=subscriptions.listen,
        on_list_prompts=prompts.listed,
        on_get_prompt=prompts.get,
    )


def _describe(tool: Tool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        description=tool.description,
        input_schema=listed_schema(tool.arguments),
        output_schema=listed_schema(tool.result, closed=False),
        annotations=types.ToolAnnotations(
            read_only_hint=tool.read_only,
            destructive_hint=tool.destructive,
            idempotent_hint=tool.idempotent or tool.read_only,
            open_world_hint=tool.open_world,
        ),
    )


async def serve_connection(
    server: Server[Any], stream: trio.abc.Stream, client: Client = LOCAL, said: bytes = b""
) -> None:
    """Serve one client, of either protocol era, until it closes its end; ``said`` was read of it already."""
    out = _Writer(stream)
    async with (
        stream,
        server.lifespan(server) as served,
        stdio_server(Lines(stream, said, out.write), out) as (reader, writer),  # type: ignore[arg-type]
    ):
        state = attrs.evolve(served, client=client)
        await serve_dual_era_loop(
            server, reader, writer, lifespan_state=state, init_options=server.create_initialization_options()
        )


class _Writer:
    """Lines to a socket, from the SDK and from `Lines`; a client that has gone is noticed by its reader."""

    def __init__(self, stream: trio.abc.SendStream) -> None:
        self._stream = stream
        self._sending = trio.Lock()

    async def write(self, text: str) -> None:
        async with self._sending:
            try:
                await self._stream.send_all(text.encode())
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()
