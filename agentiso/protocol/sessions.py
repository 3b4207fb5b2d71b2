"""Sessions: who a client is, across its restarts.

A session is a name and a token, in a file that only its user can read.  Whoever shows the token is the session and
finds the workspaces that the session owns.  Sessions keep agents from treading on each other; between users stands
the state directory, which others cannot enter.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import os
import secrets
import time
from pathlib import Path
from typing import Any, Final

import attrs

from actors.model.errors import AgentisoError, InvalidName, NameTaken, NotFound
from actors.model.files import failures_reported
from actors.model.info import LIBRARY, USER
from actors.model.names import check_name
from actors.model.text import shown
from guest.untrusted import MALFORMED, finite, parse

log = logging.getLogger("agentiso.sessions")
RESERVED: Final = frozenset({USER, LIBRARY})
"""The user at the command line, or whoever speaks to the socket without saying who it is, sees and may do all."""
DEFAULT_SESSION: Final = "default"
SECRET_BYTES: Final = 32
PROFILES: Final = ("full", "core")


class Unauthorized(AgentisoError):
    """A client shows no token, or one that belongs to no session."""

    code = "unauthorized"


class DamagedSession(AgentisoError):
    """A session's file cannot be read; it is left alone."""

    code = "damaged_session"
    usual_remedy = "Revoke the session and open it again; its workspaces can be adopted."


@attrs.frozen
class Client:
    """Who is calling, and how."""

    session: str
    transport: str
    """``unix``, ``http``, ``memory``, ``attach`` (the command line's live connections) or ``library``."""
    profile: str = "full"
    """Which of the tools it is shown; see `agentiso.mcp.profiles`."""

    @property
    def is_user(self) -> bool:
        """Whether this is the user rather than a session: no ownership, quota or rate limit holds."""
        return self.session in RESERVED


LOCAL: Final = Client(USER, "unix")
CLIENT: Final = "agentiso.client"
"""Key of an HTTP request's ASGI scope under which its `Client` is."""


@attrs.frozen
class SessionInfo:
    """What is known of a session."""

    name: str
    created_at: float
    """0 where its file is damaged."""
    last_seen_at: float
    """When it was last connected, to a minute; both in seconds since the Unix epoch."""


class SessionStore:
    """The sessions of a state directory, one file each.

    Raises:
        HostFailed, NoCapacity: of all methods but `seen`, the files cannot be read or written.

    """

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir / "sessions"

    @failures_reported()
    def create(self, name: str) -> str:
        """Make a session and return its token.

        Raises:
            NameTaken: there is one of that name.

        """
        _check(name)
        token = f"{name}.{secrets.token_urlsafe(SECRET_BYTES)}"
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Whole under a name of its own first: two clients of a new session may come at once.
        draft = self._directory / f".{name}.{secrets.token_hex(4)}"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "w") as file:
                json.dump({"token": token, "created_at": time.time()}, file)
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, self._path(name))
        except FileExistsError:
            raise NameTaken(f"There is a session {name!r} already.", remedy="Choose another name.") from None
        finally:
            draft.unlink()
        return token

    def open(self, name: str) -> str:
        """Return the token of a session, which is made on first use."""
        _check(name)
        with contextlib.suppress(NameTaken):
            return self.create(name)
        return self._read(name)

    def token(self, name: str) -> str:
        """Return the token of a session that exists.

        Raises:
            NotFound: there is none of that name.

        """
        _check(name)
        return self._read(name)

    def authenticate(self, token: str) -> str:
        """Return the name of the session that a token belongs to.

        Raises:
            Unauthorized: it belongs to none.

        """
        name = token.partition(".")[0]
        try:
            _check(name)
            known = self._read(name)
        except (InvalidName, NotFound):
            known = ""
        if not hmac.compare_digest(known.encode(), token.encode(errors="replace")) or not known:
            raise Unauthorized(
                "The token belongs to no session.", remedy="`agentiso session create NAME` makes one and prints it."
            )
        return name

    @failures_reported()
    def exists(self, name: str) -> bool:
        """Tell whether there is a session of that name."""
        try:
            self._path(name).stat()
        except FileNotFoundError:
            return False
        return True

    def seen(self, name: str) -> None:
        """Note that a session is here now; nothing fails because that cannot be noted."""
        try:
            os.utime(self._path(name))
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("that session %s is here could not be noted: %s", name, error)

    @failures_reported()
    def list(self) -> tuple[SessionInfo, ...]:
        """Return all sessions, by name."""
        try:
            names = sorted(path.stem for path in self._directory.iterdir() if path.match("[!.]*.json"))
        except FileNotFoundError:
            return ()
        found = [self.info(name) for name in names]
        return tuple(info for info in found if info is not None)

    @failures_reported()
    def info(self, name: str) -> SessionInfo | None:
        """Return what is known of a session, or ``None`` if there is none of that name."""
        try:
            path = self._path(name)
            created_at, seen_at = 0.0, path.stat().st_mtime
            with contextlib.suppress(DamagedSession):
                created_at = self._facts(name)["created_at"]
            return SessionInfo(name, created_at, seen_at)
        except FileNotFoundError:
            return None

    @failures_reported()
    def revoke(self, name: str) -> None:
        """Forget a session; its token is worth nothing from now on, and its workspaces may be adopted.

        Raises:
            NotFound: there is none of that name.

        """
        _check(name)
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            raise _unknown(name) from None

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"

    def _read(self, name: str) -> str:
        try:
            return str(self._facts(name)["token"])
        except FileNotFoundError:
            raise _unknown(name) from None

    @failures_reported()
    def _facts(self, name: str) -> dict[str, Any]:
        try:
            facts = parse(self._path(name).read_bytes())
            return {"token": facts["token"], "created_at": finite(facts["created_at"])}
        except MALFORMED as error:
            raise DamagedSession(f"The file of session {name!r} is damaged: {error}.") from error


def _check(name: str) -> None:
    check_name(name, "session")
    if name in RESERVED:
        raise InvalidName(f"{name!r} is no name for a session: it means the user.", remedy="Choose another name.")


def _unknown(name: str) -> NotFound:
    return NotFound(f"There is no session {shown(name)}.", remedy="`agentiso session list` names them.")
