"""Attaching to the running supervisor of a state directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from actors.model.settings import Settings
from actors.registry.messages import RegistryRef
from agentiso.client.dialling import connect, until_answered
from agentiso.client.remote import open_remote
from agentiso.protocol.places import LIBRARY_SOCKET


@asynccontextmanager
async def attach(settings: Settings, *, keep: bool) -> AsyncIterator[tuple[RegistryRef, Settings]]:
    """Yield the registry of the supervisor of a state directory, started if none runs, and the settings it has."""
    async with AsyncExitStack() as stack:

        async def greet() -> tuple[RegistryRef, Settings]:
            stream = await connect(settings, socket=LIBRARY_SOCKET)
            return await stack.enter_async_context(open_remote(stream, keep=keep))

        yield await until_answered(greet)
