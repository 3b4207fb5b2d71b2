"""A client's lines: what is no message is answered, under its id where that is known, and the next one is served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.model.settings import Settings
from agentiso.mcp.lines import Lines
from agentiso.protocol import lines
from agentiso.protocol.lines import EDGE_BYTES
from tests.standins import open_stopped, wired

LIMIT_S = 30
PING = b'{"jsonrpc":"2.0","id":9,"method":"ping"}'
BAD = rb'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"\ud800"}}'


class Feed:
    """A stream that gives its pieces and ends."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    async def receive_some(self, _most: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._pieces.pop(0) if self._pieces else b""


async def read(*pieces: bytes, said: bytes = b"") -> tuple[list[str], list[dict[str, Any]]]:
    """Return the lines that come of some pieces, and the answers."""
    answers: list[dict[str, Any]] = []

    async def answer(text: str) -> None:
        await trio.lowlevel.checkpoint()
        answers.append(json.loads(text))

    found = [line async for line in Lines(Feed(*pieces), said, answer)]  # type: ignore[arg-type]
    return found, answers


async def test_lines_come_whole_however_they_are_cut() -> None:
    whole = PING + b"\n\n" + PING + b"\n"
    for pieces in ([whole], [whole[n : n + 1] for n in range(len(whole))], [whole[:30], whole[30:]]):
        assert await read(*pieces) == ([PING.decode()] * 2, [])
    assert await read(PING[5:] + b"\n", said=PING[:5]) == ([PING.decode()], [])


@pytest.mark.parametrize(
    ("line", "code", "request_id"),
    [
        (BAD, -32600, 7),
        (rb'{"jsonrpc":"2.0","id":"\ud800","method":"x"}', -32600, None),
        (b"nonsense", -32700, None),
        (b"[" * 100_000, -32700, None),
        (b"[]", -32600, None),
        (b'{"id":3,"method":"x"}', -32600, 3),
        # An answer to a request of ours: its id is none of the client's.
        (rb'{"jsonrpc":"2.0","id":3,"result":{"a":"\udfff"}}', -32600, None),
    ],
    ids=["surrogate", "surrogate in the id", "nonsense", "deep", "no object", "no version", "a result"],
)
async def test_what_is_no_message_is_answered_and_the_next_one_comes(
    line: bytes, code: int, request_id: int | None
) -> None:
    found, (answer,) = await read(line + b"\n" + PING + b"\n")
    assert found == [PING.decode()]
    assert (answer["error"]["code"], answer["id"]) == (code, request_id)
    assert len(answer["error"]["message"]) < 300


@pytest.mark.parametrize(
    ("before", "after", "request_id"),
    [
        (b'{"jsonrpc":"2.0","id":5,"method":"x","params":{"text":"', b'"}}', 5),
        (b'{"method":"x","params":{"text":"', b'"},"id":"a"}', "a"),
        (b'{"method":"x","params":{"id":6,"text":"', b'","id":6}}', None),
    ],
    ids=["first", "last", "within"],
)
async def test_a_line_that_is_too_long_is_let_pass_and_answered_under_its_id(
    monkeypatch: pytest.MonkeyPatch, before: bytes, after: bytes, request_id: object
) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 4 * EDGE_BYTES)
    long = before + b"x" * 8 * EDGE_BYTES + after + b"\n" + PING + b"\n"
    for size in (len(long), 1000, 7):
        found, (answer,) = await read(*(long[n : n + size] for n in range(0, len(long), size)))
        assert found == [PING.decode()]
        assert answer["id"] == request_id
        assert "file_upload" in answer["error"]["message"]


async def test_a_long_line_is_looked_at_once_and_not_anew_with_each_piece() -> None:
    class Counted(bytes):
        total = 0

        def split(self, *_: Any) -> list[bytes]:
            Counted.total += len(self)
            return bytes(self).split(b"\n")

    pieces = [Counted(b"x" * 4096) for _ in range(1000)]
    await read(*pieces)
    assert Counted.total == 4096 * 1000


async def test_a_connection_goes_on_after_a_message_that_was_refused(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_S):
        async with open_stopped(Settings(state_dir=tmp_path), {}) as system, wired(system) as wire:
            await wire.send(BAD + b"\n" + PING)
            assert {(await wire.receive())["id"] for _ in range(2)} == {7, 9}
