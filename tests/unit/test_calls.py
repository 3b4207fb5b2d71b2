"""What every call passes: rate limits, idempotency keys, the audit log, questions to the person behind the client."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
import trio
from mcp.shared.exceptions import MCPError
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.model.errors import (
    ActorGone,
    GuestRefused,
    InvalidArgument,
    NeverBegun,
    NoCapacity,
    OutcomeUnknown,
    Unfinished,
)
from actors.model.guest import FileEntry
from actors.model.settings import Audit, Rate, RateLimits, Settings
from agentiso.access.audit import FIELDS, HIDDEN, AuditLog, read_last, summary
from agentiso.access.gate import Gate
from agentiso.access.ratelimits import CREATE, EXEC, Limiter, RateLimited, bucket_of
from agentiso.library.files import Files
from agentiso.library.system import System
from agentiso.library.workspace import Workspace
from agentiso.mcp.calls import ERROR_META
from agentiso.mcp.once import Once
from agentiso.mcp.resources import READ
from agentiso.mcp.tools import TOOLS
from agentiso.mcp.uris import MANUAL, ROOT
from agentiso.protocol.sessions import Client
from tests.standins import caller, open_stopped, wired

LIMIT_S = 30
ANN = Client("ann", "memory")


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    async with open_stopped(Settings(state_dir=tmp_path), {"mine": "ann", "other": "bob", "spare": "bob"}) as opened:
        yield opened


@pytest.fixture
async def gate(system: System) -> Gate:
    made = Gate(system.settings)
    for name in ("ann", "bob"):
        made.sessions.open(name)
    return made


# -- rate limits


async def test_a_burst_passes_and_what_is_refused_says_when_to_try_again(mock_clock: MockClock) -> None:
    limiter = Limiter(RateLimits(exec=Rate(per_minute=60, burst=20)))
    for _ in range(20):
        limiter.count("ann", "exec")
    with pytest.raises(RateLimited) as refused:
        limiter.count("ann", "exec")
    assert refused.value.facts == {"retry_after_s": 1.0}
    assert "Try again in 1.0 s." in str(refused.value)
    limiter.count("bob", "exec")
    limiter.count("ann", "workspace_list")
    mock_clock.jump(1.0)
    limiter.count("ann", "exec")
    with pytest.raises(RateLimited):
        limiter.count("ann", "exec")
    mock_clock.jump(3600.0)
    for _ in range(20):
        limiter.count("ann", "exec")


async def test_the_defaults_let_many_agents_worth_of_parallel_work_pass() -> None:
    limiter = Limiter(RateLimits())
    for _ in range(50):
        limiter.count("ann", "workspace_fork")
        limiter.count("ann", "exec")


def test_each_limit_is_used_and_each_tool_that_it_names_is_there_or_will_be() -> None:
    assert {bucket_of(tool.name) for tool in TOOLS} == {"create", "exec", "default"}
    names = {tool.name for tool in TOOLS}
    assert {"workspace_create", "workspace_fork"} <= CREATE & names
    assert "exec" in EXEC & names


async def test_a_call_too_many_is_refused_with_the_time_to_wait(system: System, gate: Gate) -> None:
    gate._limiter = Limiter(RateLimits(default=Rate(per_minute=1, burst=2)))
    with trio.fail_after(LIMIT_S):
        async with caller(system, gate, "ann") as ann, caller(system, gate, "cli") as user:
            for _ in range(2):
                await ann("workspace_list")
            error = await ann.refused("workspace_list")
            assert error["code"] == "rate_limited"
            assert 50 < error["facts"]["retry_after_s"] <= 60
            for _ in range(3):
                await user("workspace_list")


async def test_a_resource_is_read_under_the_rules_of_a_call(system: System, gate: Gate) -> None:
    gate._limiter = Limiter(RateLimits(default=Rate(per_minute=1, burst=1)))
    with trio.fail_after(LIMIT_S):
        async with caller(system, gate, "ann") as ann:
            await ann.client.read_resource(ROOT)
            with pytest.raises(MCPError, match="calls too often"):
                await ann.client.read_resource(ROOT)


async def test_one_call_over_twenty_workspaces_counts_once(system: System, gate: Gate) -> None:
    gate._limiter = Limiter(RateLimits(exec=Rate(per_minute=1, burst=1)))
    with trio.fail_after(LIMIT_S):
        async with caller(system, gate, "ann") as ann:
            result = await ann("exec_parallel", workspace_ids=["mine"] * 20, commands="true")
            assert ["is stopped" in item["error"] for item in result["results"]] == [True] * 20
            assert (await ann.refused("exec", workspace_id="mine", command="true"))["code"] == "rate_limited"


# -- idempotency keys


async def test_a_repeated_destruction_gives_the_first_ones_result(system: System, gate: Gate) -> None:
    with trio.fail_after(LIMIT_S):
        async with caller(system, gate, "bob") as bob, caller(system, gate, "ann") as ann:
            first = await bob("workspace_destroy", workspace_id="spare", idempotency_key="k1")
            assert await bob("workspace_destroy", workspace_id="spare", idempotency_key="k1") == first
            other = await bob.refused("workspace_destroy", workspace_id="other", idempotency_key="k1")
            assert other["code"] == "invalid_argument"
            # A key is its session's own.
            error = await ann.refused("workspace_destroy", workspace_id="spare", idempotency_key="k1")
            assert error["code"] == "not_found"
            assert (await bob.refused("workspace_destroy", workspace_id="spare"))["code"] == "not_found"


async def test_a_repetition_waits_for_the_first_and_takes_over_when_that_is_cancelled(
    autojump_clock: MockClock,
) -> None:
    once, began, results = Once(), [], []

    async def work() -> int:
        began.append(trio.current_time())
        await trio.sleep(10)
        return len(began)

    async def repeat(scope: trio.CancelScope) -> None:
        with scope:
            results.append(await once(("ann", "t", "k"), {"a": 1}, work))

    first = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(repeat, first)
        await wait_all_tasks_blocked()
        for _ in range(2):
            nursery.start_soon(repeat, trio.CancelScope())
        await wait_all_tasks_blocked()
        assert len(began) == 1
        first.cancel(reason="the client is gone")
    assert results == [2, 2]
    assert await once(("ann", "t", "k"), {"a": 1}, work) == 2
    with pytest.raises(InvalidArgument, match="other arguments"):
        await once(("ann", "t", "k"), {"a": 2}, work)


@pytest.mark.parametrize(
    "failure",
    [OutcomeUnknown("It is late."), Unfinished("It goes on."), ActorGone("It crashed."), RuntimeError("A bug.")],
)
async def test_what_may_have_been_done_is_not_done_again_under_its_key(failure: Exception) -> None:
    once, begun = Once(), []

    async def work() -> int:
        begun.append(1)
        await trio.lowlevel.checkpoint()
        if len(begun) == 1:
            raise ExceptionGroup("in a nursery", [failure])
        return 7

    with trio.fail_after(LIMIT_S):
        with pytest.raises(ExceptionGroup):
            await once(("ann", "t", "k"), {}, work)
        for _ in range(2):
            with pytest.raises(OutcomeUnknown, match=f"whether it was done is unknown: {failure}"):
                await once(("ann", "t", "k"), {}, work)
        assert len(begun) == 1
        assert await once(("ann", "t", "another"), {}, work) == 7


@pytest.mark.parametrize(
    ("failure", "idempotent"), [(NeverBegun("Late."), False), (NoCapacity("Full."), False), (Unfinished("On."), True)]
)
async def test_what_was_undone_or_does_no_harm_twice_is_done_again(failure: Exception, *, idempotent: bool) -> None:
    once, failures = Once(), [failure]

    async def work() -> int:
        await trio.lowlevel.checkpoint()
        if failures:
            raise ExceptionGroup("in a nursery", [failures.pop(), NoCapacity("Full too.")])
        return 7

    with trio.fail_after(LIMIT_S):
        with pytest.raises(ExceptionGroup):
            await once(("ann", "t", "k"), {}, work, idempotent=idempotent)
        assert await once(("ann", "t", "k"), {}, work, idempotent=idempotent) == 7


# -- the audit log


async def test_each_call_is_one_line_with_who_what_and_how_it_ended(system: System, gate: Gate) -> None:
    with trio.fail_after(LIMIT_S):
        async with caller(system, gate, "ann") as ann:
            await ann("workspace_info", workspace_id="mine")
            await ann.refused("workspace_info", workspace_id="other")
            await ann.refused("workspace_info", workspace_id=7)
            await ann.refused("no_such_tool")
            content = "hunter2 is the password"
            await ann.refused("file_write", workspace_id="other", path="/root/x", content=content)
    path = system.settings.state_dir / "audit.log"
    assert path.stat().st_mode & 0o777 == 0o600
    assert "hunter2" not in path.read_text()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["ok", "not_owner", "invalid_argument", "unknown_tool", "not_owner"]
    assert [line["workspace"] for line in lines] == ["mine", "other", None, None, "other"]
    for line in lines:
        assert (line["session"], line["transport"]) == ("ann", "memory")
        assert line["duration_ms"] >= 0
    assert lines[4]["arguments"]["content"] == f"<{len(content)} characters>"
    assert read_last(system.settings.state_dir, 2).lines == lines[-2:]


async def test_whoever_asks_can_read_the_manual(system: System, gate: Gate) -> None:
    with trio.fail_after(LIMIT_S):
        async with caller(system, gate, "ann") as ann:
            assert MANUAL in [str(each.uri) for each in (await ann.client.list_resources()).resources]
            (content,) = (await ann.client.read_resource(MANUAL)).contents
    assert "is an agentiso workspace" in getattr(content, "text", "")


async def test_a_resource_that_is_read_is_a_line_too(system: System, gate: Gate) -> None:
    uris = {
        "/mine": "ok",
        "/mine/qemu-log": "ok",
        "/other": "not_owner",
        "/other/jobs/x": "not_owner",
        "/nobody": "not_found",
        "/mine/nothing": "not_found",
        "": "ok",
    }
    with trio.fail_after(LIMIT_S):
        async with caller(system, gate, "ann") as ann:
            for uri, outcome in uris.items():
                with contextlib.nullcontext() if outcome == "ok" else pytest.raises(MCPError):
                    await ann.client.read_resource(ROOT + uri)
    lines = read_last(system.settings.state_dir, 9).lines
    assert [(line["tool"], line["outcome"]) for line in lines] == [(READ, outcome) for outcome in uris.values()]
    assert [line["arguments"]["uri"] for line in lines] == [ROOT + uri for uri in uris]
    assert [line["workspace"] for line in lines] == ["mine", "mine", "other", "other", None, None, None]


def test_what_is_secret_is_left_out() -> None:
    shown = json.dumps(
        summary(
            {
                "env": {"KEY": "s3cret-1", "deep": {"x": ["s3cret-2"]}},
                "url": "https://user:s3cret-3@host/repo.git?access_token=s3cret-4&x=1",
                "command": "curl -H 'Authorization: Bearer s3cret-5' x; export API_KEY=s3cret-6; echo ghp_s3cret7890",
                "content": "s3cret-7",
                "api_token": "s3cret-8",
                "data": "s3cret-9" * 1000,
                "commands": [{"command": "true", "env": {"A": "s3cret-10"}}],
            }
        )
    )
    assert "s3cret" not in shown
    assert HIDDEN in shown
    assert "host/repo.git" in shown
    assert "curl -H" in shown
    assert '{"command": "true", "env": {"A": "***"}}' in shown
    long = summary({"command": "x" * 5000})["command"]
    assert len(long) < 300
    assert "(5000 characters)" in long


def test_a_full_log_is_put_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, Audit(max_mb=1, keep=2))
    for path in ("audit.log", "audit.log.1", "audit.log.2"):
        line = dict.fromkeys(FIELDS) | {"tool": path, "arguments": {"fill": "x" * 1024 * 1024}}
        (tmp_path / path).write_text(json.dumps(line) + "\n")
    with log.call(ANN, "exec", {}) as entry:
        entry.outcome = "ok"
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(kept) == {"audit.log", "audit.log.1", "audit.log.2"}
    assert '"tool": "audit.log"' in kept["audit.log.1"]
    assert '"tool": "audit.log.1"' in kept["audit.log.2"]
    assert [line["tool"] for line in read_last(tmp_path, 3).lines] == ["audit.log.1", "audit.log", "exec"]


def test_what_is_half_a_line_is_counted_and_hides_no_other(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, Audit())
    with log.call(ANN, "exec", {}), log.call(ANN, "file_read", {}):
        pass
    path = tmp_path / "audit.log"
    # The disk was full.
    os.truncate(path, path.stat().st_size - 20)
    with log.call(ANN, "jobs", {}):
        pass
    with path.open("ab") as file:
        file.write(b"\xff\x00null\n7\n{}\n")
    found = read_last(tmp_path, 9)
    assert ([line["tool"] for line in found.lines], found.skipped) == (["file_read", "jobs"], 4)


def test_a_log_that_cannot_be_written_fails_no_call(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "audit.log").mkdir()
    with AuditLog(tmp_path, Audit()).call(ANN, "exec", {}) as entry:
        entry.outcome = "ok"
    assert "could not be written" in caplog.text


# -- what cannot be sent


async def test_half_characters_of_a_lying_guest_end_no_connection(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie = "\ud800.txt"

    async def list_files(_files: Files, path: str) -> tuple[FileEntry, ...]:
        if path != "/":
            raise GuestRefused(f"{lie} is what it says.", remedy=lie)
        return (FileEntry(lie, lie, 0, 0, math.inf),)

    async def console(_workspace: Workspace, _max_bytes: int) -> str:
        return lie

    monkeypatch.setattr(Files, "list", list_files)
    monkeypatch.setattr(Workspace, "console", console)
    with trio.fail_after(LIMIT_S):
        async with wired(system) as wire:
            call: dict[str, Any] = {"name": "file_list", "arguments": {"workspace_id": "mine", "path": "/"}}
            told = (await wire.ask("tools/call", **call))["result"]["structuredContent"]["entries"][0]
            assert (told["name"], told["modified"]) == (r"\ud800.txt", None)
            call["arguments"]["path"] = "/root"
            failed = (await wire.ask("tools/call", **call))["result"]
            assert failed["isError"]
            assert failed["_meta"][ERROR_META]["remedy"] == r"\ud800.txt"
            read = await wire.ask("resources/read", uri="agentiso://workspaces/mine/console")
            assert r"\ud800.txt" in read["result"]["contents"][0]["text"]


# -- questions


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_person_is_asked_before_anothers_work_is_destroyed(system: System, gate: Gate, mode: str) -> None:
    questions: list[str] = []
    answers: list[types.ElicitResult] = [
        types.ElicitResult(action="decline"),
        types.ElicitResult(action="accept", content={"confirm": False}),
        types.ElicitResult(action="accept", content={"confirm": True}),
    ]

    async def person(_context: Any, params: Any) -> types.ElicitResult:
        questions.append(params.message)
        return answers.pop(0)

    with trio.fail_after(LIMIT_S):
        async with caller(system, gate, "ann", mode=mode, elicitation_callback=person) as ann:
            for _ in range(2):
                assert (await ann.refused("workspace_destroy", workspace_id="other"))["code"] == "declined"
            await ann("workspace_destroy", workspace_id="other")
            assert len(questions) == 3
            assert "belongs to session 'bob'" in questions[0]
            # Its own is destroyed without a question.
            await ann("workspace_destroy", workspace_id="mine")
            assert {info.name for info in await system.list()} == {"spare"}


async def test_without_anybody_to_ask_anothers_work_takes_force(system: System, gate: Gate) -> None:
    with trio.fail_after(LIMIT_S):
        async with caller(system, gate, "ann") as ann:
            assert (await ann.refused("workspace_destroy", workspace_id="other"))["code"] == "not_owner"
            await ann("workspace_adopt", workspace_id="spare", force=True)
            error = await ann.refused("workspace_destroy", workspace_id="spare")
            assert error["code"] == "work_of_another"
            assert "force=true" in error["remedy"]
            await ann("workspace_destroy", workspace_id="spare", force=True)
            gate.sessions.revoke("bob")
            await ann("workspace_adopt_all")
            await ann("workspace_destroy", workspace_id="other")
