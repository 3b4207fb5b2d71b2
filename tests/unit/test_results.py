"""What creating, forking and keeping tell of what was paid for it, and that a repetition does nothing again."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest
import trio

from actors.model.end import End, EndReason
from actors.model.errors import AgentisoError, NoCapacity
from actors.model.info import Evidence, ForkedChild, ForkReport, NetworkInfo, Shape, SnapshotInfo, WorkspaceInfo
from actors.model.settings import Settings
from actors.registry import messages as r
from actors.runtime import ActorRef
from agentiso.access.gate import Gate
from agentiso.library.system import System
from agentiso.mcp.content import text_of
from agentiso.mcp.tools.results import state_result, summary_result, workspace_result
from agentiso.mcp.tools.workspaces import ListResult
from tests.standins import Caller, caller

LIMIT_S = 30
INFO = WorkspaceInfo(
    workspace_id="0123", name="ws", state="running", image="base", image_digest="0", shape=Shape(),
    network=NetworkInfo("user", allow_internet=False), accelerator="tcg", channel="serial", created_at=0.0,
    started_by="pool", start_seconds=0.25, owner="ann",
)  # fmt: skip
EVIDENCE = Evidence("e", True, 1, True, 0.0, "ws-fork-1", connections_closed=2)
REPORT = ForkReport(
    parent="0123", checkpoint_id="c", snapshot=None, pause_ms=9.5, copied_bytes=4096, seconds=0.5,
    children=(
        ForkedChild(0, "ws-fork-1", "4567", 80.0, EVIDENCE),
        ForkedChild(1, "ws-fork-2", error="QEMU did not start."),
    ),
    dropped_forwards=(8080,),
)  # fmt: skip


class Stub:
    """A system of one workspace that counts what it is asked for."""

    id, name, owner = "0123", "ws", "ann"

    def __init__(self, state_dir: Path) -> None:
        self.settings = Settings(state_dir=state_dir)
        self.snapshots = SimpleNamespace(create=self._keep)
        self.registry = SimpleNamespace(ask=self._create)
        self.asked: list[str] = []
        self.failures: list[AgentisoError] = []

    async def get(self, _workspace: str) -> Stub:
        return self

    async def info(self) -> WorkspaceInfo:
        return INFO

    async def _create(self, message: r.CreateWorkspace) -> r.Made:
        await self._note("create")
        return r.Made(r.Found(self.id, self.name, ActorRef.gone(self.name, "it is a stub"), message.owner), INFO)

    async def fork(self, *_: Any, **__: Any) -> Any:
        await self._note("fork")
        return SimpleNamespace(report=REPORT)

    async def _keep(self, name: str, **_: Any) -> SnapshotInfo:
        return SnapshotInfo("s", name, None, 0.0, True, 7, pause_ms=12.5, seconds=0.75)

    async def _note(self, what: str) -> None:
        await trio.lowlevel.checkpoint()
        self.asked.append(what)
        if self.failures:
            raise self.failures.pop()


@pytest.fixture
def stub(tmp_path: Path) -> Stub:
    return Stub(tmp_path)


@pytest.fixture
async def ann(stub: Stub) -> AsyncIterator[Caller]:
    gate = Gate(stub.settings)
    gate.sessions.open("ann")
    with trio.fail_after(LIMIT_S):
        async with caller(cast("System", stub), gate, "ann") as calling:
            yield calling


REPEATED = (
    ("workspace_create", {"name": "ws"}, "create"),
    ("workspace_fork", {"workspace_id": "ws", "count": 2}, "fork"),
    ("workspace_batch_fork", {"workspace_id": "ws", "count": 2}, "fork"),
)


@pytest.mark.parametrize(("tool", "arguments", "does"), REPEATED)
async def test_a_repetition_gives_the_first_ones_result_and_makes_nothing(
    stub: Stub, ann: Caller, tool: str, arguments: dict[str, Any], does: str
) -> None:
    first = await ann(tool, **arguments, idempotency_key="k")
    assert await ann(tool, **arguments, idempotency_key="k") == first
    assert stub.asked == [does]
    await ann(tool, **arguments, idempotency_key="another")
    await ann(tool, **arguments)
    assert stub.asked == [does] * 3


@pytest.mark.parametrize(("tool", "arguments", "does"), REPEATED)
async def test_what_failed_is_done_again_when_it_is_repeated(
    stub: Stub, ann: Caller, tool: str, arguments: dict[str, Any], does: str
) -> None:
    stub.failures.append(NoCapacity("The host is full."))
    assert (await ann.refused(tool, **arguments, idempotency_key="k"))["code"] == "no_capacity"
    await ann(tool, **arguments, idempotency_key="k")
    assert stub.asked == [does] * 2


async def test_a_fork_tells_what_it_cost_and_what_was_dropped(ann: Caller) -> None:
    fork = await ann("workspace_fork", workspace_id="ws", count=2)
    assert (fork["pause_ms"], fork["copied_bytes"], fork["dropped_forwards"]) == (9.5, 4096, [8080])
    assert [worker["connections_closed"] for worker in fork["workers"]] == [2, None]


async def test_a_snapshot_tells_what_it_cost(ann: Caller) -> None:
    made = await ann("snapshot_create", workspace_id="ws", name="tidy")
    assert (made["pause_ms"], made["duration_secs"]) == (12.5, 0.75)


@pytest.mark.parametrize(
    ("started_by", "note"),
    [
        ("restore", "restore in 0.25 s"),
        ("pool", "pool in 0.25 s, it was restored ahead"),
        ("cold_boot", "cold_boot in 0.25 s, no process was kept"),
    ],
)
def test_a_start_tells_by_what_it_was_and_how_long_it_took(started_by: str, note: str) -> None:
    assert state_result(attrs.evolve(INFO, started_by=started_by)).note == note


def test_a_start_tells_what_it_has_proven() -> None:
    proof = "Proven: memory of generation 1, new entropy, clock within 0 ms, hostname ws-fork-1"
    assert proof in state_result(attrs.evolve(INFO, evidence=EVIDENCE)).note
    assert (
        "Proven: a fresh boot"
        in state_result(attrs.evolve(INFO, evidence=attrs.evolve(EVIDENCE, nonce_matched=False))).note
    )
    assert "Proven" not in state_result(attrs.evolve(INFO, evidence=EVIDENCE, state="stopped")).note


def test_a_failed_workspace_tells_how_its_machine_ended_in_a_line_and_as_a_whole() -> None:
    end = End(EndReason.PANIC, "Its guest's kernel panicked: why.", 1.0)
    failed = attrs.evolve(INFO, state="failed", ended=end, failure="Its guest's kernel panicked: why. Start it again.")
    assert summary_result(failed, owned=True).ended == workspace_result(failed).ended == "panic"
    assert text_of(workspace_result(failed)).startswith("ws is failed (panic), 0123: Its guest's kernel panicked: why.")
    assert text_of(ListResult([summary_result(failed, owned=True)], "")).startswith("ws  failed (panic)  base")
    assert workspace_result(INFO).ended is None


def test_a_mute_guest_is_told_of_with_the_time_it_has_been_so() -> None:
    mute = workspace_result(attrs.evolve(INFO, mute_since=time.time() - 7200))
    assert "its guest has not answered for 2 h" in text_of(mute)
    assert "answered" not in text_of(workspace_result(INFO))
