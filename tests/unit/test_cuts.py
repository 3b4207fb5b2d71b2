"""Nothing that is left out is left out in silence: a mark says so, and how it is seen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.model.guest import ExecResult, FileEntry, JobInfo, JobList
from actors.model.settings import Settings
from agentiso.access.gate import Gate
from agentiso.library.files import Files
from agentiso.library.git import Git, GitDiff
from agentiso.library.jobs import Jobs
from agentiso.library.system import System
from agentiso.library.workspace import Workspace
from agentiso.mcp.tools.files import MAX_LISTED
from agentiso.mcp.tools.jobs import MAX_LISTED as MAX_JOBS
from agentiso.mcp.tools.output import last_lines
from tests.standins import caller, open_stopped, wired

LIMIT_S = 30


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    async with open_stopped(Settings(state_dir=tmp_path), {"mine": "ann"}) as opened:
        yield opened


def stand_in(monkeypatch: pytest.MonkeyPatch, cls: type, method: str, result: Any) -> None:
    """Have a method return something instead of asking a guest."""

    async def answer(*_arguments: Any, **_keywords: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return result

    monkeypatch.setattr(cls, method, answer)


async def called(system: System, tool: str, **arguments: Any) -> Any:
    with trio.fail_after(LIMIT_S):
        async with caller(system, Gate(system.settings), "ann") as ann:
            return await ann(tool, workspace_id="mine", **arguments)


async def test_a_large_directory_is_listed_in_parts_that_make_the_whole(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number:05}" for number in range(2 * MAX_LISTED + 1)]
    stand_in(monkeypatch, Files, "list", tuple(FileEntry(name, "file", 0, 0o644, 0.0) for name in names))
    found: list[str] = []
    for _ in range(3):
        part = await called(system, "file_list", path="/", offset=len(found))
        found += [entry["name"] for entry in part["entries"]]
        assert (f"{len(names)} entries; offset={len(found)} " in part["note"]) == (len(found) < len(names))
    assert found == names
    assert await called(system, "file_list", path="/", offset=10**6) == {"entries": [], "note": ""}


async def test_the_end_of_a_log_says_that_it_is_an_end(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, Workspace, "qemu_log", "one\ntwo\n")
    stand_in(monkeypatch, Workspace, "console", "a\nb\nc\n" * 40_000)
    logs = await called(system, "workspace_logs", max_lines=2)
    assert logs["stderr"] == "one\ntwo"
    mark, *lines = logs["console"].splitlines()
    assert lines == ["b", "c"]
    assert "max_lines" in mark
    with trio.fail_after(LIMIT_S):
        async with wired(system) as wire:
            read = await wire.ask("resources/read", uri="agentiso://workspaces/mine/console")
    assert read["result"]["contents"][0]["text"].startswith("[... what came before is cut; workspace_logs")


def test_a_log_is_cut_by_lines_or_by_bytes() -> None:
    assert last_lines("a\nb", 2, cap_bytes=4, more="") == "a\nb"
    assert last_lines("a\nb", 1, cap_bytes=4, more="more").endswith("more ...]\nb")
    assert last_lines("a\nb", 2, cap_bytes=3, more="more").endswith("more ...]\na\nb")


async def test_a_long_list_of_jobs_says_how_many_there_are(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [JobInfo(f"{n}", "true", False, 0, None, False, float(n), 0.0, 0, 0) for n in range(MAX_JOBS + 1)]
    stand_in(monkeypatch, Jobs, "list", JobList(tuple(jobs), began_anew=True))
    listed = await called(system, "exec_list")
    assert len(listed["jobs"]) == MAX_JOBS
    assert "lost. There are 51 jobs; exec_poll" in listed["note"]
    stand_in(monkeypatch, Jobs, "list", JobList(tuple(jobs[1:]), began_anew=False))
    assert (await called(system, "exec_list"))["note"] == ""


async def test_a_diff_that_is_cut_says_how_to_read_on(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    for truncated in (True, False):
        stand_in(monkeypatch, Git, "diff", GitDiff("-a\n", truncated, 999, ""))
        diff = (await called(system, "git_diff"))["diff"]
        assert ("999 bytes in all, the rest is cut; file_path" in diff) == truncated


async def test_a_command_that_ran_out_of_time_hears_of_jobs(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, Jobs, "run", ExecResult(None, 9, b"", b"", 0, 0, True, 1.0, note="It was killed."))
    done = await called(system, "exec", command="sleep 9")
    assert done["note"].startswith("It was killed. exec_background")
