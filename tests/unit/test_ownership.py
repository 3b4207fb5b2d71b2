"""Whose workspace it is: who may use it, who sees it, and how it comes to be another's."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from actors.model.info import Shape
from actors.model.settings import Quotas, Settings
from actors.registry.admission import Claim, Ledger, QuotaExceeded
from agentiso.access.gate import Gate
from agentiso.access.presence import IDLE_S, VANISHED_S
from agentiso.library.system import System
from agentiso.mcp.schema import schema_for
from agentiso.mcp.tools import TOOLS, Tool
from agentiso.protocol.sessions import Client
from tests.standins import caller, open_stopped

LIMIT_S = 30
OWNERS = {"mine": "ann", "other": "bob", "orphan": "gone", "users": "cli", "librarys": "library"}
NOT_ABOUT_OWNERSHIP = {"workspace_adopt"}


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    settings = Settings(state_dir=tmp_path, quotas=Quotas(workspaces=4))
    async with open_stopped(settings, OWNERS) as opened:
        yield opened


@pytest.fixture
async def gate(system: System) -> Gate:
    """The rules, with two sessions that exist and one that was revoked."""
    made = Gate(system.settings)
    for name in ("ann", "bob"):
        made.sessions.open(name)
    return made


def arguments_for(tool: Tool) -> dict[str, Any]:
    """Return valid arguments of a tool, as few as can be, about the workspace `other`."""
    schema = schema_for(tool.arguments)

    def value(of: dict[str, Any]) -> Any:
        if "enum" in of:
            return of["enum"][0]
        match of.get("type"):
            case "integer" | "number":
                return of.get("minimum", 1)
            case "boolean":
                return False
            case "array":
                return [value(of["items"])]
            case "object":
                return {key: value(inner) for key, inner in of.get("properties", {}).items() if key in of["required"]}
            case _:
                return "/x"

    given = {key: value(schema["properties"][key]) for key in schema["required"]}
    return {**given, "workspace_id": "other"}


@pytest.mark.parametrize(
    "tool",
    [
        tool
        for tool in TOOLS
        if "workspace_id" in schema_for(tool.arguments)["properties"]
        and tool.name not in NOT_ABOUT_OWNERSHIP
        and not tool.hidden
    ],
    ids=lambda tool: str(tool.name),
)
async def test_no_tool_works_on_a_workspace_of_another_session(system: System, gate: Gate, tool: Tool) -> None:
    with trio.fail_after(LIMIT_S):
        async with caller(system, gate, "ann") as ann:
            error = await ann.refused(tool.name, **arguments_for(tool))
            assert error["code"] == "not_owner"
            assert "'bob'" in error["message"]
            assert "workspace_adopt" in error["remedy"]


async def test_a_command_in_many_workspaces_spares_those_of_other_sessions(system: System, gate: Gate) -> None:
    with trio.fail_after(LIMIT_S):
        async with caller(system, gate, "ann") as ann:
            result = await ann("exec_parallel", workspace_ids=["other", "mine"], commands="true")
            errors = [item["error"] for item in result["results"]]
            assert "belongs to session 'bob'" in errors[0]
            assert "is stopped" in errors[1]


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool.hidden], ids=lambda tool: str(tool.name))
async def test_what_is_the_command_lines_own_is_there_for_no_session(system: System, gate: Gate, tool: Tool) -> None:
    """Not even for the owner of the workspace: such tools read and write files of the host."""
    with trio.fail_after(LIMIT_S):
        async with caller(system, gate, "ann") as ann:
            error = await ann.refused(tool.name, **{**arguments_for(tool), "workspace_id": "mine"})
            assert error["code"] == "unknown_tool"
            assert tool.name not in error["remedy"]


async def test_the_list_shows_what_is_not_owned_and_says_so(system: System, gate: Gate) -> None:
    with trio.fail_after(LIMIT_S):
        async with caller(system, gate, "ann") as ann, caller(system, gate, "cli") as user:
            listed = {ws["name"]: ws for ws in (await ann("workspace_list"))["workspaces"]}
            assert {name: ws["owner"] for name, ws in listed.items()} == OWNERS
            assert [name for name, ws in listed.items() if ws["owned"]] == ["mine"]
            assert all(ws["owned"] for ws in (await user("workspace_list"))["workspaces"])
            assert (await user("workspace_info", workspace_id="other"))["owner"] == "bob"


async def test_a_workspace_can_be_adopted_once_its_owner_is_idle(
    system: System, gate: Gate, mock_clock: MockClock
) -> None:
    mock_clock.rate = 1.0
    async with caller(system, gate, "ann") as ann, caller(system, gate, "bob") as bob:
        with gate.presence.here("bob"):
            mock_clock.jump(2 * IDLE_S)
            busy = await ann.refused("workspace_adopt", workspace_id="other")
            assert busy["code"] == "owner_busy"
            assert "is connected" in busy["message"]
        mock_clock.jump(IDLE_S / 2)
        assert "left 30 s ago" in (await ann.refused("workspace_adopt", workspace_id="other"))["message"]
        mock_clock.jump(IDLE_S / 2)
        adopted = await ann("workspace_adopt", workspace_id="other")
        assert (adopted["adopted"], adopted["adopted_from"]) == (True, "bob")
        assert (await ann("workspace_info", workspace_id="other"))["owner"] == "ann"
        assert (await bob.refused("workspace_info", workspace_id="other"))["code"] == "not_owner"
        assert not (await ann("workspace_adopt", workspace_id="other"))["adopted"]


async def test_force_adopts_from_a_connected_owner_and_the_owner_is_kept_on_disk(system: System, gate: Gate) -> None:
    with trio.fail_after(LIMIT_S):
        async with caller(system, gate, "ann") as ann:
            with gate.presence.here("bob"):
                assert (await ann("workspace_adopt", workspace_id="other", force=True))["adopted"]
    records = [path.read_text() for path in system.settings.state_dir.glob("workspaces/*/record.json")]
    assert sum('"owner": "ann"' in text or '"owner":"ann"' in text for text in records) == 2


async def test_all_orphans_are_adopted_and_nothing_of_a_session_that_may_come_back(system: System, gate: Gate) -> None:
    with trio.fail_after(LIMIT_S):
        async with caller(system, gate, "ann") as ann:
            result = await ann("workspace_adopt_all")
            assert {ws["name"] for ws in result["adopted"]} == {"orphan", "librarys"}
            assert (result["adopted_count"], result["error_count"]) == (2, 0)
            # A day later bob's are orphans too; the fifth workspace of the list is the user's.
            path = system.settings.state_dir / "sessions" / "bob.json"
            os.utime(path, (0, time.time() - VANISHED_S))
            with gate.presence.here("bob"):
                assert (await ann("workspace_adopt_all"))["adopted_count"] == 0
            os.utime(path, (0, time.time() - VANISHED_S))
            assert [ws["name"] for ws in (await ann("workspace_adopt_all"))["adopted"]] == ["other"]


async def test_adoption_counts_against_the_quota(system: System, gate: Gate) -> None:
    with trio.fail_after(LIMIT_S):
        async with caller(system, gate, "ann") as ann:
            for name in ("other", "orphan", "librarys"):
                await ann("workspace_adopt", workspace_id=name, force=True)
            error = await ann.refused("workspace_adopt", workspace_id="users", force=True)
            assert error["code"] == "quota_exceeded"
            assert error["message"].startswith("Session 'ann' may have 4 workspaces; it has 4 and asked for 1 more.")
            assert (await ann("workspace_list"))["workspaces"][3]["owner"] == "cli"


async def test_a_fork_is_within_the_quota_as_a_whole_or_not_at_all(system: System) -> None:
    with trio.fail_after(LIMIT_S):
        ws = await system.get("mine")
        with pytest.raises(QuotaExceeded) as refused:
            await ws.fork(4, owner="ann")
        assert refused.value.facts == {"resource": "workspaces", "limit": 4, "current": 1, "requested": 4}
        assert len(await system.list()) == len(OWNERS)


async def test_a_session_that_was_revoked_while_connected_is_refused(system: System, gate: Gate) -> None:
    gate.admit(Client("ann", "unix"), "exec")
    gate.sessions.revoke("ann")
    with pytest.raises(Exception, match="was revoked"):
        gate.admit(Client("ann", "unix"), "exec")
    gate.admit(Client("cli", "unix"), "exec")


def claim(owner: str) -> Claim:
    return Claim(owner, Shape(vcpus=1, memory_mb=1024, disk_gb=10))


def test_a_quota_names_what_is_exceeded_and_nothing_is_taken() -> None:
    ledger = Ledger(Quotas(workspaces=10, memory_mb=4096, disk_gb=1000, concurrent_forks=5))
    ledger.take({"1": claim("ann"), "2": claim("bob")})
    with pytest.raises(QuotaExceeded) as refused:
        ledger.take({str(number): claim("ann") for number in range(10, 14)})
    assert refused.value.facts == {"resource": "memory_mb", "limit": 4096, "current": 1024, "requested": 4096}
    assert ledger.usage("ann") == {"workspaces": 1, "memory_mb": 1024, "disk_gb": 10, "concurrent_forks": 0}
    ledger.take({str(number): claim("ann") for number in range(10, 13)})
    ledger.give_back("1")
    ledger.give_back("1")
    assert ledger.usage("ann")["workspaces"] == 3


def test_children_that_are_starting_are_bounded_and_counted_only_while_they_start() -> None:
    ledger = Ledger(Quotas(concurrent_forks=5))
    with ledger.forking("ann", 3), ledger.forking("bob", 5):
        with (
            pytest.raises(QuotaExceeded, match="5 concurrent_forks; it has 3 and asked for 3"),
            ledger.forking("ann", 3),
        ):
            pass
        with ledger.forking("ann", 2):
            pass
    with ledger.forking("ann", 5):
        pass


def test_the_user_and_the_library_are_bound_by_no_quota() -> None:
    ledger = Ledger(Quotas(workspaces=0, memory_mb=0, disk_gb=0, concurrent_forks=0))
    for owner in ("cli", "library"):
        ledger.take({owner: claim(owner)})
        with ledger.forking(owner, 50):
            pass
