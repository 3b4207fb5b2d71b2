"""The first line on the supervisor's socket: who the client is.

A client that has something to say of itself sends ``{"agentiso/hello": {...}}`` and a newline before any MCP, and waits
for a line with ``agentiso/welcome`` or ``agentiso/refused``.  A client that begins with MCP is the user: the socket
lets nobody else in.  The two differ from the second byte that is not white space, so neither has to wait for the other.
"""

from __future__ import annotations

import json
from typing import Any, Final

import attrs
import trio

from actors.model.errors import AgentisoError, InvalidArgument, SupervisorEnding
from actors.model.text import shown
from agentiso.protocol.sessions import LOCAL, PROFILES, Client, SessionStore, Unauthorized
from guest.untrusted import parse

_OPENING: Final = b'{"agentiso/hello"'
MAX_BYTES: Final = 4096
LIMIT_S: Final = 20.0
"""For a front that says hello to a supervisor which may still be starting others' machines."""


@attrs.frozen
class Hello:
    """What a client says of itself; who shows no token is the user."""

    token: str = ""
    tools: str = "full"


async def say_hello(stream: trio.SocketStream, hello: Hello) -> None:
    """Tell the supervisor who this is and wait until it agrees.

    Raises:
        Unauthorized: the token is worth nothing.
        InvalidArgument: the supervisor does not know what was asked for, or says nothing.
        SupervisorEnding: it ended before it answered.

    """
    answer = bytearray()
    try:
        await stream.send_all(json.dumps({"agentiso/hello": attrs.asdict(hello)}).encode() + b"\n")
        with trio.move_on_after(LIMIT_S):
            # Byte by byte: what follows the line is not ours.
            while not answer.endswith(b"\n") and len(answer) < MAX_BYTES:
                if not (data := await stream.receive_some(1)):
                    raise trio.BrokenResourceError
                answer += data
    except trio.BrokenResourceError:
        raise SupervisorEnding("The supervisor ended.", remedy="Try again, or see its daemon.log.") from None
    said = _parse(bytes(answer))
    if "agentiso/welcome" in said:
        return
    refused = said.get("agentiso/refused") or {}
    kind = Unauthorized if refused.get("code") == Unauthorized.code else InvalidArgument
    raise kind(
        str(refused.get("message") or "The supervisor did not answer the hello."),
        remedy=str(refused.get("remedy") or "End it with `agentiso daemon stop`; the next command starts another."),
    )


async def meet(stream: trio.SocketStream, sessions: SessionStore) -> tuple[Client | None, bytes]:
    """Find out who a client of the socket is; return it and the bytes that it has sent beyond its hello.

    ``None`` is a client that was refused, and told why, or that has gone.
    """
    buffer = bytearray()
    while len(buffer) < len(_OPENING) or (buffer.startswith(_OPENING) and b"\n" not in buffer):
        if not _OPENING.startswith(buffer[: len(_OPENING)]):
            break
        data = await stream.receive_some(MAX_BYTES) if len(buffer) < MAX_BYTES else b""
        if not data:
            return None, b""
        buffer += data
    if not buffer.startswith(_OPENING):
        return LOCAL, bytes(buffer)
    line, _, rest = bytes(buffer).partition(b"\n")
    try:
        client = _client(_parse(line).get("agentiso/hello"), sessions)
    except AgentisoError as error:
        await _say(stream, "agentiso/refused", code=error.code, message=error.message, remedy=error.remedy)
        return None, b""
    await _say(stream, "agentiso/welcome", session=client.session)
    return client, rest


def _client(said: Any, sessions: SessionStore) -> Client:
    try:
        hello = Hello(**said)
        token, tools = str(hello.token), str(hello.tools)
    except TypeError as error:
        raise InvalidArgument(
            f"The hello is malformed: {error}.", remedy="Use the same agentiso on both ends."
        ) from error
    if tools not in PROFILES:
        raise InvalidArgument(f"There is no tool profile {shown(tools)}.", remedy=f"There are: {', '.join(PROFILES)}.")
    return Client(sessions.authenticate(token) if token else LOCAL.session, "unix", tools)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        said = parse(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


async def _say(stream: trio.SocketStream, what: str, **values: str) -> None:
    await stream.send_all(json.dumps({what: values}).encode() + b"\n")
