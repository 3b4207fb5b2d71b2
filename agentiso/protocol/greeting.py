"""The first line on the supervisor's socket and its answer: which version either end is, who calls and what for.

A client sends the first of these lines, and nothing more until it has the second or the third::

    {"agentiso": {"protocol": 1, "version": "0.1.0", "service": "mcp", "token": "...", "tools": "full"}}
    {"agentiso": {"welcome": {"protocol": 1, "version": "0.1.0", "pid": 4711, "session": "cli", "about": {}}}}
    {"agentiso": {"refused": {"code": "unauthorized", "message": "...", "remedy": "..."}}}

A client that begins with MCP instead is the user, whom alone the socket lets in; the third byte settles which it is.
This form outlives all versions: the protocol's number is looked at before anything else, and members that are not
known are passed over, so what the other end must understand gets a new number.  There is no I/O here.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any, Final

import attrs

from actors.model.errors import AgentisoError, InvalidArgument
from actors.model.text import shown
from agentiso.protocol.sessions import PROFILES, Unauthorized
from guest.untrusted import parse

PROTOCOL: Final = 1
"""Raised with every change after which two ends no longer understand each other."""
VERSION: Final = version("agentiso")
SERVICES: Final = ("mcp", "live", "library", "status")
MAX_GREETING_BYTES: Final = 4096
MAX_ANSWER_BYTES: Final = 1024 * 1024
"""The library's has all settings in it."""
_OPENING: Final = b'{"agentiso'
_UNNUMBERED: Final = b'{"agentiso/hello"'
"""How clients greeted before there were protocol numbers; they look for a refusal of their own form."""
_REPLACE: Final = "`agentiso daemon restart`, of the version that is to serve, replaces it; machines run on."


class OtherVersion(AgentisoError):
    """Client and supervisor are of versions that do not understand each other; nothing was done."""

    code = "other_version"
    usual_remedy = _REPLACE


@attrs.frozen
class Greeting:
    """What a client says of itself; who shows no token is the user."""

    service: str = "mcp"
    """``mcp``; ``live`` is a job's output and input, ``library`` the actors, ``status`` ends with the answer."""
    token: str = ""
    tools: str = "full"
    vocabulary: str = ""
    """Of the library: a digest of all messages, results and settings that it knows."""
    keep: bool = False
    """Of the library: whether what it makes outlives its connection."""
    protocol: int = PROTOCOL
    version: str = VERSION

    @property
    def line(self) -> bytes:
        """What is sent."""
        return _line(attrs.asdict(self))


@attrs.frozen
class Welcome:
    """What the supervisor says of itself to a client that it serves."""

    pid: int
    session: str
    about: dict[str, Any] = attrs.field(factory=dict)
    """What the service tells before it begins."""
    protocol: int = PROTOCOL
    version: str = VERSION

    @property
    def line(self) -> bytes:
        """What is sent."""
        return _line({"welcome": attrs.asdict(self)})


def split_opening(said: bytes) -> tuple[bytes, bytes] | None:
    """Return the line of a greeting and what follows it, from a client's first bytes; ``None`` if more are needed.

    The line is empty where the client does not greet.
    """
    if not _OPENING.startswith(said[: len(_OPENING)]):
        return b"", said
    line, end, rest = said.partition(b"\n")
    return (line, rest) if end or len(said) > MAX_GREETING_BYTES else None


def read_greeting(line: bytes) -> Greeting:
    """Return the greeting in a line.

    Raises:
        OtherVersion: the client speaks another protocol.
        InvalidArgument: it is malformed, or asks for what there is not.

    """
    if line.startswith(_UNNUMBERED):
        raise OtherVersion(
            f"The running supervisor is of agentiso {VERSION} and speaks protocol {PROTOCOL}, which this older client "
            "does not know.",
            remedy="Use its version's client; or `agentiso daemon stop`, and the next command starts its own version's "
            "supervisor. Machines run on.",
        )
    said = _members(line)
    if said.get("protocol") != PROTOCOL:
        raise OtherVersion(
            f"The running supervisor is of agentiso {VERSION} and speaks protocol {PROTOCOL}, this client is of "
            f"agentiso {said.get('version')!s:.40} and speaks protocol {said.get('protocol')!s:.20}."
        )
    greeting: Greeting = _structure(Greeting, said, "greeting")
    if greeting.service not in SERVICES:
        raise InvalidArgument(
            f"There is no service {shown(greeting.service)}.", remedy=f"There are: {', '.join(SERVICES)}."
        )
    if greeting.tools not in PROFILES:
        raise InvalidArgument(
            f"There is no tool profile {shown(greeting.tools)}.", remedy=f"There are: {', '.join(PROFILES)}."
        )
    if greeting.token and greeting.service != "mcp":
        raise InvalidArgument(
            f"A session has no use of the service {greeting.service}, which is the user's.", remedy="Show no token."
        )
    return greeting


def refusal_line(greeting: bytes, error: AgentisoError) -> bytes:
    """Return the answer to the line of a greeting that is refused, in the form that its sender understands."""
    said = {"code": error.code, "message": error.message, "remedy": error.remedy}
    if greeting.startswith(_UNNUMBERED):
        return json.dumps({"agentiso/refused": said}).encode() + b"\n"
    return _line({"refused": said})


def read_answer(line: bytes) -> Welcome:
    """Return the welcome in a supervisor's answer.

    Raises:
        Unauthorized: the token is worth nothing.
        OtherVersion: the supervisor speaks another protocol, or is so old that it knows no greeting.
        InvalidArgument: it refuses for another reason, or what it says makes no sense.

    """
    said = _members(line)
    if isinstance(welcome := said.get("welcome"), dict):
        known: Welcome = _structure(Welcome, welcome, "welcome")
        return known
    refused = said.get("refused")
    if isinstance(refused, dict):
        kinds = {kind.code: kind for kind in (Unauthorized, OtherVersion)}
        kind = kinds.get(str(refused.get("code")), InvalidArgument)
        raise kind(str(refused.get("message")), remedy=str(refused.get("remedy")))
    raise OtherVersion(
        f"The running supervisor does not know the greeting of this agentiso ({VERSION}, protocol {PROTOCOL}): it is "
        "of an older version.",
        remedy="`agentiso daemon restart` replaces it with one of this version; machines run on.",
    )


def difference(one: str, other: str) -> str:
    """Say how one version differs from another: it is older, newer, or another build."""
    try:
        first, second = ([int(part) for part in each.split(".")] for each in (one, other))
    except ValueError:
        return "of another version than"
    return "older than" if first < second else "newer than" if first > second else "another build than"


def _line(members: dict[str, Any]) -> bytes:
    return json.dumps({"agentiso": members}).encode() + b"\n"


def _members(line: bytes) -> dict[str, Any]:
    try:
        said = parse(line)
    except ValueError:
        return {}
    members = said.get("agentiso") if isinstance(said, dict) else None
    return members if isinstance(members, dict) else {}


def _structure(kind: type[Any], said: dict[str, Any], what: str) -> Any:
    types = {field.name: {"bool": bool, "int": int, "str": str}.get(field.type, dict) for field in attrs.fields(kind)}
    known = {name: value for name, value in said.items() if name in types}
    for name, value in known.items():
        if type(value) is not types[name]:
            raise InvalidArgument(
                f"The {what} is malformed: its {name} is {shown(str(value)[:40])}.",
                remedy="Use the same agentiso on both ends.",
            )
    try:
        return kind(**known)
    except TypeError as error:
        raise InvalidArgument(f"The {what} is malformed: {error}.", remedy=_REPLACE) from None
