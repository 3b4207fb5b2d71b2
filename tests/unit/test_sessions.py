"""Sessions: their tokens, and how a client says which one it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import memory_stream_pair

from actors.model.errors import InvalidArgument, InvalidName, NameTaken, NotFound
from agentiso.protocol.greeting import Hello, meet, say_hello
from agentiso.protocol.sessions import LOCAL, Client, SessionStore, Unauthorized

LIMIT_S = 10


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


async def converse(sessions: SessionStore, front: Any) -> tuple[Client | None, bytes]:
    """Have a front and the supervisor's side talk over a socket in memory; return what the latter makes of it."""
    ours, theirs = memory_stream_pair()
    met: list[tuple[Client | None, bytes]] = []

    async def supervisor() -> None:
        met.append(await meet(theirs, sessions))  # type: ignore[arg-type]
        await theirs.aclose()

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor)
            await front(ours)
    return met[0]


async def test_a_front_that_shows_its_token_is_its_session(sessions: SessionStore) -> None:
    token = sessions.open("agent")

    async def front(stream: Any) -> None:
        await say_hello(stream, Hello(token, "core"))

    assert await converse(sessions, front) == (Client("agent", "unix", "core"), b"")


async def test_a_front_is_told_why_it_is_refused(sessions: SessionStore) -> None:
    async def stranger(stream: Any) -> None:
        with pytest.raises(Unauthorized, match="no session"):
            await say_hello(stream, Hello("agent.guess"))

    async def dreamer(stream: Any) -> None:
        with pytest.raises(InvalidArgument, match="no tool profile 'all'"):
            await say_hello(stream, Hello(sessions.open("agent"), "all"))

    assert await converse(sessions, stranger) == (None, b"")
    assert await converse(sessions, dreamer) == (None, b"")


async def test_a_client_that_begins_with_mcp_is_the_user_and_none_of_its_bytes_is_lost(sessions: SessionStore) -> None:
    line = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'

    async def whole(stream: Any) -> None:
        await stream.send_all(line)

    async def in_pieces(stream: Any) -> None:
        for number in range(3):
            await stream.send_all(line[number : number + 1])

    assert await converse(sessions, whole) == (LOCAL, line)
    # The third byte settles it.
    assert await converse(sessions, in_pieces) == (LOCAL, line[:3])


async def test_what_follows_a_hello_is_kept_for_the_protocol(sessions: SessionStore) -> None:
    hello = json.dumps({"agentiso/hello": {"token": sessions.open("agent")}}).encode()

    async def hasty(stream: Any) -> None:
        await stream.send_all(hello + b"\n{}\n")

    assert await converse(sessions, hasty) == (Client("agent", "unix"), b"{}\n")


async def test_a_hello_without_end_is_not_read_for_ever(sessions: SessionStore) -> None:
    async def endless(stream: Any) -> None:
        await stream.send_all(b'{"agentiso/hello"' + b" " * 8192)

    assert await converse(sessions, endless) == (None, b"")
