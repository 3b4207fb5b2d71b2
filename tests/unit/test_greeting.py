"""The first line on the supervisor's socket: who calls, which version either end is, and what each is told."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import memory_stream_pair

from actors.model.errors import AgentisoError, InvalidArgument, SupervisorEnding, SupervisorGone
from agentiso.client import dialling
from agentiso.client.dialling import greet
from agentiso.protocol.greeting import PROTOCOL, VERSION, Greeting, OtherVersion, Welcome, difference, read_answer
from agentiso.protocol.sessions import LOCAL, Client, SessionStore, Unauthorized
from agentiso.supervisor import clients
from agentiso.supervisor.clients import Caller, receive_caller

LIMIT_S = 10
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'


@pytest.fixture
def sessions(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path)


async def converse(
    sessions: SessionStore, front: Callable[[Any], Awaitable[object]], **about: Any
) -> tuple[Caller | None, object]:
    """Have a client and the supervisor's side talk; return what the latter makes of it, and what the client found."""
    ours, theirs = memory_stream_pair()
    found: list[Caller | None] = []

    async def supervisor() -> None:
        found.append(await receive_caller(theirs, sessions, lambda _greeting: about))
        await theirs.aclose()

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor)
            result = await front(ours)
    return found[0], result


def greeting(**values: Any) -> Callable[[Any], Awaitable[object]]:
    """Return a client that greets, and returns the welcome or the error."""

    async def front(stream: Any) -> object:
        try:
            return await greet(stream, Greeting(**values))
        except AgentisoError as error:
            return error

    return front


def saying(data: bytes) -> Callable[[Any], Awaitable[bytes]]:
    """Return a client that says something and returns all that it is told."""

    async def front(stream: Any) -> bytes:
        await stream.send_all(data)
        told = b""
        while more := await stream.receive_some():
            told += more
        return told

    return front


async def test_a_client_that_shows_its_token_is_its_session(sessions: SessionStore) -> None:
    caller, welcome = await converse(sessions, greeting(token=sessions.open("agent"), tools="core"), fact=[1, "two"])
    assert caller is not None
    assert (caller.client, caller.said) == (Client("agent", "unix", "core"), b"")
    assert isinstance(welcome, Welcome)
    assert (welcome.session, welcome.version, welcome.about) == ("agent", VERSION, {"fact": [1, "two"]})


async def test_a_client_that_greets_without_a_token_is_the_user_and_gets_the_service_that_it_names(
    sessions: SessionStore,
) -> None:
    for service in ("mcp", "live", "library", "status"):
        caller, _ = await converse(sessions, greeting(service=service))
        assert caller is not None
        assert (caller.client, caller.greeting.service) == (LOCAL, service)


@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        ({"token": "agent.guess"}, Unauthorized, "no session"),
        ({"tools": "all"}, InvalidArgument, "no tool profile 'all'"),
        ({"service": "coffee"}, InvalidArgument, "no service 'coffee'"),
        ({"service": "live", "token": "agent.guess"}, InvalidArgument, "which is the user's"),
        ({"token": 7}, InvalidArgument, "malformed: its token is '7'"),
    ],
)
async def test_a_client_is_told_why_it_is_refused(
    sessions: SessionStore, wrong: dict[str, Any], kind: type[AgentisoError], said: str
) -> None:
    caller, error = await converse(sessions, greeting(**wrong))
    assert caller is None
    assert type(error) is kind
    assert said in error.message
    assert error.remedy


async def test_a_client_of_another_protocol_is_told_both_versions_and_what_to_do(sessions: SessionStore) -> None:
    caller, error = await converse(sessions, greeting(protocol=PROTOCOL + 1, version="9.8", service="telepathy"))
    assert caller is None
    assert isinstance(error, OtherVersion)
    assert f"agentiso {VERSION} and speaks protocol {PROTOCOL}," in error.message
    assert f"agentiso 9.8 and speaks protocol {PROTOCOL + 1}." in error.message
    assert "agentiso daemon restart" in error.remedy
    assert "machines run on" in error.remedy


async def test_a_client_of_another_version_with_the_same_protocol_is_served(sessions: SessionStore) -> None:
    newer = {"agentiso": {**attrs.asdict(Greeting(version="9.8")), "colour": "blue"}}

    async def front(stream: Any) -> bytes:
        await stream.send_all(json.dumps(newer).encode() + b"\n")
        return bytes(await stream.receive_some())

    caller, told = await converse(sessions, front)
    assert caller is not None
    assert caller.client == LOCAL
    assert read_answer(told).version == VERSION  # type: ignore[arg-type]


async def test_a_client_from_before_there_were_protocol_numbers_is_refused_in_its_own_words(
    sessions: SessionStore,
) -> None:
    for hello in ({}, {"token": sessions.open("agent"), "tools": "full"}):
        caller, told = await converse(sessions, saying(json.dumps({"agentiso/hello": hello}).encode() + b"\n"))
        assert caller is None
        refused = json.loads(told)["agentiso/refused"]  # type: ignore[arg-type]
        assert VERSION in refused["message"]
        assert "`agentiso daemon stop`" in refused["remedy"]


async def test_a_supervisor_from_before_there_was_a_greeting_is_told_by_its_answer() -> None:
    # What it answers to a line that is no MCP.
    answer = {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "The line is not a message."}}
    with pytest.raises(OtherVersion, match=r"older version.*daemon restart.*machines run on"):
        read_answer(json.dumps(answer).encode() + b"\n")


async def test_a_client_that_begins_with_mcp_is_the_user_and_none_of_its_bytes_is_lost(sessions: SessionStore) -> None:
    async def in_pieces(stream: Any) -> None:
        for number in range(3):
            await stream.send_all(PING[number : number + 1])

    whole, _ = await converse(sessions, saying(PING))
    # The third byte settles it.
    pieces, _ = await converse(sessions, in_pieces)
    assert whole == Caller(LOCAL, said=PING)
    assert pieces == Caller(LOCAL, said=PING[:3])


@pytest.mark.parametrize("half", [b"", b'{"agentiso": {"protocol"'])
async def test_a_client_that_does_not_say_who_it_is_is_let_go(
    sessions: SessionStore, half: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "GREETING_LIMIT_S", 0.1)
    caller, told = await converse(sessions, saying(half) if half else saying_nothing)
    assert (caller, told) == (None, b"")


async def saying_nothing(stream: Any) -> bytes:
    return bytes(await stream.receive_some())


async def test_a_refusal_is_logged_for_clients_that_do_not_understand_it(
    sessions: SessionStore, caplog: pytest.LogCaptureFixture
) -> None:
    await converse(sessions, saying(b'{"agentiso/hello": {}}\n'))
    assert "a client was refused: The running supervisor is of agentiso" in caplog.text


async def test_what_follows_a_greeting_is_kept_for_the_protocol(sessions: SessionStore) -> None:
    async def hasty(stream: Any) -> None:
        await stream.send_all(Greeting().line + PING)
        await stream.receive_some()

    caller, _ = await converse(sessions, hasty)
    assert caller is not None
    assert caller.said == PING


@pytest.mark.parametrize("line", [b'{"agentiso"' + b" " * 8192, b'{"agentiso": 7}\n', b'{"agentiso}\n'])
async def test_a_greeting_that_makes_no_sense_is_refused(sessions: SessionStore, line: bytes) -> None:
    caller, told = await converse(sessions, saying(line))
    assert caller is None
    assert json.loads(told)["agentiso"]["refused"]["code"] == "other_version"  # type: ignore[arg-type]


async def test_a_supervisor_that_ends_or_is_mute_before_it_answers_is_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dialling, "ANSWER_LIMIT_S", 0.01)
    ours, theirs = memory_stream_pair()
    with pytest.raises(SupervisorGone, match="does not answer"):
        await greet(ours, Greeting())
    await theirs.aclose()
    with pytest.raises(SupervisorEnding):
        await greet(ours, Greeting())


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ("0.0.1", "older than"),
        ("99.0", "newer than"),
        (VERSION, "another build than"),
        ("x.y", "of another version than"),
    ],
)
def test_versions_are_compared_in_words(theirs: str, said: str) -> None:
    assert difference(theirs, VERSION) == said
