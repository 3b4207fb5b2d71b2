"""The clients of the supervisor's socket: each is greeted, and handed to the service that it asks for."""

from __future__ import annotations

import logging
import os
import time
from typing import Any, Final

import attrs
import trio
from mcp.server.lowlevel import Server

from actors.model.errors import AgentisoError
from actors.registry.ephemeral import Ephemeral
from actors.runtime.unix_sockets import peer_pid
from agentiso.access.gate import Gate
from agentiso.library.system import System
from agentiso.mcp.server import serve_connection
from agentiso.protocol.greeting import Greeting, Welcome, read_greeting, refusal_line, split_opening
from agentiso.protocol.sessions import LOCAL, Client, SessionStore
from agentiso.supervisor import programs
from agentiso.supervisor.live import serve_live

log = logging.getLogger("agentiso.supervisor")
RECEIVE_BYTES: Final = 4096
GREETING_LIMIT_S: Final = 60.0
"""A client that has not said by then who it is would keep the supervisor from ending when it is idle."""


@attrs.frozen
class Caller:
    """A client that was welcomed, or that began with MCP."""

    client: Client
    greeting: Greeting = attrs.field(factory=Greeting)
    said: bytes = b""
    """What it has sent beyond its greeting."""


class Clients:
    """Serves every connection of the socket; what fails in one leaves the others alone."""

    def __init__(self, system: System, gate: Gate, server: Server[Any], facts: dict[str, Any]) -> None:
        self._system = system
        self._gate = gate
        self._server = server
        self._facts = {"started_at": time.time(), **facts}
        self._here: set[trio.SocketStream] = set()

    def __len__(self) -> int:
        """How many are connected."""
        return len(self._here)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve a client until it goes."""
        self._here.add(stream)
        try:
            caller = await receive_caller(stream, self._gate.sessions, self._introduce)
            if caller is not None:
                await self._serve(stream, caller)
        except trio.BrokenResourceError:
            # It has gone before it was served.
            pass
        except Exception:
            log.exception("a client's connection failed; the others go on")
        finally:
            self._here.discard(stream)

    async def _serve(self, stream: trio.SocketStream, caller: Caller) -> None:
        match caller.greeting.service:
            case "mcp":
                with self._gate.presence.here(caller.client.session):
                    await serve_connection(self._server, stream, caller.client, caller.said)
            case "live":
                await serve_live(self._system, stream, self._gate.audit)
            case "library":
                made = None
                if not caller.greeting.keep:
                    made = Ephemeral.of_client(self._system.settings.state_dir, peer_pid(stream))
                await programs.serve_library(stream, self._system.registry, self._gate.audit, made)

    def _introduce(self, greeting: Greeting) -> dict[str, Any]:
        """Return what a service tells before it begins.

        Raises:
            OtherVersion: a program knows other messages than this supervisor.

        """
        match greeting.service:
            case "library":
                programs.check(greeting)
                return programs.introduction(self._system.settings)
            case "status":
                return {**self._facts, "clients": len(self._here) - 1}
        return {}


async def receive_caller(stream: trio.abc.Stream, sessions: SessionStore, introduce: Any) -> Caller | None:
    """Find out who a client is and welcome it, with what ``introduce`` returns for its greeting.

    ``None`` is a client that was refused, and told why, or that has gone.
    """
    said = b""
    with trio.move_on_after(GREETING_LIMIT_S) as limit:
        while (opening := split_opening(said)) is None:
            data = await stream.receive_some(RECEIVE_BYTES)
            if not data:
                return None
            said += data
    if limit.cancelled_caught or opening is None:
        log.info("a client said nothing, or half a greeting, for %.0f s, and is let go", GREETING_LIMIT_S)
        return None
    line, rest = opening
    if not line:
        return Caller(LOCAL, said=rest) if rest else None
    try:
        greeting = read_greeting(line)
        client = Client(
            sessions.authenticate(greeting.token) if greeting.token else LOCAL.session, "unix", greeting.tools
        )
        welcome = Welcome(os.getpid(), client.session, introduce(greeting))
    except AgentisoError as error:
        # Clients of older versions that do not understand the refusal show the end of this log.
        log.warning("a client was refused: %s", error)
        await stream.send_all(refusal_line(line, error))
        return None
    await stream.send_all(welcome.line)
    return Caller(client, greeting, rest)
