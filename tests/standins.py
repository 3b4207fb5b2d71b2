"""Real registries and workspaces without machines: records of workspaces that are stopped."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
from mcp import Client as McpClient
from trio.testing import memory_stream_pair

from actors.model import record as records
from actors.model.image import BootImage
from actors.model.info import Lifetime
from actors.model.settings import Settings
from actors.model.states import State
from actors.registry.supervisor import open_supervisor
from agentiso.access.gate import Gate
from agentiso.client.tools import META
from agentiso.library.system import System
from agentiso.mcp.calls import ERROR_META
from agentiso.mcp.server import make_server, serve_connection
from agentiso.protocol.sessions import Client

IMAGE = BootImage("standin", "0" * 64, Path("kernel"), Path("initrd"), Path("layer"), Path("root"))


async def load_image(_name: str) -> BootImage:
    return IMAGE


@asynccontextmanager
async def open_stopped(settings: Settings, owners: Mapping[str, str]) -> AsyncIterator[System]:
    """Yield a system whose workspaces, by name with their owners, are stopped and were never started."""
    for name, owner in owners.items():
        record = records.new_record(
            name=name, image=IMAGE, shape=settings.shape, network="none", allow_internet=False, channel="serial",
            accelerator="tcg", lifetime=Lifetime(), owner=owner,
        )  # fmt: skip
        records.directory_of(settings.state_dir, record.id).mkdir(parents=True)
        records.save(settings.state_dir, attrs.evolve(record, state=State.STOPPED))
    async with open_supervisor(settings, load_image, keep=True) as registry:
        yield System(registry, settings)


class Caller:
    """An MCP client of a session, whose failures are told by their codes."""

    def __init__(self, client: McpClient) -> None:
        self.client = client

    async def __call__(self, tool: str, **arguments: Any) -> Any:
        result = await self.client.call_tool(tool, arguments)
        assert not result.is_error, result.content
        return result.structured_content

    async def refused(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call what is to fail and return its error: code, message, remedy, facts."""
        result = await self.client.call_tool(tool, arguments)
        assert result.is_error, result.structured_content
        assert result.meta is not None
        error: dict[str, Any] = result.meta[ERROR_META]
        return error


@asynccontextmanager
async def caller(system: System, gate: Gate, session: str, **options: Any) -> AsyncIterator[Caller]:
    """Yield an MCP client in memory that is a session; its presence is up to the test."""
    server = make_server(system, gate, Client(session, "memory"))
    async with McpClient(server, raise_exceptions=True, **options) as client:
        yield Caller(client)


class Wire:
    """A client that speaks in lines, so that its messages and the answers are those of a real connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._said = bytearray()

    async def send(self, line: bytes) -> None:
        await self._stream.send_all(line + b"\n")

    async def receive(self) -> dict[str, Any]:
        while b"\n" not in self._said:
            data = await self._stream.receive_some()
            assert data, "the connection was closed"
            self._said += data
        line, _, self._said = self._said.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Make a request and return the answer, a result or an error."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": META}}
        await self.send(json.dumps(request).encode())
        return await self.receive()


@asynccontextmanager
async def wired(system: System) -> AsyncIterator[Wire]:
    """Yield a client on a connection that is served as the supervisor's are."""
    client, server = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, make_server(system), server)
        async with client:
            yield Wire(client)
