"""The daemon killed with SIGKILL, at rest and in the middle of its work."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from mcp import Client, StdioServerParameters, stdio_client

from tests.faults.helpers import LIMIT_S, CommandLine, ended, files, processes, qemu_pid, until

pytestmark = pytest.mark.faults


async def test_a_new_daemon_adopts_the_machines_of_a_killed_one(cli: CommandLine) -> None:
    with trio.fail_after(LIMIT_S):
        await cli.json("create", "lasting")
        await cli.run("exec", "lasting", "--", "echo in-memory > /dev/shm/m; echo on-disk > /root/d")
        await cli.json("snapshot", "create", "lasting", "kept")
        await cli.json("fork", "lasting", "--name-prefix", "child")
        before, pids = files(cli.state_dir), {qemu_pid(cli.state_dir, name) for name in ("lasting", "child-1")}
        first = cli.daemon_pid()
        await cli.kill_daemon()
        for name in ("lasting", "child-1"):
            shown = await cli.json("exec", name, "--", "cat /dev/shm/m /root/d")
            assert shown["stdout"] == "in-memory\non-disk\n"
        assert cli.daemon_pid() != first
        assert {qemu_pid(cli.state_dir, name) for name in ("lasting", "child-1")} == pids
        assert files(cli.state_dir) == before
        await cli.run("exec", "lasting", "--", "rm /dev/shm/m")
        await cli.json("snapshot", "restore", "lasting", "kept")
        assert (await cli.json("exec", "lasting", "--", "cat /dev/shm/m"))["stdout"] == "in-memory\n"


def new_machine(state_dir: Path, known: set[Path]) -> Callable[[], bool]:
    """Return the condition that a QEMU has been started which was not there before."""
    return lambda: bool(set(state_dir.glob("*/*/machines/*/qemu.log")) - known)


async def test_a_daemon_killed_in_the_middle_of_a_create_leaves_nothing(cli: CommandLine) -> None:
    with trio.fail_after(LIMIT_S):
        before = files(cli.state_dir)
        await cli.json("list")
        creating = cli.start("create", "half")
        await until(new_machine(cli.state_dir, set()))
        await cli.kill_daemon()
        status, _, error = await ended(creating)
        assert status == 1
        assert "closed the connection before it answered; the outcome of `agentiso create` is unknown" in error
        assert await cli.json("list") == []
        assert files(cli.state_dir) == before
        assert processes(cli.state_dir) == set()
        await cli.json("create", "half")


async def test_a_daemon_killed_while_it_boots_a_template_leaves_nothing(cli: CommandLine) -> None:
    with trio.fail_after(LIMIT_S):
        before = files(cli.state_dir)
        await cli.json("list")
        creating = cli.start("create", "half", "--memory-mb", "192")
        await until(new_machine(cli.state_dir, set()))
        await cli.kill_daemon()
        assert (await ended(creating))[0] == 1
        assert await cli.json("list") == []
        assert files(cli.state_dir) == before
        assert processes(cli.state_dir) == set()


@pytest.mark.parametrize("moment", ["checkpoint begins", "child starts"])
async def test_a_daemon_killed_in_the_middle_of_a_fork_leaves_the_parent_alone(cli: CommandLine, moment: str) -> None:
    with trio.fail_after(LIMIT_S):
        await cli.json("create", "parent")
        await cli.run("exec", "parent", "--", "echo in-memory > /dev/shm/m")
        pid = qemu_pid(cli.state_dir, "parent")
        before = files(cli.state_dir)
        machines = set(cli.state_dir.glob("*/*/machines/*/qemu.log"))
        begins = lambda: files(cli.state_dir)["checkpoints"] - before["checkpoints"]  # noqa: E731
        forking = cli.start("fork", "parent", "--count", "3")
        await until(begins if moment == "checkpoint begins" else new_machine(cli.state_dir, machines))
        await cli.kill_daemon()
        assert (await ended(forking))[0] == 1
        assert [info["name"] for info in await cli.json("list")] == ["parent"]
        # Its machine may have been in the middle of something, and is sought until it answers.
        while (await cli.json("info", "parent"))["state"] == "unreachable":
            pass
        assert qemu_pid(cli.state_dir, "parent") == pid
        # The parent's disk may stand on one more layer, which is its own; nothing else may be there.
        after = files(cli.state_dir)
        assert len(after.pop("layers") - before.pop("layers")) <= 1
        assert after == before
        assert len(list(cli.state_dir.glob("*/*/machines/*"))) == 1
        assert {pid, cli.daemon_pid()} >= processes(cli.state_dir) >= {pid}
        assert (await cli.json("exec", "parent", "--", "cat /dev/shm/m"))["stdout"] == "in-memory\n"
        assert len((await cli.json("fork", "parent"))["workers"]) == 1


async def test_a_daemon_killed_in_the_middle_of_a_destroy_goes_on_with_it_at_the_next_start(cli: CommandLine) -> None:
    with trio.fail_after(LIMIT_S):
        before = files(cli.state_dir)
        await cli.json("create", "doomed")
        record = next((cli.state_dir / "workspaces").glob("*/record.json"))
        destroying = cli.start("destroy", "doomed")
        await until(lambda: not record.exists() or b'"destroyed"' in record.read_bytes())
        await cli.kill_daemon()
        await ended(destroying)
        assert await cli.json("list") == []
        assert files(cli.state_dir) == before
        assert processes(cli.state_dir) == set()


async def test_a_workspaces_directory_without_any_record_is_taken_away(cli: CommandLine) -> None:
    with trio.fail_after(LIMIT_S):
        (cli.state_dir / "workspaces" / "12345678").mkdir(parents=True)
        (cli.state_dir / "workspaces" / "12345678" / ".record.json.new").write_text('{"id"')
        assert await cli.json("list") == []
        assert files(cli.state_dir)["workspaces"] == set()


async def test_a_tool_under_way_is_answered_and_the_next_one_served_though_the_daemon_was_killed(
    cli: CommandLine,
) -> None:
    parameters = StdioServerParameters(
        command=sys.executable, args=["-m", "agentiso.cli", "serve"], env=cli.environment
    )
    with trio.fail_after(LIMIT_S):
        async with Client(stdio_client(parameters)) as client:
            assert not (await client.call_tool("workspace_create", {"name": "lasting"})).is_error
            pid, first = qemu_pid(cli.state_dir, "lasting"), cli.daemon_pid()
            working: dict[str, Any] = {"workspace_id": "lasting", "command": "touch /run/begun; sleep 1000"}

            async def kill() -> None:
                while (await cli.run("exec", "lasting", "--", "test -e /run/begun")).returncode:
                    pass
                await cli.kill_daemon()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill)
                lost = await client.call_tool("exec", working)
            assert lost.is_error
            (said,) = lost.content
            assert "Outcome unknown: the supervisor ended while exec was under way." in said.text  # type: ignore[union-attr]
            result = await client.call_tool("exec", {"workspace_id": "lasting", "command": "ls /run/begun"})
            assert result.structured_content is not None
            assert result.structured_content["stdout"] == "/run/begun\n"
            assert qemu_pid(cli.state_dir, "lasting") == pid
            assert cli.daemon_pid() != first


async def test_an_exec_of_the_command_line_tells_that_its_job_goes_on_when_the_daemon_is_killed(
    cli: CommandLine,
) -> None:
    with trio.fail_after(LIMIT_S):
        await cli.json("create", "lasting")
        working = cli.start("exec", "lasting", "--", "touch /run/begun; sleep 1000")
        while (await cli.run("exec", "lasting", "--", "test -e /run/begun")).returncode:
            pass
        await cli.kill_daemon()
        status, _, error = await ended(working)
        assert status == 1
        assert "The supervisor ended; the job" in error
        assert "goes on." in error
        jobs = await cli.json("jobs", "lasting")
        assert "sleep 1000" in str(jobs)


PROGRAM = """
import sys, trio, agentiso
from pathlib import Path
async def main():
    shape = agentiso.Shape(vcpus=1, memory_mb=256, disk_gb=1)
    settings = agentiso.Settings(
        state_dir=Path(sys.argv[1]), images_dir=Path(sys.argv[2]), shape=shape, network="none"
    )
    async with agentiso.open_system(settings, attach=sys.argv[3] == "attached") as system:
        await system.create("demo")
        print("made", flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


@asynccontextmanager
async def program(cli: CommandLine, how: str) -> AsyncIterator[trio.Process]:
    """Yield a program that has made the workspace ``demo``."""
    settings = cli.settings
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", PROGRAM, str(settings.state_dir), str(settings.images_dir), how],
        env=cli.environment, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    async with process.stdout as stdout:
        try:
            assert (await stdout.receive_some()).startswith(b"made")
            yield process
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_the_next_run_of_a_program_that_was_ended_does_not_trip_over_what_it_made(
    cli: CommandLine, number: signal.Signals
) -> None:
    with trio.fail_after(LIMIT_S):
        async with program(cli, "alone") as first:
            first.send_signal(number)
            assert await first.wait() == -number
        if number == signal.SIGTERM:
            assert processes(cli.state_dir) == set()
            assert files(cli.state_dir)["workspaces"] == set()
        async with program(cli, "alone") as second:
            assert len(files(cli.state_dir)["workspaces"]) == 1
            assert len(processes(cli.state_dir) - {second.pid}) == 1


async def test_what_an_attached_program_made_ends_with_it_though_the_daemon_was_killed_first(cli: CommandLine) -> None:
    with trio.fail_after(LIMIT_S):
        await cli.json("list")
        async with program(cli, "attached"):
            await cli.kill_daemon()
            # It lives, and may attach again.
            assert [info["name"] for info in await cli.json("list")] == ["demo"]
            await cli.kill_daemon()
        assert await cli.json("list") == []
        assert files(cli.state_dir)["workspaces"] == set()
