"""Real registries and workspaces without machines: records of workspaces that are stopped."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
from mcp import Client as McpClient

from actors import record as records
from actors.lifecycle import State
from actors.machine.image import BootImage
from actors.model import Lifetime
from actors.settings import Settings
from actors.supervisor import open_supervisor
from agentiso.gate import Gate
from agentiso.mcp.calls import ERROR_META
from agentiso.mcp.server import make_server
from agentiso.sessions import Client
from agentiso.system import System

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
