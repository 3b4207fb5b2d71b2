"""The command line's output: who reads it may leave, stall or be a full disk, and Ctrl-C may come at any time.

The commands are processes of their own; the supervisor is made up, but for its live service and the guest agent.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import trio

from actors.model.errors import AgentisoError
from actors.model.settings import Audit
from actors.runtime import unix_sockets
from agentiso.access.audit import AuditLog
from agentiso.library.system import System
from agentiso.mcp.calls import ERROR_META
from agentiso.protocol.places import SOCKET
from agentiso.protocol.sessions import SessionStore
from agentiso.supervisor.clients import receive_caller
from agentiso.supervisor.live import serve_live
from tests.machines import ARGV
from tests.unit.test_attach import Guest
from tests.unit.test_guest_agent import connected

LIMIT_S = 60
BUNDLE_BYTES = 300_000
ENDLESS = "while :; do echo again; sleep 0.05; done"


@attrs.define
class Host:
    """A state directory where a supervisor is served, and the commands that are run there."""

    state_dir: Path
    guest: Guest
    killed: trio.Event = attrs.field(factory=trio.Event)
    asked: trio.Event = attrs.field(factory=trio.Event)
    """Somebody has asked for the start of a command."""
    may_start: trio.Event = attrs.field(factory=trio.Event)

    def start(self, *words: str, **options: Any) -> Callable[..., Any]:
        environment = {**os.environ, "AGENTISO_STATE_DIR": str(self.state_dir)}
        return partial(trio.run_process, [*ARGV, *words], env=environment, check=False, **options)

    async def run(self, *words: str, stdout: int, **options: Any) -> subprocess.CompletedProcess[bytes]:
        done: subprocess.CompletedProcess[bytes] = await self.start(*words, **options)(
            stdout=stdout, capture_stderr=True
        )
        return done

    async def serve(self, stream: trio.SocketStream) -> None:
        # A client that is interrupted does not wait for its answer.
        with contextlib.suppress(trio.BrokenResourceError):
            await self._serve(stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        caller = await receive_caller(stream, SessionStore(self.state_dir), lambda _greeting: {})
        if caller is None:
            return
        if caller.greeting.service == "live":
            await serve_live(cast("System", self), stream, AuditLog(self.state_dir, Audit()))
            return
        said = caller.said
        while b"\n" not in said:
            said += await stream.receive_some(65536)
        request = json.loads(said)
        result: dict[str, Any] = {}
        try:
            result["structuredContent"] = await self.call(request["params"]["name"], request["params"]["arguments"])
        except AgentisoError as error:
            result = {"isError": True, "_meta": {ERROR_META: {"code": error.code, "message": error.message}}}
        await stream.send_all(json.dumps({"id": 1, "result": result}).encode() + b"\n")

    async def call(self, tool: str, given: dict[str, Any]) -> dict[str, Any]:
        match tool:
            case "exec_kill":
                await self.guest.jobs.kill(given["job_id"])
                self.killed.set()
            case "workspace_export":
                await trio.to_thread.run_sync(export, given["path"])
            case "workspace_import":
                size = await trio.to_thread.run_sync(drain, given["path"], abandon_on_cancel=True)
                return {"name": f"{size} bytes", "started_by": "restore", "seconds": 1.0, "note": ""}
            case "image_list":
                return {"images": []}
        return {"has_memory": False, "size_bytes": BUNDLE_BYTES, "seconds": 1.0}

    async def get(self, _workspace: str) -> Guest:
        self.asked.set()
        await self.may_start.wait()
        return self.guest

    async def running(self) -> list[str]:
        return [job.command for job in (await self.guest.jobs.list()).jobs if job.running]


def export(path: str) -> None:
    try:
        with Path(path).open("wb", buffering=0) as file:
            file.writelines(b"x" * 1000 for _ in range(BUNDLE_BYTES // 1000))
    except OSError as error:
        raise AgentisoError(f"The export failed: {error}.") from error


def drain(path: str) -> int:
    with Path(path).open("rb") as file:
        return len(file.read())


@asynccontextmanager
async def open_host(tmp_path: Path) -> AsyncIterator[Host]:
    async with connected(tmp_path) as client, trio.open_nursery() as nursery:
        host = Host(tmp_path / "state", Guest(client))
        host.state_dir.mkdir()
        listener = unix_sockets.listen(host.state_dir / SOCKET)
        accepting = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        nursery.start_soon(partial(trio.serve_listeners, host.serve, [accepting], handler_nursery=nursery))
        host.may_start.set()
        with trio.fail_after(LIMIT_S):
            yield host
        nursery.cancel_scope.cancel(reason="the test is over")


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with open_host(tmp_path) as found:
        yield found


@contextlib.contextmanager
def full_disk() -> Any:
    with Path("/dev/full").open("wb") as file:
        yield file.fileno()


@contextlib.contextmanager
def left_reader() -> Any:
    """A pipe whose reader has had enough."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


async def until_full(reader: int) -> None:
    """Wait until a pipe takes nothing more."""
    held = array.array("i", [0])
    while held[0] + select.PIPE_BUF < fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ):
        await trio.sleep(0.01)
        fcntl.ioctl(reader, termios.FIONREAD, held)


SAID = {"full": (full_disk, 1, "No space left"), "left": (left_reader, 141, "")}


@pytest.mark.parametrize("reader", SAID)
@pytest.mark.parametrize(
    "words",
    [
        ("exec", "demo", "--", ENDLESS),
        ("export", "demo", "-"),
        ("export", "demo", "-", "--json"),
        ("image", "list"),
        ("image", "list", "--json"),
        ("--help",),
        ("completion", "bash"),
        ("exec", "--json", "--nonsense"),
    ],
)
async def test_a_command_whose_output_cannot_be_written_ends_and_its_status_says_so(
    host: Host, words: tuple[str, ...], reader: str
) -> None:
    output, status, said = SAID[reader]
    with output() as stdout:
        done = await host.run(*words, stdout=stdout)
    assert done.returncode == status, done.stderr
    assert said in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    assert "Exception" not in done.stderr.decode()
    assert await host.running() == []


async def test_a_job_that_is_only_looked_at_goes_on_when_nobody_reads_any_more(host: Host) -> None:
    job = await host.guest.jobs.start(ENDLESS)
    with left_reader() as stdout:
        assert (await host.run("output", "-f", "demo", job.job_id, stdout=stdout)).returncode == 141
    assert await host.running() == [ENDLESS]
    await host.guest.jobs.kill(job.job_id)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_reader_that_has_stalled_holds_up_no_interruption(host: Host, number: signal.Signals) -> None:
    reader, writer = os.pipe()
    async with trio.open_nursery() as nursery:
        command = host.start("exec", "demo", "--", "yes", stdout=writer)
        process = await nursery.start(command)
        os.close(writer)
        await until_full(reader)
        process.send_signal(number)
        assert await process.wait() == 128 + number
    os.close(reader)
    assert host.killed.is_set()
    assert await host.running() == []


async def test_an_export_whose_reader_has_stalled_can_be_interrupted(host: Host) -> None:
    reader, writer = os.pipe()
    async with trio.open_nursery() as nursery:
        process = await nursery.start(host.start("export", "demo", "-", stdout=writer))
        os.close(writer)
        await until_full(reader)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
    os.close(reader)


async def test_a_command_that_is_interrupted_before_it_has_started_does_not_run(host: Host) -> None:
    host.may_start = trio.Event()
    async with trio.open_nursery() as nursery:
        process = await nursery.start(host.start("exec", "demo", "--", ENDLESS, stderr=subprocess.PIPE))
        await host.asked.wait()
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
    host.may_start.set()
    await trio.testing.wait_all_tasks_blocked()
    assert await host.running() == []


async def test_a_whole_export_to_the_standard_output_is_told_of_as_such(host: Host, tmp_path: Path) -> None:
    with (tmp_path / "bundle").open("wb") as file:
        assert (await host.run("export", "demo", "-", stdout=file.fileno())).returncode == 0
    assert (tmp_path / "bundle").stat().st_size == BUNDLE_BYTES


# -- import ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", ["-", "/dev/stdin", "pipe", "file"])
async def test_what_is_imported_may_come_through_a_pipe(host: Host, tmp_path: Path, shown: str) -> None:
    content = b"x" * BUNDLE_BYTES
    reader, writer = os.pipe()
    name = shown if shown in ("-", "/dev/stdin") else str(tmp_path / shown)
    if shown == "file":
        Path(name).write_bytes(content)
    if shown == "pipe":
        os.mkfifo(name)

    def write() -> None:
        with os.fdopen(writer, "wb") as given:
            if shown == "pipe":
                Path(name).write_bytes(content)
            elif shown != "file":
                given.write(content)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, write)
        done = await host.start("import", name, "again", stdin=reader)(capture_stdout=True, capture_stderr=True)
        os.close(reader)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(f"{BUNDLE_BYTES} bytes is running".encode())


async def test_an_import_whose_writer_has_stalled_can_be_interrupted_and_leaves_no_pipe(
    host: Host, tmp_path: Path
) -> None:
    reader, writer = os.pipe()
    (tmp_path / "made").mkdir()
    environment = {**os.environ, "AGENTISO_STATE_DIR": str(host.state_dir), "TMPDIR": str(tmp_path / "made")}
    argv = [*ARGV, "import", "-"]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(trio.run_process, argv, env=environment, stdin=reader, check=False, capture_stderr=True)
        )
        while not list((tmp_path / "made").glob("*/pipe")):
            await trio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
        # The supervisor's own end is let go of by its import's cancellation, which is not told here.
        assert list((tmp_path / "made").iterdir()) == []
        os.close(reader)
        os.close(writer)


async def test_an_export_to_a_terminal_is_refused(host: Host) -> None:
    ours, theirs = os.openpty()
    done = await host.run("export", "demo", "-", stdout=theirs)
    assert done.returncode == 2
    assert b"no text for a terminal" in done.stderr
    os.close(ours)
    os.close(theirs)
