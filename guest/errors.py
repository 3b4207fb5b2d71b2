"""The root of the project's error tree.

It lives in the lowest package so that every house can derive from it.  An error is three things: what happened and
why (the message), what to do next (``remedy``), and a stable ``code`` that programs can match.
"""

from __future__ import annotations

from typing import Any, ClassVar


class AgentisoError(Exception):
    """An anticipated failure; anything else that is raised is a bug.

    ``facts`` are the values the message speaks of (paths, exit statuses, limits), for callers that want data.
    """

    code: ClassVar[str] = "error"
    usual_remedy: ClassVar[str] = ""
    """What to do about such a failure where whoever raises it knows nothing better."""

    def __init__(self, message: str, *, remedy: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy or self.usual_remedy
        self.facts = facts

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}" if self.remedy else self.message


class ProtocolError(AgentisoError):
    """A rule of a wire protocol was broken."""

    code = "protocol_error"
    usual_remedy = "One of the two ends is at fault, or of another version: see the daemon's log."


class LocalProtocolError(ProtocolError):
    """This side tried to send something illegal: a bug here."""

    code = "local_protocol_error"


class RemoteProtocolError(ProtocolError):
    """The peer sent something illegal: the connection is of no further use."""

    code = "remote_protocol_error"


def only_error(error: BaseException) -> BaseException:
    """Return what a group of one, of however many levels, holds; anything else is returned as it is."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
