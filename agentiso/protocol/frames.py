"""Which frames there are, as closed unions: what a client sends, and what the supervisor does.

``ask`` numbers a request of a connection, ``field`` names the live value of its message that a frame belongs to.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import attrs
import cattrs
from cattrs.strategies import configure_tagged_union

from actors.model.errors import RemoteProtocolError
from agentiso.protocol.wire import Body

REGISTRY: Final = 1
"""The key by which a client knows the registry from the beginning."""


@attrs.frozen
class Ask:
    """Have an actor handle a message."""

    ask: int
    to: int
    kind: str
    fields: Body
    live: dict[str, list[Any]]
    """The kind of live value that each remaining field is, and its size; see `agentiso.protocol.carry`."""
    deadline_s: float


@attrs.frozen
class Cancel:
    """The asker gave up."""

    ask: int


@attrs.frozen
class Done:
    """The result of an ask."""

    ask: int
    result: Any


@attrs.frozen
class Failed:
    """The error of an ask."""

    ask: int
    error: Body


@attrs.frozen
class Cancelled:
    """A cancelled ask has settled."""

    ask: int


@attrs.frozen
class Called:
    """The actor called a message's callback."""

    ask: int
    field: str
    arguments: list[Any]


@attrs.frozen
class Wanted:
    """The actor wants the next piece of a message's stream."""

    ask: int
    field: str


@attrs.frozen
class Piece:
    """The next piece of a message's stream, ``None`` at its end."""

    ask: int
    field: str
    data: Any
    fault: str = ""
    """Why there is none, when the stream failed."""


@attrs.frozen
class Consumed:
    """The client has taken in so much of what a message's window bounds."""

    ask: int
    field: str
    size: int


@attrs.frozen
class Bye:
    """The client wants nothing more; the supervisor repeats it once all that was to end has ended."""


FromClient: TypeAlias = Ask | Cancel | Piece | Consumed | Bye
FromSupervisor: TypeAlias = Done | Failed | Cancelled | Called | Wanted | Bye
Frame: TypeAlias = FromClient | FromSupervisor

_converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)
configure_tagged_union(Frame, _converter, tag_name="frame")


def to_body(frame: Frame) -> Body:
    """Return what a frame looks like on the wire."""
    body: Body = _converter.unstructure(frame, unstructure_as=Frame)
    return body


def from_body(body: Body) -> Frame:
    """Return the frame of a body.

    Raises:
        RemoteProtocolError: there is no such frame.

    """
    try:
        frame: Frame = _converter.structure(body, Frame)  # type: ignore[arg-type]
    except (cattrs.BaseValidationError, cattrs.errors.ForbiddenExtraKeysError, ArithmeticError) as error:
        raise RemoteProtocolError(f"A frame has the wrong form: {error}.") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RemoteProtocolError(f"A frame has the wrong form: {error!r}.") from None
    return frame
