"""Supervisors that are started at once, or where one runs already: real processes, without any machine."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

import agentiso
from actors.model.settings import Settings
from actors.runtime.unix_sockets import listen
from agentiso.client import dialling
from agentiso.protocol import places
from agentiso.supervisor import daemon
from tests.machines import ARGV
from tests.standins import open_stopped

LIMIT_S = 120
AT_ONCE = 3


class Host:
    """A state directory and the commands that use it."""

    def __init__(self, state_dir: Path) -> None:
        self.settings = Settings(state_dir=state_dir)
        self.log = state_dir / places.LOG

    async def run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, "AGENTISO_STATE_DIR": str(self.settings.state_dir)}
        return await trio.run_process(
            [*ARGV, *arguments], env=environment, check=False, capture_stdout=True, capture_stderr=True
        )

    def pid(self) -> int:
        return int((self.settings.state_dir / "lock").read_text())


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    made = Host(tmp_path)
    yield made
    dialling.stop_daemon(made.settings)


@pytest.mark.parametrize("attempt", range(3))
async def test_all_who_need_a_supervisor_at_the_same_instant_get_the_same_one(host: Host, attempt: int) -> None:
    done: list[subprocess.CompletedProcess[bytes]] = []

    async def command() -> None:
        done.append(await host.run("list", "--json"))

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(command)
        assert [(process.returncode, json.loads(process.stdout)) for process in done] == [(0, [])] * AT_ONCE
        assert host.log.read_text().count("serving ") == 1


async def test_a_daemon_that_is_not_needed_says_so_and_leaves_the_first_one_alone(host: Host) -> None:
    with trio.fail_after(LIMIT_S):
        assert (await host.run("list")).returncode == 0
        pid = host.pid()
        second = await host.run("daemon", "run")
        assert second.returncode == places.RUNS_ALREADY
        assert f"A supervisor runs for {host.settings.state_dir} already." in second.stderr.decode()
        assert "`agentiso daemon stop` ends it" in second.stderr.decode()
        assert (await host.run("list")).returncode == 0
        assert host.pid() == pid


async def test_who_comes_while_a_supervisor_ends_starts_the_next_one(host: Host) -> None:
    results: list[int] = []

    async def command() -> None:
        results.append((await host.run("list")).returncode)

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            with daemon._only_one(host.settings):
                nursery.start_soon(command)
                while not (host.log.exists() and "already" in host.log.read_text()):
                    await trio.sleep(0.01)
                assert results == []
        assert results == [0]


async def test_a_supervisor_within_a_program_is_not_waited_for(host: Host) -> None:
    with trio.fail_after(LIMIT_S):
        async with open_stopped(host.settings, {}):
            refused = await host.run("list")
        assert refused.returncode == 1
        assert f"(pid {os.getpid()}) holds {host.settings.state_dir}" in refused.stderr.decode()
        assert host.log.read_text().count("holds") == 1


@pytest.mark.parametrize("socket", [places.SOCKET, places.LIBRARY_SOCKET])
async def test_who_is_let_in_by_a_supervisor_that_ends_before_it_answers_starts_the_next_one(
    host: Host, socket: str
) -> None:
    async def use() -> None:
        if socket == places.SOCKET:
            assert (await host.run("list", "--json")).stdout == b"[]\n"
        else:
            async with agentiso.open_system(host.settings, attach=True) as system:
                assert await system.list() == ()

    with trio.fail_after(LIMIT_S), listen(host.settings.state_dir / socket) as ending:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use)
            await trio.lowlevel.wait_readable(ending)
            # Killed: what lies in its backlog is reset, and the socket's file stays.
            ending.close()
        assert host.log.read_text().count("serving ") == 1
