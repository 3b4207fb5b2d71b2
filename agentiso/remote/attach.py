"""Attaching to the running supervisor of a state directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from actors.messages import RegistryRef
from actors.settings import Settings
from agentiso.daemon import LIBRARY_SOCKET, connect
from agentiso.remote.client import open_remote


@asynccontextmanager
async def attach(settings: Settings, *, keep: bool) -> AsyncIterator[tuple[RegistryRef, Settings]]:
    """Yield the registry of the supervisor of a state directory, started if none runs, and the settings it has."""
    stream = await connect(settings, socket=LIBRARY_SOCKET)
    async with open_remote(stream, keep=keep) as (registry, theirs):
        yield registry, theirs
