"""What a guest, a client or a file says does no harm, however deep it is nested and however large its numbers are."""

from __future__ import annotations

import io
import json
import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.machine.guest.client import GuestClient
from actors.machine.guest.identity import IdentityReply
from actors.machine.qemu.qmp import QmpClient, QmpCodec
from actors.model import record as records
from actors.model.errors import AgentisoError, GuestBroken, GuestRefused
from actors.registry.bundle import MANIFEST, BadBundle, BundleReader, BundleWriter
from agentiso.protocol.greeting import read_greeting
from agentiso.protocol.sessions import DamagedSession, SessionStore
from agentiso.protocol.wire import Codec as LibraryCodec
from guest.errors import RemoteProtocolError
from guest.untrusted import MALFORMED, MAX_DEPTH, finite, parse, whole
from guest.wire import Codec, Message, encode

LIMIT_S = 10
DEEP = [b"[" * 100_000, b"[" * 900 + b"]" * 900, b'{"a":' * 900 + b"1" + b"}" * 900]
"""Deeper than Python reads, and deeper than it writes what it has read."""


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def test_depth_is_bounded_and_breadth_is_not() -> None:
    assert parse(nested(MAX_DEPTH)) == json.loads(nested(MAX_DEPTH))
    assert parse(f"[{', '.join(['[]'] * 1000)}]") == [[]] * 1000
    texts: list[str | bytes] = [nested(MAX_DEPTH + 1), *DEEP, f'{{"text": "[[[", "deep": {nested(MAX_DEPTH)}}}']
    for text in texts:
        with pytest.raises(ValueError):  # noqa: PT011 - also of json itself
            parse(text)


def test_digits_without_end_are_no_number() -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - Python's own
        parse("1" * 10_000)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e300, 10**4000, -(10**40), "1e999", None, [], {}])
def test_a_number_that_no_machine_has_is_malformed(value: Any) -> None:
    with pytest.raises(MALFORMED):
        whole(value)
    if value != 1e300 and value != -(10**40):
        with pytest.raises(MALFORMED):
            finite(value)


def test_numbers_are_numbers() -> None:
    assert (whole(2**64 - 1), whole(-5), whole("7"), finite(3), finite("0.5")) == (2**64 - 1, -5, 7, 3.0, 0.5)


@pytest.mark.parametrize("deep", DEEP)
async def test_a_guest_that_nests_its_answers_breaks_only_its_own_channel(deep: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        async with trio.open_nursery() as nursery:
            client = GuestClient(trio.SocketStream(trio.socket.from_stdlib_socket(ours)), nursery)
            nursery.start_soon(client._read)
            answer = deep if deep.startswith(b"{") else b'{"id": 1, "error": {"message": ' + deep + b"}}"
            theirs.sendall(framed(answer))
            with trio.fail_after(LIMIT_S), pytest.raises(GuestBroken, match="broke the protocol"):
                await client.call({"op": "ping"})
            await client.aclose()


@pytest.mark.parametrize("line", [*DEEP, b'{"name": "x", "kind": "file", "size": 1e999, "mode": 1, "mtime": 1}'])
async def test_a_listing_that_makes_no_sense_breaks_only_its_guests_channel(line: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        async with trio.open_nursery() as nursery:
            client = GuestClient(trio.SocketStream(trio.socket.from_stdlib_socket(ours)), nursery)
            nursery.start_soon(client._read)
            theirs.sendall(framed(b"\0\0\0\0\1\0" + line) + encode(Message({"id": 1, "ok": {}})))
            with trio.fail_after(LIMIT_S), pytest.raises(GuestBroken, match="listing is malformed"):
                await client.files.list("/")
            await client.aclose()


async def test_a_refusal_of_any_form_is_a_refusal() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        async with trio.open_nursery() as nursery:
            client = GuestClient(trio.SocketStream(trio.socket.from_stdlib_socket(ours)), nursery)
            nursery.start_soon(client._read)
            theirs.sendall(encode(Message({"id": 1, "error": {"message": json.loads(nested(60)), "code": [1e300]}})))
            with trio.fail_after(LIMIT_S), pytest.raises(GuestRefused):
                await client.call({"op": "ping"})
            await client.aclose()


@pytest.mark.parametrize(
    "change",
    [
        {"generation": float("inf")},
        {"generation": 10**100},
        {"clock_step_s": float("nan")},
        {"connections_closed": 1e300},
        {"jobs": [{"job": 1}]},
        {"hooks": 5},
    ],
)
def test_an_identity_that_makes_no_sense_is_malformed(change: dict[str, Any]) -> None:
    good: dict[str, Any] = {
        "previous_nonce": None, "generation": 1, "rng_reseeded": True, "clock_step_s": 0.0, "hostname": "x",
        "mac": ["y" * 1000], "connections_closed": 0, "failures": {}, "hooks": [], "jobs": [],
    }  # fmt: skip
    assert len(IdentityReply.of(good).mac or "") == 255
    with pytest.raises(MALFORMED):
        IdentityReply.of({**good, **change})


@pytest.mark.parametrize(
    "line", [*DEEP, b'{"id": [], "return": {}}', b'{"event": "X", "data": 5}', b'{"id": 1, "error": "no"}']
)
def test_a_qemu_that_makes_no_sense_broke_its_protocol(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        QmpCodec().receive_data(line + b"\n")


async def test_a_stalled_machine_is_told_of_once_whenever_it_stalls() -> None:
    client = QmpClient(trio.testing.memory_stream_pair()[0])
    with trio.fail_after(LIMIT_S):
        for _ in range(2):
            client._take({"event": "BLOCK_IO_ERROR"})
            assert await client.wait_stalled()
        with trio.move_on_after(0) as waited:
            await client.wait_stalled()
        assert waited.cancelled_caught
        await client.aclose()
        assert not await client.wait_stalled()


@pytest.mark.parametrize("deep", DEEP)
def test_a_bundle_that_nests_its_manifest_is_refused(deep: bytes) -> None:
    file = io.BytesIO()
    BundleWriter(file.write, lambda _count: None).add(MANIFEST, len(deep), [deep])
    file.seek(0)
    with pytest.raises(BadBundle):
        BundleReader(file.read, lambda _count: None).manifest()


@pytest.mark.parametrize("deep", DEEP)
def test_a_record_that_is_nested_is_damaged(tmp_path: Path, deep: bytes) -> None:
    (tmp_path / records.RECORD).write_bytes(deep)
    with pytest.raises(records.DamagedRecord):
        records.load(tmp_path)


@pytest.mark.parametrize("deep", DEEP)
def test_frames_are_not_nested(deep: bytes) -> None:
    guest = Codec()
    guest.receive_data(framed(b'{"a":' + deep + b"}"))
    library = LibraryCodec(lambda _key: None)
    library.receive_data(len(deep).to_bytes(4, "big") + bytes(4) + deep)
    for read in (guest.next_event, library.next_body):
        with pytest.raises(RemoteProtocolError):
            read()


def test_a_greeting_that_nests_is_refused() -> None:
    with pytest.raises(AgentisoError):
        read_greeting(b'{"agentiso":' + b"[" * 3000)


def test_a_sessions_file_that_is_damaged_is_said_to_be_and_kept(tmp_path: Path) -> None:
    sessions = SessionStore(tmp_path)
    token = sessions.open("agent")
    (path,) = (tmp_path / "sessions").iterdir()
    for damage in (b"", b"[" * 100_000, b"{}", b"\xff"):
        path.write_bytes(damage)
        for use in (sessions.open, sessions.token):
            with pytest.raises(DamagedSession):
                use("agent")
        assert [(info.name, info.created_at) for info in sessions.list()] == [("agent", 0.0)]
        with pytest.raises(AgentisoError):
            sessions.authenticate(token)
        assert path.read_bytes() == damage
