"""The supervisor as a process: one per state directory, serving any number of clients on a Unix socket.

Whoever needs one connects, and starts it if none answers: of several that are started at once the first takes the
directory, and all who wait find its socket.  It ends by itself when it was started on demand and has had neither client
nor workspace for a while.  Machines survive it and are adopted by the next one.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import trio

from actors.model.errors import HostUnfit, SupervisorEnding, SupervisorRunning
from actors.model.files import tail
from actors.model.settings import Settings
from actors.runtime import unix_sockets as sockets
from actors.runtime.unix_sockets import dial, listen
from agentiso.library.system import System, open_system
from agentiso.protocol.greeting import Hello, meet, say_hello
from agentiso.supervisor.access import Gate
from agentiso.supervisor.audit import AuditLog
from agentiso.supervisor.live import SOCKET as ATTACH_SOCKET
from agentiso.supervisor.live import serve_attach

T = TypeVar("T")
log = logging.getLogger("agentiso.supervisor.daemon")
SOCKET: Final = "supervisor.sock"
LOG: Final = "daemon.log"
LIBRARY_SOCKET: Final = "library.sock"
"""Where programs attach with the library."""
HTTP_URL: Final = "http.url"
"""File of the state directory with the URL at which the running supervisor serves HTTP."""
LOCK: Final = "daemon.lock"
"""Held by the supervisor that serves, or soon will; a program that runs one in its own process does not take it."""
RUNS_ALREADY: Final = 3
"""Exit status of a supervisor that found another one."""
START_LIMIT_S: Final = 60.0
ENDING_LIMIT_S: Final = 10.0
"""For how long supervisors that end before they answer are taken for those that were ending anyway."""
AGAIN_S: Final = 1.0
"""For how long the one that was there first is given to answer before another is started: it may have been ending."""
CHECK_S: Final = 1.0
_started: Final[list[trio.Process]] = []
"""Supervisors that this process started: they outlive what used them, and dropping one would be reported as a leak."""


class DaemonRunning(SupervisorRunning):
    """A supervisor serves the state directory already, or is about to."""


async def run_daemon(settings: Settings, *, idle_exit_s: float | None) -> None:
    """Run until SIGTERM or SIGINT, or until idle for ``idle_exit_s``.

    Raises:
        DaemonRunning: another one serves the state directory.
        SupervisorRunning: a program that runs its own holds it.
        HostUnfit: HTTP is configured and cannot be served there.

    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    with _only_one(settings):
        await _run(settings, idle_exit_s)


async def _run(settings: Settings, idle_exit_s: float | None) -> None:
    # It takes a second to import, which a supervisor that is not needed is spared.
    from agentiso.mcp.server import make_server, serve_connection

    async with open_system(settings, keep=True) as system:
        gate = Gate(settings)
        server = make_server(system, gate)
        path = settings.state_dir / SOCKET
        clients: set[object] = set()

        async def serve(stream: trio.SocketStream) -> None:
            clients.add(stream)
            try:
                client, said = await meet(stream, gate.sessions)
                if client is not None:
                    with gate.presence.here(client.session):
                        await serve_connection(server, stream, client, said)
            except Exception:
                log.exception("a client's connection failed; the others go on")
            finally:
                clients.discard(stream)

        async def serve_attached(stream: trio.SocketStream) -> None:
            clients.add(stream)
            try:
                await serve_attach(system, stream, gate.audit)
            except Exception:
                log.exception("a live connection failed; the others go on")
            finally:
                clients.discard(stream)

        attach_path = settings.state_dir / ATTACH_SOCKET
        with _listening(attach_path) as attaching, _listening(path) as listener:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_on_signal, nursery.cancel_scope)
                # Clients that come by HTTP cannot start it again, and a pool is of use only while it is there.
                if idle_exit_s is not None and not settings.http.bind and not settings.pool.size:
                    nursery.start_soon(_end_when_idle, system, clients, idle_exit_s, nursery.cancel_scope)
                if settings.http.bind:
                    await nursery.start(_serve_http, server, gate, settings)
                nursery.start_soon(trio.serve_listeners, serve_attached, [attaching])
                await nursery.start(_serve_library, system, gate.audit, clients)
                log.info("serving %s", path)
                await trio.serve_listeners(serve, [listener], handler_nursery=nursery)


@contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    """Be the one supervisor that serves a state directory, from before it is ready until it has ended."""
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(settings.state_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DaemonRunning(
                f"A supervisor runs for {settings.state_dir} already.",
                remedy="The agentiso command uses it by itself; `agentiso daemon stop` ends it.",
            ) from None
        yield
    finally:
        os.close(fd)


async def _serve_library(
    system: System, audit: AuditLog, clients: set[object], *, task_status: trio.TaskStatus[None]
) -> None:
    """Serve the programs that attach with the library, until cancelled."""
    from agentiso.supervisor.programs import serve_library

    async def serve(stream: trio.SocketStream) -> None:
        clients.add(stream)
        try:
            await serve_library(stream, system.registry, system.settings, audit)
        except Exception:
            log.exception("a program's connection failed; the others go on")
        finally:
            clients.discard(stream)

    with _listening(system.settings.state_dir / LIBRARY_SOCKET) as listener:
        task_status.started()
        await trio.serve_listeners(serve, [listener])


@contextmanager
def _listening(path: Path) -> Iterator[trio.SocketListener]:
    """Listen on a Unix socket for the user alone."""
    path.unlink(missing_ok=True)
    with listen(path) as listener:
        path.chmod(0o600)
        listener.listen(64)
        listener.setblocking(False)
        try:
            yield trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        finally:
            path.unlink(missing_ok=True)


async def _serve_http(server: Any, gate: Gate, settings: Settings, *, task_status: trio.TaskStatus[None]) -> None:
    """Serve HTTP until cancelled; the URL is in a file of the state directory meanwhile."""
    from agentiso.mcp.http import make_http_app, serve_http

    path = settings.state_dir / HTTP_URL
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve_http, make_http_app(server, gate, settings.http), settings.http.bind)
        path.write_text(f"{url}\n")
        log.info("serving %s", url)
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            path.unlink(missing_ok=True)


async def _end_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
        async for number in received:
            scope.cancel(reason=f"signal {number}")
            return


async def _end_when_idle(system: System, clients: set[Any], limit_s: float, scope: trio.CancelScope) -> None:
    idle_since = trio.current_time()
    while trio.current_time() - idle_since < limit_s:
        await trio.sleep(CHECK_S)
        if clients or await system.list():
            idle_since = trio.current_time()
    scope.cancel(reason="idle")


async def connect(settings: Settings, *, config: Path | None = None, socket: str = SOCKET) -> trio.SocketStream:
    """Connect to a socket of the supervisor of a state directory, starting it if none runs.

    One that somebody else is starting is waited for.

    Raises:
        HostUnfit: it does not start; the message has the end of its log.

    """
    path = settings.state_dir / socket
    process: trio.Process | None = None
    start_at = trio.current_time()
    with trio.move_on_after(START_LIMIT_S):
        while True:
            try:
                stream = dial(path)
            except OSError:
                status = process.poll() if process else RUNS_ALREADY
            else:
                _end_needless(process, stream)
                return stream
            if status == RUNS_ALREADY and trio.current_time() >= start_at:
                process, start_at = await _start(settings, config), trio.current_time() + AGAIN_S
            elif status not in (None, RUNS_ALREADY):
                break
            await trio.sleep(0.02)
    log_path = settings.state_dir / LOG
    raise HostUnfit(f"The supervisor did not start. Its log ends:\n{tail(log_path, 1500)}", remedy=f"See {log_path}.")


async def connect_as(settings: Settings, hello: Hello, *, config: Path | None = None) -> trio.SocketStream:
    """Connect to the supervisor's socket and say hello there.

    Raises:
        HostUnfit: it does not start.
        Unauthorized: the token is worth nothing.
        InvalidArgument: the supervisor does not know what was asked for, or says nothing.

    """

    async def greet() -> trio.SocketStream:
        stream = await connect(settings, config=config)
        try:
            await say_hello(stream, hello)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    return await until_answered(greet)


async def until_answered(greet: Callable[[], Awaitable[T]]) -> T:
    """Connect and greet again while a supervisor ends instead of answering, as one does that was ending anyway."""
    limit = trio.current_time() + ENDING_LIMIT_S
    while True:
        try:
            return await greet()
        except SupervisorEnding:
            if trio.current_time() > limit:
                raise
            await trio.sleep(0.02)


def _end_needless(process: trio.Process | None, stream: trio.SocketStream) -> None:
    """End a supervisor that was started beside the one that answers: it would take over once that one ends."""
    pid, _, _ = struct.unpack("3i", stream.socket.getsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_PEERCRED, 12))
    if process is not None and process.pid != pid:
        process.terminate()


async def _start(settings: Settings, config: Path | None) -> trio.Process:
    """Start a supervisor that ends once it is not needed."""
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    argv = [sys.executable, "-m", "agentiso.cli", "daemon", "--idle-exit", "60"]
    if config:
        argv[3:3] = ["--config", str(config)]
    with (settings.state_dir / LOG).open("ab") as output:
        process = await trio.lowlevel.open_process(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            env={**os.environ, "AGENTISO_STATE_DIR": str(settings.state_dir)},
        )  # fmt: skip
    _started.append(process)
    return process


def is_running(settings: Settings) -> bool:
    """Tell whether a supervisor serves a state directory's socket."""
    try:
        sockets.connect(settings.state_dir / SOCKET).close()
    except OSError:
        return False
    return True


def stop_daemon(settings: Settings) -> bool:
    """Ask the running supervisor to end; tell whether there was one."""
    try:
        pid = int((settings.state_dir / "lock").read_text())
        os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError):
        return False
    return True
