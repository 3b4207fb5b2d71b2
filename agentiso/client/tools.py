"""A small client of the supervisor's socket: one tool call, in the stateless protocol era (MCP 2026-07-28).

It exists because importing the SDK would cost each command about a second.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio

from actors.model.errors import AgentisoError, InvalidArgument, SupervisorEnding, SupervisorGone
from actors.model.settings import Settings
from actors.model.text import plain, shown
from actors.runtime import open_plain_nursery
from agentiso.client.dialling import connect
from agentiso.client.silence import watch
from agentiso.protocol.greeting import VERSION, Greeting, Welcome, difference
from agentiso.protocol.sessions import SessionStore

META: Final = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "agentiso-cli", "version": VERSION},
    "io.modelcontextprotocol/clientCapabilities": {},
}


UNKNOWN_TOOL: Final = "unknown_tool"
LOOK: Final = "Look with `agentiso list`, `info` or `jobs` before you repeat it."
LOOKS: Final = {
    "workspace_export": "Look whether the file is there before you repeat it: it has its name only once it is whole.",
    "workspace_import": "Look with `agentiso list` before you repeat it.",
}


class ToolFailed(AgentisoError):
    """The supervisor answered with an error, whose code and remedy are kept."""

    usual_remedy = "See the daemon's log."


async def call(
    settings: Settings,
    config: Path | None,
    tool: str,
    arguments: dict[str, Any],
    report: Callable[[str], None],
    session: str | None = None,
) -> dict[str, Any]:
    """Call a tool and return its structured result; ``report`` gets its progress.

    The call is the user's, or that of a session which exists.

    Raises:
        InvalidArgument: an argument is no UTF-8, which MCP cannot carry.
        ToolFailed: the tool's error.
        SupervisorGone: it ended, or does not answer any more; the outcome is unknown.
        SupervisorEnding: it ended before it was asked.

    """
    if (fit := plain(arguments)) != arguments:
        wrong = next(shown(value) for name, value in arguments.items() if value != fit[name])
        raise InvalidArgument(f"{wrong} is not valid UTF-8.", remedy="Use names and texts in UTF-8.")
    params = {"name": tool, "arguments": arguments, "_meta": {**META, "progressToken": 1}}
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    token = "" if session is None else SessionStore(settings.state_dir).token(session)
    look = LOOKS.get(tool, LOOK)
    stream, welcome = await connect(settings, Greeting(token=token), config=config)
    async with stream, open_plain_nursery() as nursery:
        nursery.start_soon(watch, settings, f"the outcome of {tool} is unknown", look)
        answer = await _ask(stream, request, report)
        nursery.cancel_scope.cancel(reason="it has answered, or is gone")
    if answer is None:
        raise SupervisorGone(
            f"The supervisor closed the connection before it answered; the outcome of {tool} is unknown.",
            remedy=f"{look} The next command starts a supervisor, which adopts the machines.",
        )
    return _result(answer, tool, welcome)


async def _ask(
    stream: trio.SocketStream, request: dict[str, Any], report: Callable[[str], None]
) -> dict[str, Any] | None:
    """Send a request and return its answer, ``None`` if the supervisor goes before that."""
    buffer = bytearray()
    try:
        await stream.send_all(json.dumps(request).encode() + b"\n")
    except trio.BrokenResourceError:
        # Without its end a line means nothing.
        raise SupervisorEnding(
            "The supervisor ended before it was asked; nothing was done.",
            remedy="Run the command again; it starts a supervisor.",
        ) from None
    while data := await _receive(stream):
        buffer += data
        *lines, rest = buffer.split(b"\n")
        buffer = bytearray(rest)
        for line in lines:
            message: dict[str, Any] = json.loads(line)
            if message.get("id") == request["id"]:
                return message
            if message.get("method") == "notifications/progress":
                report(str(message["params"].get("message", "")))
    return None


async def _receive(stream: trio.SocketStream) -> bytes:
    """Receive some bytes, none once the supervisor is gone."""
    try:
        return bytes(await stream.receive_some(65536))
    except trio.BrokenResourceError:
        return b""


def _result(message: dict[str, Any], tool: str, welcome: Welcome) -> dict[str, Any]:
    if "error" in message:
        raise ToolFailed(str(message["error"].get("message")))
    result = message["result"]
    content: dict[str, Any] = result.get("structuredContent") or {}
    if result.get("isError"):
        error = result.get("_meta", {}).get("agentiso/error", {})
        failed = ToolFailed(error.get("message", "The call failed."), remedy=error.get("remedy", ""))
        if error.get("code") == UNKNOWN_TOOL:
            failed = ToolFailed(
                f"The running supervisor (agentiso {welcome.version}, pid {welcome.pid}) is "
                f"{difference(welcome.version, VERSION)} this command (agentiso {VERSION}) and does not know {tool}.",
                remedy="`agentiso daemon restart` replaces it; machines run on. Then run the command again.",
            )
        failed.facts["code"] = error.get("code")
        raise failed
    return content
