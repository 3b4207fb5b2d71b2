"""The MCP server over a `System`: the low-level server of the SDK with our own schemas and errors.

Importing this costs about a second, which is why only the daemon does.
"""

from __future__ import annotations

import contextlib
import json
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import mcp_types as types
import trio
from mcp.server.lowlevel import Server
from mcp.server.runner import serve_dual_era_loop
from mcp.server.stdio import stdio_server

from actors.errors import AgentisoError
from actors.messages import OnProgress
from actors.runtime import open_plain_nursery
from agentiso.gate import Gate
from agentiso.mcp.schema import schema_for, structure
from agentiso.mcp.tools import TOOLS, Call, Tool
from agentiso.sessions import CLIENT, LOCAL, Client
from agentiso.system import System

log = logging.getLogger("agentiso.mcp")
MAX_LINE_BYTES: Final = 16 * 1024 * 1024
PROGRESS_BUFFER: Final = 64
VERSION: Final = "0.1.0"
ERROR_META: Final = "agentiso/error"
"""Key of a failed result's ``_meta`` under which programs find the error's code, message and remedy."""
INSTRUCTIONS: Final = """\
agentiso gives you disposable Linux machines (workspaces) in which you are root and can break nothing else.
Workflow: workspace_create, then exec and file_* in it. Before something risky take a snapshot_create and come back \
with snapshot_restore: running processes come back too. To try several ways at once, prepare one workspace, then \
workspace_fork it with count=N: every child goes on from the same instant, memory and disk. Destroy what you no \
longer need. workspace_id takes a name or an id. There is no internet unless allow_internet was set at creation."""


def make_server(system: System, gate: Gate | None = None, client: Client = LOCAL) -> Server[Any]:
    """Return a server of all tools over a system; ``client`` is who calls where the transport does not say it."""
    rules = gate or Gate(system.settings)
    tools = {tool.name: tool for tool in TOOLS}

    @asynccontextmanager
    async def lifespan(_server: Any) -> AsyncIterator[Client]:
        yield client

    async def list_tools(_context: Any, _params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_describe(tool) for tool in TOOLS if not tool.hidden])

    async def call_tool(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        tool = tools.get(params.name)
        if tool is None or (tool.hidden and not client_of(context).is_user):
            known = ", ".join(name for name, tool in tools.items() if not tool.hidden)
            return _error("unknown_tool", f"There is no tool {params.name!r}.", f"There are: {known}.")
        try:
            arguments = structure(tool.arguments, params.arguments or {})
            client = client_of(context)
            rules.admit(client)
            async with _reporting(context.session) as report:
                result = await tool.handler(Call(system, report, rules, client), arguments)
        except AgentisoError as error:
            return _error(error.code, error.message, error.remedy)
        except Exception:
            incident = uuid.uuid4().hex[:8]
            log.exception("incident %s in tool %s", incident, tool.name)
            return _error(
                "internal_error",
                f"Something unexpected failed (incident {incident}).",
                "See the daemon's log.",
            )
        content = attrs.asdict(result)
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=json.dumps(content))], structured_content=content
        )

    return Server(
        "agentiso",
        version=VERSION,
        instructions=INSTRUCTIONS,
        lifespan=lifespan,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def client_of(context: Any) -> Client:
    """Return who sent the request of a context."""
    if context.request is not None:
        client: Client = context.request.scope[CLIENT]
        return client
    of_connection: Client = context.lifespan_context
    return of_connection


@asynccontextmanager
async def _reporting(session: Any) -> AsyncIterator[OnProgress]:
    """Yield a function whose texts go to the client as progress; a slow client misses some."""
    sending, receiving = trio.open_memory_channel[str](PROGRESS_BUFFER)

    def report(text: str) -> None:
        with contextlib.suppress(trio.WouldBlock):
            sending.send_nowait(text)

    async def forward() -> None:
        number = 0
        async for text in receiving:
            number += 1
            await session.report_progress(number, None, text)

    async with open_plain_nursery() as nursery:
        nursery.start_soon(forward)
        yield report
        nursery.cancel_scope.cancel(reason="the call is over")


def _describe(tool: Tool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=schema_for(tool.arguments),
        output_schema=schema_for(tool.result),
        annotations=types.ToolAnnotations(
            read_only_hint=tool.read_only,
            destructive_hint=tool.destructive,
            idempotent_hint=tool.idempotent or tool.read_only,
            open_world_hint=tool.open_world,
        ),
    )


def _error(code: str, message: str, remedy: str) -> types.CallToolResult:
    text = f"{message} {remedy}".strip()
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=f"{code}: {text}")],
        # Not structured content: clients hold that against the tool's output schema, errors or not.
        _meta={ERROR_META: {"code": code, "message": message, "remedy": remedy}},
        is_error=True,
    )


async def serve_connection(
    server: Server[Any], stream: trio.SocketStream, client: Client = LOCAL, said: bytes = b""
) -> None:
    """Serve one client, of either protocol era, until it closes its end; ``said`` was read of it already."""
    async with stream, stdio_server(_Lines(stream, said), _Writer(stream)) as (reader, writer):  # type: ignore[arg-type]
        await serve_dual_era_loop(
            server, reader, writer, lifespan_state=client, init_options=server.create_initialization_options()
        )


class _Lines:
    """A socket's bytes as lines of text, of bounded length."""

    def __init__(self, stream: trio.SocketStream, said: bytes) -> None:
        self._stream = stream
        self._said = said

    async def __aiter__(self) -> AsyncIterator[str]:
        buffer = bytearray()
        while data := self._said or await self._stream.receive_some(65536):
            self._said = b""
            buffer += data
            *lines, rest = buffer.split(b"\n")
            buffer = bytearray(rest)
            for line in lines:
                yield line.decode(errors="replace")
            if len(buffer) > MAX_LINE_BYTES:
                return


class _Writer:
    """Text to a socket; a client that has gone is noticed by its reader."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def write(self, text: str) -> None:
        try:
            await self._stream.send_all(text.encode())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()
