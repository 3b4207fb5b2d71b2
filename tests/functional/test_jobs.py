"""Commands that cannot be lost: jobs over the death of clients and supervisors, suspension and forks; a shell."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from mcp import Client, StdioServerParameters, stdio_client

import agentiso
from agentiso.client.tools import META
from tests.machines import ARGV
from tests.processes import until_ended

pytestmark = pytest.mark.functional
LIMIT_S = 600
COUNT = """
i=0; while [ $i -lt 3000 ]; do
    echo "line $i"; i=$((i+1))
    if [ $i = 300 ]; then while [ ! -e /tmp/go ]; do sleep 0.1; done; fi
done; exit 3"""
WHOLE = "".join(f"line {number}\n" for number in range(3000))


async def run(environment: dict[str, str], *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    return await trio.run_process(
        [*ARGV, *arguments], env=environment, capture_stdout=True, capture_stderr=True, check=check
    )


async def run_json(environment: dict[str, str], *arguments: str) -> Any:
    return json.loads((await run(environment, *arguments, "--json")).stdout)


async def test_a_command_survives_its_client_and_its_supervisor_without_a_byte_missing(
    environment: dict[str, str], template_state: Path
) -> None:
    with trio.fail_after(LIMIT_S):
        await run(environment, "create", "lasting")
        await run(environment, "session", "create", "keeper")
        await run(environment, "adopt", "lasting", "--session", "keeper")
        arguments = {"workspace_id": "lasting", "command": COUNT}
        params = {"name": "exec", "arguments": arguments, "_meta": {**META, "progressToken": 1}}
        client = await trio.lowlevel.open_process(
            [*ARGV, "serve", "--session", "keeper"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        assert client.stdin is not None
        assert client.stdout is not None
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        await client.stdin.send_all(json.dumps(request).encode() + b"\n")
        said = b""
        while b"line 299" not in said:
            said += await client.stdout.receive_some()
            assert b'"result"' not in said, said
        client.send_signal(signal.SIGKILL)
        await client.wait()
        await client.stdin.aclose()
        await client.stdout.aclose()
        # The lock is empty once its holder has ended.
        supervisor = int((template_state / "lock").read_text())
        await run(environment, "daemon", "stop")
        await until_ended(supervisor)

        parameters = StdioServerParameters(
            command=ARGV[0], args=[*ARGV[1:], "serve", "--session", "keeper"], env=environment
        )
        async with Client(stdio_client(parameters)) as later:

            async def call(tool: str, **given: Any) -> Any:
                result = await later.call_tool(tool, {"workspace_id": "lasting", **given})
                assert not result.is_error, result.content
                return result.structured_content

            [job] = [job for job in (await call("exec_list"))["jobs"] if "line" in job["command"]]
            assert job["running"]
            await call("exec", command="touch /tmp/go")
            text, cursor = "", 0
            while True:
                polled = await call("exec_poll", job_id=job["job_id"], stdout_cursor=cursor, wait_secs=1)
                assert polled["lost_bytes"] == 0
                text, cursor = text + polled["stdout"], polled["stdout_cursor"]
                if not polled["running"] and not polled["left_bytes"]:
                    break
            assert polled["exit_code"] == 3
            assert text == WHOLE

            killed = await call("exec_background", command="sleep 1000", stdin=True)
            assert (await call("exec_input", job_id=killed["job_id"], input="x\n"))["taken_bytes"] == 2
            assert (await call("exec_kill", job_id=killed["job_id"]))["status"] == "killed"
            assert (await call("exec_kill", job_id=killed["job_id"]))["status"] == "already_ended"
            assert (await call("set_env", vars={"GREETING": "hello"}))["count"] == 1
            both = await later.call_tool(
                "exec_parallel", {"workspace_ids": ["lasting", "nobody"], "commands": "echo $GREETING"}
            )
            assert both.structured_content is not None
            good, bad = both.structured_content["results"]
            assert (good["stdout"], good["error"]) == ("hello\n", None)
            assert "nobody" in bad["error"]
            yielded = await call("exec", command="echo now; sleep 1000", yield_secs=0.5)
            assert yielded["running"]
            shown = yielded["stdout"]
            while not shown:
                shown = (await call("exec_poll", job_id=yielded["job_id"], wait_secs=1))["stdout"]
            assert shown == "now\n"
            with trio.move_on_after(2):
                await call("exec", command="exec sleep 12345")
            # A call that its client takes back is ended with all that it started.
            while "sleep 12345" in (await call("exec", command="cat /proc/[0-9]*/cmdline | tr '\\0' ' '"))["stdout"]:
                pass
        await run(environment, "destroy", "lasting")


async def test_a_job_keeps_its_id_over_suspension_and_gets_another_in_a_fork(system: agentiso.System) -> None:
    with trio.fail_after(LIMIT_S):
        ws = await system.create()
        job = await ws.jobs.start("echo before; read line; echo $line; sleep 0.2; exit 6", stdin=True)
        await ws.jobs.wait(job.job_id, text="before", wait_s=LIMIT_S)
        await ws.suspend()
        info = await ws.resume()
        assert info.evidence is not None
        assert [(carried.job_id, carried.carried_from) for carried in info.evidence.jobs] == [(job.job_id, None)]
        child = (await ws.fork(1))[0]
        evidence = (await child.info()).evidence
        assert evidence is not None
        [carried] = evidence.jobs
        assert carried.carried_from == job.job_id
        for where, job_id, line in ((ws, job.job_id, "parent"), (child, carried.job_id, "child")):
            await where.jobs.input(job_id, f"{line}\n", end=True)
            ended = await where.jobs.wait(job_id, wait_s=LIMIT_S)
            assert (ended.job.exit_code, ended.stdout.decode()) == (6, f"before\n{line}\n")
        with pytest.raises(agentiso.AgentisoError, match="no job"):
            await child.jobs.poll(job.job_id)
        # SIGKILL reaches even what has made a session of its own.
        daemon = await ws.jobs.start("setsid sleep 54321 & wait")
        await ws.jobs.wait(daemon.job_id, wait_s=0.5)
        assert (await ws.jobs.kill(daemon.job_id)).gone
        assert (await ws.exec("pgrep -f 'sleep 5432[1]'")).exit_code == 1
        # Whoever stops listening to a stream ends its command.
        async with ws.stream("echo first; echo second >&2; exec sleep 54322") as output:
            seen = [(event.stream, event.data) async for event in _first(output, 2)]
        assert sorted(seen) == [(1, b"first\n"), (2, b"second\n")]
        assert (await ws.exec("pgrep -f 'sleep 5432[2]'")).exit_code == 1
        await child.destroy()
        await ws.destroy()


async def _first(output: agentiso.Output, count: int) -> AsyncIterator[agentiso.OutputEvent]:
    for _ in range(count):
        yield await anext(output)


def peak_kib(pid: int) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


async def test_the_command_line_streams_a_hundred_mebibytes_with_flat_memory_and_keeps_statuses(
    environment: dict[str, str], template_state: Path, tmp_path: Path
) -> None:
    with trio.fail_after(LIMIT_S):
        await run(environment, "create", "wide")
        await run(environment, "exec", "wide", "--", "head -c 1048576 /dev/zero")
        supervisor = int((template_state / "lock").read_text())
        before = peak_kib(supervisor)
        target = tmp_path / "output"
        with target.open("wb") as file:
            await trio.run_process(
                [*ARGV, "exec", "wide", "--", "head -c 104857600 /dev/zero"], env=environment, stdout=file
            )
        assert target.stat().st_size == 100 * 2**20
        assert peak_kib(supervisor) - before < 32 * 1024
        done = await trio.run_process(
            [*ARGV, "exec", "-i", "wide", "--", "wc -c; exit 9"],
            env=environment, stdin=b"x" * 300_000, capture_stdout=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (9, b"300000\n")
        job = (await run(environment, "exec", "--background", "wide", "--", "echo in the back; exit 4")).stdout.decode()
        followed = await run(environment, "output", "-f", "wide", job.strip(), check=False)
        assert (followed.returncode, followed.stdout) == (4, b"in the back\n")
        assert job.strip() in {listed["job_id"] for listed in await run_json(environment, "jobs", "wide")}
        interrupted = await trio.lowlevel.open_process(
            [*ARGV, "exec", "wide", "--", "echo $$; exec sleep 777"], env=environment, stdout=subprocess.PIPE
        )
        assert interrupted.stdout is not None
        pid = (await interrupted.stdout.receive_some()).decode().strip()
        interrupted.send_signal(signal.SIGINT)
        assert await interrupted.wait() == 130
        await interrupted.stdout.aclose()
        assert (await run(environment, "exec", "wide", "--", f"test -e /proc/{pid}", check=False)).returncode == 1
        await run(environment, "destroy", "wide")


@asynccontextmanager
async def terminal(directory: Path, environment: dict[str, str], command: str) -> AsyncIterator[Callable[..., Any]]:
    """Run a command in a terminal of tmux, and yield a function that runs tmux on it."""

    async def tmux(*arguments: str) -> str:
        argv = ["tmux", "-S", str(directory / "tmux"), "-f", "/dev/null", *arguments]
        return (await trio.run_process(argv, env={**environment, "TERM": "xterm"}, capture_stdout=True)).stdout.decode()

    await tmux("new-session", "-d", "-x", "91", "-y", "31", f"{command}; echo status $?; sleep 1000")
    try:
        yield tmux
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
            await tmux("kill-server")


async def test_a_person_has_a_real_terminal_in_a_workspace(environment: dict[str, str], state_dir: Path) -> None:
    with trio.fail_after(LIMIT_S):
        await run(environment, "create", "desk")
        command = " ".join([*ARGV, "shell", "desk"])
        async with terminal(state_dir, environment, command) as tmux:

            async def shown(text: str) -> None:
                with trio.fail_after(120):
                    while text not in await tmux("capture-pane", "-p"):
                        await trio.sleep(0.05)

            async def typed(line: str) -> None:
                await tmux("send-keys", line, "Enter")

            # What is typed before the terminal is the guest's is dropped.
            await shown("#")
            await typed("echo size $(stty size)")
            await shown("size 31 91")
            await tmux("resize-window", "-x", "70", "-y", "20")
            await typed("echo size $(stty size)")
            await shown("size 20 70")
            await typed("echo be''gun; sleep 1000; echo slept $?")
            await shown("begun")
            await tmux("send-keys", "C-c")
            await typed("echo interrupted $?")
            await shown("interrupted 130")
            await typed("exit 5")
            await shown("status 5")
        await run(environment, "destroy", "desk")


async def test_a_control_group_lives_as_long_as_anything_runs_in_it(
    system: agentiso.System,
) -> None:
    groups = "ls -d /sys/fs/cgroup/jobs/*/ | wc -l"
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("groups")
        for _ in range(3):
            assert (await workspace.exec(groups)).stdout.strip() == b"1"
        started = await workspace.jobs.start("sleep 300 >/dev/null 2>&1 & echo $!")
        left = (await workspace.jobs.wait(started.job_id)).stdout.decode().strip()
        assert (await workspace.exec(groups)).stdout.strip() == b"2"
        # What its command has left is killed with its group, which goes.
        assert (await workspace.jobs.kill(started.job_id)).gone
        assert (await workspace.exec(f"kill -0 {left}")).exit_code == 1
        assert (await workspace.exec(groups)).stdout.strip() in (b"1", b"2")


async def test_a_group_that_a_command_left_frozen_holds_no_later_command(system: agentiso.System) -> None:
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("freezer")
        job = await workspace.jobs.start("sleep 300")
        freeze = (
            "for p in $(cat /sys/fs/cgroup/jobs/*/cgroup.procs); do grep -qs sleep /proc/$p/cmdline && echo $p; done"
        )
        pid, *_ = (await workspace.exec(freeze)).stdout.decode().split()
        frozen = await workspace.exec(f"echo 1 > /sys/fs/cgroup$(cut -d: -f3 /proc/{pid}/cgroup)/cgroup.freeze")
        assert frozen.exit_code == 0
        assert (await workspace.jobs.kill(job.job_id)).gone
        for _ in range(3):
            assert (await workspace.exec("echo alive")).stdout == b"alive\n"
