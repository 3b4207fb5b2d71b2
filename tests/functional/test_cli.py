"""The command line as a person or a script types it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
import trio

from tests.machines import ARGV

pytestmark = pytest.mark.functional
LIMIT_S = 600


async def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(LIMIT_S):
        return await trio.run_process([*ARGV, *arguments], env=environment, capture_stdout=True)


async def run_json(environment: dict[str, str], *arguments: str) -> Any:
    return json.loads((await run(environment, *arguments, "--json")).stdout)


async def test_a_workspace_is_made_used_forked_and_destroyed(environment: dict[str, str]) -> None:
    assert b"cli is running" in (await run(environment, "create", "cli")).stdout
    done = await trio.run_process(
        [*ARGV, "exec", "cli", "--", "sh", "-c", "echo out; echo err >&2; exit 7"],
        env=environment, capture_stdout=True, capture_stderr=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    await trio.run_process([*ARGV, "env", "cli", "TOKEN"], env=environment, stdin=b"s3cret\n", capture_stdout=True)
    shown = await run(
        environment, "exec", "cli", "--json", "-e", "A=1", "--", "sh", "-c", 'echo "$A $TOKEN" > /f; cat /f'
    )
    assert json.loads(shown.stdout)["stdout"] == "1 s3cret\n"
    assert (await run(environment, "cat", "cli:/f")).stdout == b"1 s3cret\n"
    assert "f" in [entry["name"] for entry in await run_json(environment, "ls", "cli:/")]
    assert b"/f:1:1 s3cret" in (await run(environment, "search", "cli:/f", "s3")).stdout
    audit = await run(environment, "audit", "--json")
    assert b"s3cret" not in audit.stdout
    lines = [(line["tool"], line["transport"], line["outcome"]) for line in json.loads(audit.stdout)]
    assert {("set_env", "unix", "ok"), ("exec", "attach", "ok"), ("file_read", "unix", "ok")} <= set(lines)
    await run(environment, "snapshot", "create", "cli", "tidy")
    assert [s["name"] for s in await run_json(environment, "snapshot", "list", "cli")] == ["tidy"]
    fork = await run_json(environment, "fork", "cli", "-n", "2")
    assert [worker["name"] for worker in fork["workers"]] == ["cli-fork-1", "cli-fork-2"]
    await run(environment, "snapshot", "restore", "cli", "tidy")
    listed = await run_json(environment, "list")
    names = ["cli", "cli-fork-1", "cli-fork-2"]
    assert [(w["name"], w["state"]) for w in listed] == [(name, "running") for name in names]
    many = [*ARGV, "destroy", "cli", "nobody", "cli-fork-1", "cli-fork-2"]
    done = await trio.run_process(many, env=environment, capture_stdout=True, capture_stderr=True, check=False)
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 3)
    assert b"There is no workspace 'nobody'" in done.stderr
    assert await run_json(environment, "list") == []


async def test_the_demo_prints_one_object_with_its_timings(environment: dict[str, str]) -> None:
    shown = await run_json(environment, "demo")
    assert shown["accelerator"] in ("kvm", "tcg")
    assert {"name", "seconds"} == set(shown["steps"][0])
    assert shown["fork"]["count"] == len(shown["fork"]["child_ready_ms"]) == 3
    assert shown["fork"]["pause_ms"] > 0


async def test_the_benchmark_gives_each_row_with_its_floor_and_ratio(environment: dict[str, str]) -> None:
    shown = await run_json(environment, "bench", "--quick", "exec_true", "fork_pause", "mcp_call_overhead")
    *with_floor, overhead = shown["rows"]
    assert [row["name"] for row in with_floor] == ["fork_pause", "exec_true"]
    assert overhead["floor"] is None
    for row in with_floor:
        assert row["samples"] == row["floor"]["samples"]
        assert 0 < row["p50"] <= row["p95"]
        assert row["ratio"] == pytest.approx(row["p50"] / row["floor"]["p50"], abs=0.01)


async def test_check_names_every_probe_with_its_verdict(environment: dict[str, str]) -> None:
    probes = {probe["name"]: probe for probe in await run_json(environment, "check")}
    assert probes["accelerator"]["verdict"] in ("kvm", "tcg")
    assert "tcg: " in probes["accelerator"]["reason"] or probes["accelerator"]["verdict"] == "kvm"
    assert all(set(probe) == {"name", "ok", "verdict", "reason", "fix"} for probe in probes.values())


async def test_the_completion_script_completes_commands_in_a_real_shell(environment: dict[str, str]) -> None:
    script = (await run(environment, "completion", "bash")).stdout.decode()
    ask = script + "\nCOMP_WORDS=(agentiso sn); COMP_CWORD=1; _shtab_agentiso; echo ${COMPREPLY[@]}"
    done = await trio.run_process(["bash", "-c", ask], capture_stdout=True)
    assert done.stdout.decode().split() == ["snapshot"]
