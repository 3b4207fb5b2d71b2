"""The progress of calls: every tool's client hears from it, whatever the tool does."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import attrs
import mcp_types as types
import pytest
import trio
from trio.testing import MockClock

from actors.model.settings import Settings
from agentiso.access.gate import Gate
from agentiso.library.system import System
from agentiso.mcp.calls import Calls
from agentiso.mcp.progress import BEAT_S, FIRST_BEAT_S, open_progress
from agentiso.mcp.tools import TOOLS, Call, Tool
from agentiso.mcp.tools.tool import Done
from agentiso.protocol.sessions import LOCAL


class Session:
    """A client's end: what it hears and when."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.heard: list[tuple[float, float, str]] = []
        self._delay_s = delay_s

    async def report_progress(self, progress: float, total: float | None, message: str) -> None:
        assert total is None
        self.heard.append((trio.current_time(), progress, message))
        await trio.sleep(self._delay_s)


async def test_a_silent_call_has_a_heartbeat_from_the_first_second_on(autojump_clock: MockClock) -> None:
    session, began = Session(), trio.current_time()
    async with open_progress(session):
        await trio.sleep(12)
    said = [(round(at - began, 3), progress, text) for at, progress, text in session.heard]
    assert said == [(1, 1, "still running, 1 s"), (6, 2, "still running, 6 s"), (11, 3, "still running, 11 s")]


async def test_a_call_of_less_than_a_second_says_nothing(autojump_clock: MockClock) -> None:
    session = Session()
    async with open_progress(session):
        await trio.sleep(FIRST_BEAT_S * 0.9)
    assert session.heard == []


async def test_what_a_call_says_itself_takes_a_heartbeats_place(autojump_clock: MockClock) -> None:
    session = Session()
    async with open_progress(session) as report:
        for number in range(10):
            report(f"step {number}")
            await trio.sleep(0.9)
        await trio.sleep(3 * BEAT_S)
    texts = [text for _, _, text in session.heard]
    assert texts[:10] == [f"step {number}" for number in range(10)]
    assert all(text.startswith("still running, ") for text in texts[10:])
    assert len(texts) == 13
    assert [progress for _, progress, _ in session.heard] == list(range(1, len(texts) + 1))


async def test_a_client_that_does_not_read_holds_no_call_up(autojump_clock: MockClock) -> None:
    session = Session(delay_s=1e6)
    with trio.fail_after(1):
        async with open_progress(session) as report:
            for number in range(1000):
                report(str(number))


@attrs.frozen
class Nothing:
    pass


@pytest.mark.parametrize("tool", TOOLS, ids=[tool.name for tool in TOOLS])
async def test_whatever_takes_long_is_heard_of(tool: Tool, tmp_path: Path, autojump_clock: MockClock) -> None:
    async def slow(_call: Call, _arguments: Nothing) -> Done:
        await trio.sleep(60)
        return Done("done")

    calls, session = Calls(cast("System", None), Gate(Settings(state_dir=tmp_path))), Session()
    calls._tools[tool.name] = attrs.evolve(tool, arguments=Nothing, result=Done, handler=slow)
    context = SimpleNamespace(
        request=None, lifespan_context=SimpleNamespace(client=LOCAL), session=session, protocol_version="2025-11-25"
    )
    result: Any = await calls(context, types.CallToolRequestParams(name=tool.name, arguments={}))
    assert not result.is_error, result
    times = [at for at, _, _ in session.heard]
    assert times
    assert max(after - before for before, after in pairwise(times)) <= BEAT_S + 0.001
