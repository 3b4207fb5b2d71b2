"""Many machines run when their supervisor is killed: the next one takes all of them up, and how soon is shown."""

from __future__ import annotations

import json
import time

import pytest
import trio

import agentiso
from tests.faults.helpers import LIMIT_S, CommandLine, output, processes, qemu_pid

pytestmark = [pytest.mark.faults, pytest.mark.storm]
MACHINES = 20


async def test_twenty_running_machines_are_taken_up_by_the_next_supervisor(cli: CommandLine) -> None:
    with trio.fail_after(LIMIT_S):
        await cli.json("create", "first")
        await cli.json("fork", "first", "--count", str(MACHINES - 1))
        names = [info["name"] for info in await cli.json("list")]
        before = {name: qemu_pid(cli.state_dir, name) for name in names}
        assert len(before) == MACHINES
        await cli.kill_daemon()
        began = time.perf_counter()
        async with agentiso.open_system(cli.settings, attach=True) as system:
            assert await output(await system.get("first"), "echo up") == "up"
            first_s = time.perf_counter() - began
            for name in names:
                assert await output(await system.get(name), "echo up") == "up"
            all_s = time.perf_counter() - began
        print(json.dumps({"machines": MACHINES, "first_exec_s": round(first_s, 2), "all_execs_s": round(all_s, 2)}))
        assert {name: qemu_pid(cli.state_dir, name) for name in names} == before
        assert set(before.values()) <= processes(cli.state_dir)
