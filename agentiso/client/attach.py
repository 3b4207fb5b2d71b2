"""Attaching to the running supervisor of a state directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from actors.model.settings import Settings
from actors.registry.messages import RegistryRef
from agentiso.client.dialling import connect
from agentiso.client.remote import open_remote
from agentiso.protocol.carry import typed_settings, vocabulary
from agentiso.protocol.greeting import Greeting


@asynccontextmanager
async def attach(settings: Settings, *, keep: bool) -> AsyncIterator[tuple[RegistryRef, Settings]]:
    """Yield the registry of the supervisor of a state directory, started if none runs, and the settings it has.

    Unless ``keep`` it destroys at the end, however this side ends, what was made through this connection.
    """
    stream, welcome = await connect(settings, Greeting("library", vocabulary=vocabulary(), keep=keep))
    async with open_remote(stream) as registry:
        yield registry, typed_settings(welcome.about["settings"])
