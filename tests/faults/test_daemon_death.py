"""The daemon killed with SIGKILL, at rest and in the middle of its work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

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
        assert "closed the connection before it answered" in error
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
