"""Sessions and their tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from actors.model.errors import HostFailed, InvalidName, NameTaken, NotFound
from actors.model.settings import Settings
from agentiso.access.gate import Gate
from agentiso.mcp.http import _Door
from agentiso.protocol.sessions import SessionStore, Unauthorized


@pytest.fixture
def sessions(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path)


def test_a_token_is_made_once_and_only_its_user_can_read_it(sessions: SessionStore, tmp_path: Path) -> None:
    token = sessions.open("agent")
    assert sessions.open("agent") == sessions.token("agent") == token
    assert sessions.authenticate(token) == "agent"
    path = tmp_path / "sessions" / "agent.json"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert [entry.name for entry in path.parent.iterdir()] == ["agent.json"]
    assert [info.name for info in sessions.list()] == ["agent"]


@pytest.mark.parametrize("token", ["", ".", "agent", "agent.", "agent.wrong", "other.x", "../agent.x", "agent.\udcff"])
def test_no_other_token_is_taken(sessions: SessionStore, token: str) -> None:
    sessions.open("agent")
    with pytest.raises(Unauthorized):
        sessions.authenticate(token)


def test_a_revoked_token_is_worth_nothing_even_when_the_name_is_used_again(sessions: SessionStore) -> None:
    token = sessions.open("agent")
    sessions.revoke("agent")
    with pytest.raises(Unauthorized):
        sessions.authenticate(token)
    assert sessions.open("agent") != token
    with pytest.raises(Unauthorized):
        sessions.authenticate(token)


def test_names_that_cannot_be_a_session_are_refused(sessions: SessionStore) -> None:
    for name in ("cli", "library", "../x", "", "A", "a" * 64):
        with pytest.raises(InvalidName):
            sessions.open(name)
    sessions.create("agent")
    with pytest.raises(NameTaken):
        sessions.create("agent")
    for unknown in (sessions.token, sessions.revoke):
        with pytest.raises(NotFound):
            unknown("nobody")


def test_whether_a_token_is_good_is_not_told_while_the_sessions_cannot_be_read(
    sessions: SessionStore, tmp_path: Path
) -> None:
    token = sessions.open("agent")
    unreadable(tmp_path)
    for look in (
        lambda: sessions.authenticate(token),
        lambda: sessions.exists("agent"),
        sessions.list,
    ):
        with pytest.raises(HostFailed, match="Too many levels of symbolic links"):
            look()
    # That it cannot be noted who is here ends nobody's connection.
    sessions.seen("agent")


def unreadable(state_dir: Path) -> None:
    """Make the sessions what nobody can read, not even root."""
    (state_dir / "sessions").rename(state_dir / "aside")
    (state_dir / "sessions").symlink_to(state_dir / "sessions")


@pytest.mark.parametrize("damaged", [True, False])
async def test_a_client_over_http_is_told_why_it_cannot_be_let_in_now(tmp_path: Path, damaged: bool) -> None:
    gate, said = Gate(Settings(state_dir=tmp_path)), list[dict[str, Any]]()
    token = gate.sessions.open("agent")
    if damaged:
        (tmp_path / "sessions" / "agent.json").write_text("{")
    else:
        unreadable(tmp_path)

    async def send(message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        said.append(message)

    scope = {"type": "http", "headers": [(b"authorization", f"Bearer {token}".encode())]}
    await _Door(None, gate)(scope, cast("Any", None), send)
    assert said[0]["status"] == 503
    assert json.loads(said[1]["body"])["error"] == ("damaged_session" if damaged else "host_failed")
