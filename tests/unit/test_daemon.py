"""Supervisors that are started at once, or where one runs already: real processes, without any machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

import agentiso
from actors.model.errors import ActorGone
from actors.model.info import LIBRARY
from actors.model.settings import Settings
from actors.registry import messages as r
from actors.registry.ephemeral import Ephemeral
from actors.registry.lock import LOCK
from actors.runtime.unix_sockets import dial, listen
from agentiso.client import stopping
from agentiso.client.tools import ToolFailed, call
from agentiso.protocol import places
from agentiso.protocol.greeting import VERSION, OtherVersion
from agentiso.protocol.serving import LEFT, Serving, take_left
from agentiso.supervisor import daemon
from tests.machines import ARGV
from tests.processes import has_ended
from tests.standins import Wire, open_stopped

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
    with trio.fail_after(LIMIT_S):
        await stopping.stop(made.settings, report=print)


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


async def test_who_comes_while_a_supervisor_ends_waits_for_that_and_starts_the_next_one(host: Host) -> None:
    results: list[int] = []

    async def command() -> None:
        results.append((await host.run("list")).returncode)

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            with daemon._only_one(host.settings):
                nursery.start_soon(command)
                await trio.sleep(3)
                assert results == []
                assert not host.log.exists()
        assert results == [0]


async def test_a_supervisor_within_a_program_is_not_waited_for(host: Host) -> None:
    with trio.fail_after(LIMIT_S):
        async with open_stopped(host.settings, {}):
            refused = await host.run("list")
        assert refused.returncode == 1
        assert f"(pid {os.getpid()}: " in refused.stderr.decode()
        assert f") holds {host.settings.state_dir}" in refused.stderr.decode()
        assert host.log.read_text().count("holds") == 1


@pytest.mark.parametrize("service", ["mcp", "library"])
async def test_who_is_let_in_by_a_supervisor_that_ends_before_it_answers_starts_the_next_one(
    host: Host, service: str
) -> None:
    async def use() -> None:
        if service == "mcp":
            assert (await host.run("list", "--json")).stdout == b"[]\n"
        else:
            async with agentiso.open_system(host.settings, attach=True) as system:
                assert await system.list() == ()

    with trio.fail_after(LIMIT_S), listen(host.settings.state_dir / places.SOCKET) as ending:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use)
            await trio.lowlevel.wait_readable(ending)
            # Killed: what lies in its backlog is reset, and the socket's file stays.
            ending.close()
        assert host.log.read_text().count("serving ") == 1


# -- ending it -------------------------------------------------------------------------------------------------------


async def test_stop_waits_until_the_supervisor_has_ended(host: Host) -> None:
    with trio.fail_after(LIMIT_S):
        assert (await host.run("list")).returncode == 0
        pid = host.pid()
        stopped = await host.run("daemon", "stop", "--json")
        assert has_ended(pid)
        assert json.loads(stopped.stdout) == {
            "stopped": True, "pid": pid, "machines": 0, "seconds": pytest.approx(5, abs=5), "killed": False,
        }  # fmt: skip
        again = await host.run("daemon", "stop")
        assert (again.returncode, again.stdout) == (0, b"no supervisor ran\n")


async def test_a_stale_lock_file_has_no_process_signalled(host: Host) -> None:
    with trio.fail_after(LIMIT_S):
        async with bystander() as innocent:
            for name in (LOCK, places.DAEMON_LOCK):
                (host.settings.state_dir / name).write_text(f"{innocent.pid}\n")
            done = await host.run("daemon", "stop", "--json")
            assert (done.returncode, json.loads(done.stdout)) == (0, {"stopped": False})
            assert innocent.poll() is None


@asynccontextmanager
async def bystander(*argv: str) -> AsyncIterator[trio.Process]:
    """Yield a process that has nothing to do with a supervisor, and end it."""
    process = await trio.lowlevel.open_process([*(argv or ("sleep", "1000"))], stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        await process.wait()
        assert process.stdout is not None
        await process.stdout.aclose()


PROGRAM = """
import sys, trio
from pathlib import Path
from actors.model.settings import Settings
from tests.standins import open_stopped
async def main():
    async with open_stopped(Settings(state_dir=Path(sys.argv[1])), {}):
        print("open", flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


async def test_a_persons_program_that_holds_the_directory_is_named_and_left_alone(host: Host) -> None:
    with trio.fail_after(LIMIT_S):
        async with bystander(sys.executable, "-c", PROGRAM, str(host.settings.state_dir)) as program:
            assert program.stdout is not None
            assert (await program.stdout.receive_some()).startswith(b"open")
            for action in ("stop", "restart"):
                refused = await host.run("daemon", action)
                assert refused.returncode == 1
                assert (
                    f"runs the supervisor within itself (pid {program.pid}: {sys.executable} -c"
                    in refused.stderr.decode()
                )
                assert f"`kill {program.pid}`" in refused.stderr.decode()
            status = json.loads((await host.run("daemon", "status", "--json")).stdout)
            assert status["running"] is False
            assert str(program.pid) in status["text"]
            assert program.poll() is None


async def test_a_supervisor_that_is_stopped_by_a_signal_is_told_of_at_once_and_can_be_replaced(host: Host) -> None:
    with trio.fail_after(LIMIT_S):
        assert (await host.run("list")).returncode == 0
        pid = host.pid()
        os.kill(pid, signal.SIGSTOP)
        for command in (["list"], ["daemon", "status"]):
            done = await host.run(*command)
            assert f"pid {pid}, is stopped by a signal" in (done.stdout + done.stderr).decode()
            assert f"`kill -CONT {pid}` has it go on" in (done.stdout + done.stderr).decode()
        restarted = await host.run("daemon", "restart")
        assert restarted.returncode == 0, restarted.stderr
        assert f"stopped by a signal (pid {pid}" in restarted.stderr.decode()
        assert has_ended(pid)
        assert host.pid() != pid


STUBBORN = """
import fcntl, signal, sys
from pathlib import Path
signal.signal(signal.SIGTERM, signal.SIG_IGN)
lock = open(Path(sys.argv[1]) / "daemon.lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("open", flush=True)
signal.pause()
"""


async def test_a_supervisor_that_does_not_end_in_time_is_named_and_killed_only_by_force(host: Host) -> None:
    with trio.fail_after(LIMIT_S):
        async with bystander(sys.executable, "-c", STUBBORN, str(host.settings.state_dir)) as stubborn:
            assert stubborn.stdout is not None
            assert (await stubborn.stdout.receive_some()).startswith(b"open")
            late = await host.run("daemon", "stop", "--wait", "1.5")
            assert late.returncode == 1
            assert f"waiting up to 1.5 s for the supervisor to end (pid {stubborn.pid}" in late.stderr.decode()
            assert f"has not within 1.5 s. {host.log}" in late.stderr.decode()
            assert "add --force, which kills it" in late.stderr.decode()
            assert stubborn.poll() is None
            killed = await host.run("daemon", "stop", "--force", "--wait", "0", "--json")
            assert json.loads(killed.stdout)["killed"] is True
            assert await stubborn.wait() == -signal.SIGKILL


async def test_a_supervisor_that_is_only_starting_can_be_stopped(host: Host) -> None:
    with trio.fail_after(LIMIT_S):
        starting = await trio.lowlevel.open_process(
            [*ARGV, "daemon"], env={**os.environ, "AGENTISO_STATE_DIR": str(host.settings.state_dir)},
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while stopping.daemon_of(host.settings) is None:
            await trio.sleep(0.01)
        assert (await host.run("daemon", "stop")).returncode == 0
        assert starting.poll() is not None


async def test_restart_puts_a_new_supervisor_in_the_place_of_the_old_one(host: Host) -> None:
    with trio.fail_after(LIMIT_S):
        first = json.loads((await host.run("daemon", "restart", "--json", "--http", "127.0.0.1:0")).stdout)
        assert first["stopped"] is None
        second = json.loads((await host.run("daemon", "restart", "--json")).stdout)
        assert second["stopped"]["pid"] == first["pid"]
        assert second["pid"] == host.pid() != first["pid"]
        assert second["version"] == VERSION
        status = json.loads((await host.run("daemon", "status", "--json")).stdout)
        assert (status["pid"], status["http"], status["idle_exit_s"]) == (host.pid(), "127.0.0.1:0", 60)
        assert f"agentiso {VERSION}" in (await host.run("daemon", "status")).stdout.decode()


async def test_whoever_starts_the_next_supervisor_has_it_serve_as_was_left_for_it(host: Host) -> None:
    with trio.fail_after(LIMIT_S):
        Serving("127.0.0.1:0", 30.0).leave(host.settings.state_dir)
        assert (await host.run("list")).returncode == 0
        status = json.loads((await host.run("daemon", "status", "--json")).stdout)
        assert (status["http"], status["idle_exit_s"]) == ("127.0.0.1:0", 30)
        assert not (host.settings.state_dir / LEFT).exists()


async def test_what_was_left_for_a_supervisor_and_cannot_be_read_is_kept_and_no_reason_not_to_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / LEFT).write_text('{"http": ')
    assert take_left(tmp_path) is None
    assert "cannot be read" in caplog.text
    assert (tmp_path / LEFT).exists()


async def test_no_command_ends_with_a_traceback_where_the_state_directory_cannot_be_read(tmp_path: Path) -> None:
    # What a link to itself leads to nobody can read, not even root.
    (tmp_path / "state").symlink_to(tmp_path / "state")
    unreadable = Host(tmp_path / "state")
    commands = (
        ["list"],
        ["daemon", "stop"],
        ["daemon", "status"],
        ["session", "list"],
        ["check"],
        ["audit"],
        ["serve"],
    )
    with trio.fail_after(LIMIT_S):
        for command in commands:
            done = await unreadable.run(*command)
            assert "Traceback" not in done.stderr.decode(), command
            assert done.returncode == 1, command
            said = done.stdout if command == ["check"] else done.stderr
            assert b"Too many levels of symbolic links" in said, command


async def test_status_starts_no_supervisor(host: Host) -> None:
    with trio.fail_after(LIMIT_S):
        done = await host.run("daemon", "status", "--json")
        assert done.returncode == 0
        assert json.loads(done.stdout)["running"] is False
        assert not (host.settings.state_dir / places.SOCKET).exists()


# -- of another version ----------------------------------------------------------------------------------------------

OLD = """
import fcntl, os, signal, socket, sys
from pathlib import Path
state = Path(sys.argv[1])
locks = [open(state / name, "w") for name in ("daemon.lock", "lock")]
for lock in locks:
    fcntl.flock(lock, fcntl.LOCK_EX)
print(os.getpid(), file=locks[1], flush=True)
os.chdir(state)
listener = socket.socket(socket.AF_UNIX)
listener.bind("supervisor.sock")
listener.listen()
print("open", flush=True)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while True:
    stream, _ = listener.accept()
    stream.recv(65536)
    stream.sendall(sys.argv[2].encode() + b"\\n")
"""
UNNUMBERED = '{"jsonrpc": "2.0", "id": null, "error": {"code": -32600, "message": "The line is not a message."}}'
NEWER = json.dumps({"agentiso": {"refused": {"code": "other_version", "message": "It is newer.", "remedy": "Update."}}})


@pytest.mark.parametrize(("answer", "said"), [(UNNUMBERED, "of an older version"), (NEWER, "It is newer.")])
async def test_a_supervisor_of_another_protocol_is_reported_by_every_client_and_can_be_replaced(
    host: Host, answer: str, said: str
) -> None:
    with trio.fail_after(LIMIT_S):
        async with bystander(sys.executable, "-c", OLD, str(host.settings.state_dir), answer) as old:
            assert old.stdout is not None
            assert (await old.stdout.receive_some()).startswith(b"open")
            for command in (["list"], ["exec", "x", "--", "true"], ["serve"]):
                refused = await host.run(*command)
                assert refused.returncode == 1
                assert said in refused.stderr.decode()
            with pytest.raises(OtherVersion, match=said):
                async with agentiso.open_system(host.settings, attach=True):
                    pass
            assert said in (await host.run("daemon", "status")).stdout.decode()
            assert (await host.run("daemon", "restart")).returncode == 0
            assert await old.wait() == 0
        assert (await host.run("list", "--json")).stdout == b"[]\n"


async def test_a_supervisor_that_says_nothing_of_itself_is_replaced_by_one_that_serves_as_it_was_started(
    host: Host,
) -> None:
    arguments = (str(host.settings.state_dir), NEWER, "--http", "127.0.0.1:0", "--idle-exit=77")
    with trio.fail_after(LIMIT_S):
        async with bystander(sys.executable, "-c", OLD, *arguments) as old:
            assert old.stdout is not None
            assert (await old.stdout.receive_some()).startswith(b"open")
            restarted = await host.run("daemon", "restart")
            assert restarted.returncode == 0
            assert b"HTTP: 127.0.0.1:0; ends by itself: never" in restarted.stdout
        status = json.loads((await host.run("daemon", "status", "--json")).stdout)
        assert (status["http"], status["idle_exit_s"]) == ("127.0.0.1:0", 77)


# -- what it does by itself ------------------------------------------------------------------------------------------


class Idle:
    """A supervisor's workspaces and clients; ``look`` is what happens while the workspaces are asked for."""

    def __init__(self, look: Callable[[Idle], None]) -> None:
        self.clients = 0
        self._look = look

    def __len__(self) -> int:
        return self.clients

    async def list(self) -> tuple[()]:
        await trio.lowlevel.checkpoint()
        self._look(self)
        return ()


async def test_a_client_that_comes_while_it_is_looked_whether_a_supervisor_is_idle_is_not_cut_off(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def come(idle: Idle) -> None:
        idle.clients = 1 if autojump_clock.current_time() - began > 60 else 0

    idle, began = Idle(come), trio.current_time()
    with trio.move_on_after(200) as limit:
        await daemon._end_when_idle(cast("Any", idle), cast("Any", idle), 60.5, trio.CancelScope())
    assert limit.cancelled_caught


async def test_a_supervisor_that_cannot_tell_whether_it_is_idle_is_not(autojump_clock: trio.testing.MockClock) -> None:
    def fail(_idle: Idle) -> None:
        if autojump_clock.current_time() - began < 100:
            raise ActorGone("The registry restarts.")

    idle, began = Idle(fail), trio.current_time()
    scope = trio.CancelScope()
    with trio.fail_after(300):
        await daemon._end_when_idle(cast("Any", idle), cast("Any", idle), 60, scope)
    assert scope.cancel_called
    assert trio.current_time() - began > 150


async def test_a_supervisor_destroys_what_a_program_left_that_dies_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "SWEEP_S", 0.05)
    with trio.fail_after(LIMIT_S):
        async with open_stopped(Settings(state_dir=tmp_path), {"mine": LIBRARY}) as system, bystander() as program:
            (info,) = await system.list()
            found = await system.registry.ask(r.FindWorkspace(info.name))
            Ephemeral.of_client(tmp_path, program.pid).note(r.CreateWorkspace(), r.Made(found, info))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(daemon._end_left_behind, tmp_path, system)
                await trio.sleep(0.5)
                assert len(await system.list()) == 1
                program.kill()
                await program.wait()
                while await system.list():
                    await trio.sleep(0.02)
                nursery.cancel_scope.cancel()


async def test_an_unknown_tool_is_reported_as_a_difference_of_versions(host: Host) -> None:
    with trio.fail_after(LIMIT_S), pytest.raises(ToolFailed) as caught:
        await call(host.settings, None, "workspace_teleport", {}, print)
    assert f"(agentiso {VERSION}, pid {host.pid()}) is another build than this command" in caught.value.message
    assert "`agentiso daemon restart`" in caught.value.remedy
    assert caught.value.facts["code"] == "unknown_tool"


async def test_plain_mcp_on_the_socket_is_served_without_any_greeting(host: Host) -> None:
    with trio.fail_after(LIMIT_S):
        assert (await host.run("list")).returncode == 0
        async with await dial(host.settings.state_dir / places.SOCKET) as stream:
            wire = Wire(stream)
            listed = await wire.ask("tools/list")
        assert any(tool["name"] == "workspace_create" for tool in listed["result"]["tools"])
