"""Sessions and their tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.model.errors import InvalidName, NameTaken, NotFound
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
