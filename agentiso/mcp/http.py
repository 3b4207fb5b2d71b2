"""MCP over streamable HTTP, for clients that cannot start a program: one daemon serves it beside its Unix socket.

Every request shows the token of a session.  The SDK's guard against DNS rebinding is on: a page in somebody's browser
reaches nothing.  There is no TLS here; a host that is not this one belongs behind a proxy that has it.
"""

from __future__ import annotations

import json
import logging
from typing import Any, Final

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.lowlevel import Server
from mcp.server.transport_security import TransportSecuritySettings

from actors.model.errors import AgentisoError, HostUnfit
from actors.model.settings import Http
from agentiso.access.gate import Gate
from agentiso.protocol.sessions import CLIENT, Client, Unauthorized
from guest.errors import only_error

log = logging.getLogger("agentiso.mcp.http")
PATH: Final = "/mcp"
MAX_BODY_BYTES: Final = 16 * 1024 * 1024
LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


def make_http_app(server: Server[Any], gate: Gate, http: Http) -> Any:
    """Return the ASGI application that serves ``/mcp`` to whoever shows a session's token."""
    hosts = [f"{host}{port}" for host in LOOPBACK for port in ("", ":*")] + list(http.allowed_hosts)
    app = server.streamable_http_app(
        streamable_http_path=PATH,
        max_request_body_size=MAX_BODY_BYTES,
        transport_security=TransportSecuritySettings(
            allowed_hosts=hosts,
            allowed_origins=[f"{scheme}://{host}" for host in hosts for scheme in ("http", "https")],
        ),
    )
    return _Door(app, gate)


class _Door:
    """Lets only sessions in, and says to what is behind it which one it is."""

    def __init__(self, app: Any, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            name = self._gate.sessions.authenticate(_bearer(scope["headers"]))
        except AgentisoError as error:
            await _refuse(send, error)
            return
        # The SDK ties the protocol's own sessions to this user: another's id is of no use.
        user = AuthenticatedUser(AccessToken(token="", client_id=name, scopes=[]))
        profile = "core" if b"tools=core" in scope.get("query_string", b"").split(b"&") else "full"
        with self._gate.presence.here(name):
            await self._app({**scope, "user": user, CLIENT: Client(name, "http", profile)}, receive, send)


def _bearer(headers: list[tuple[bytes, bytes]]) -> str:
    given = [value for key, value in headers if key.lower() == b"authorization"]
    scheme, _, token = given[0].decode("latin-1").partition(" ") if len(given) == 1 else ("", "", "")
    return token.strip() if scheme.lower() == "bearer" else ""


async def _refuse(send: Any, error: AgentisoError) -> None:
    """Say why a client is not let in: it shows no good token, or whether that is good cannot be told now."""
    status = 401 if isinstance(error, Unauthorized) else 503
    if status == 503:
        log.warning("a client cannot be let in: %s", error)
    body = json.dumps({"error": error.code, "error_description": str(error)}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *([(b"www-authenticate", b'Bearer realm="agentiso"')] if status == 401 else []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def serve_http(app: Any, bind: str, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
    """Serve until cancelled; started with the URL that clients use.

    Raises:
        HostUnfit: nothing can listen there.

    """
    config = Config()
    config.bind = [bind]
    config.accesslog, config.errorlog = None, log
    try:
        async with trio.open_nursery() as nursery:
            urls: list[str] = await nursery.start(serve, app, config)
            task_status.started(urls[0] + PATH)
    except (OSError, ExceptionGroup) as caught:
        error = only_error(caught)
        if not isinstance(error, OSError):
            raise
        raise HostUnfit(
            f"HTTP cannot be served on {bind}: {error.strerror or error}.",
            remedy="Choose another HOST:PORT, or port 0 for any free one.",
        ) from error
