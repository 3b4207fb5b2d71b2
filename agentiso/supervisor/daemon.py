"""The supervisor as a process: one per state directory, serving any number of clients on a Unix socket.

Whoever needs one connects, and starts it if none answers: of several that are started at once the first takes the
directory, and all who wait find its socket.  It ends by itself when it was started on demand and has had neither client
nor workspace for a while.  Machines survive it and are adopted by the next one.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from actors.model.errors import AgentisoError, SupervisorRunning
from actors.model.settings import Settings
from actors.registry.ephemeral import end_left_behind
from actors.registry.lock import held
from actors.runtime import open_plain_nursery
from actors.runtime.unix_sockets import listen
from agentiso.access.gate import Gate
from agentiso.library.opening import open_system
from agentiso.library.system import System
from agentiso.protocol.places import DAEMON_LOCK, SOCKET, make_state_dir
from agentiso.protocol.serving import take_left

if TYPE_CHECKING:
    from agentiso.supervisor.clients import Clients

log = logging.getLogger("agentiso.supervisor.daemon")
HTTP_URL: Final = "http.url"
"""File of the state directory with the URL at which the running supervisor serves HTTP."""
CHECK_S: Final = 1.0
SWEEP_S: Final = 300.0
"""How often it is looked whether a program has died that was attached to an earlier supervisor."""


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
        if (left := take_left(settings.state_dir)) is not None:
            idle_exit_s = left.idle_exit_s
            settings = attrs.evolve(settings, http=attrs.evolve(settings.http, bind=left.http or settings.http.bind))
        async with open_plain_nursery() as nursery:
            with trio.CancelScope() as scope:
                await nursery.start(_end_on_signal, scope)
                await _run(settings, idle_exit_s)
            nursery.cancel_scope.cancel(reason="the supervisor has ended")


async def _run(settings: Settings, idle_exit_s: float | None) -> None:
    # It takes a second to import, which a supervisor that is not needed is spared.
    from agentiso.mcp.server import make_server
    from agentiso.supervisor.clients import Clients

    async with open_system(settings, keep=True) as system:
        gate = Gate(settings)
        server = make_server(system, gate)
        clients = Clients(system, gate, server, {"http": settings.http.bind, "idle_exit_s": idle_exit_s})
        path = settings.state_dir / SOCKET
        async with open_plain_nursery() as beside:
            # First: whoever has a connection was promised a supervisor, and this may yet fail.
            if settings.http.bind:
                await beside.start(_serve_http, server, gate, settings)
            with _listening(path) as listener:
                async with trio.open_nursery() as nursery:
                    # Clients that come by HTTP cannot start it again, and a pool is of use only while it is there.
                    if idle_exit_s is not None and not settings.http.bind and not settings.pool.size:
                        nursery.start_soon(_end_when_idle, system, clients, idle_exit_s, nursery.cancel_scope)
                    nursery.start_soon(_end_left_behind, settings.state_dir, system)
                    log.info("serving %s", path)
                    await trio.serve_listeners(clients.serve, [listener], handler_nursery=nursery)
            beside.cancel_scope.cancel(reason="the supervisor ends")


@contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    """Be the one supervisor that serves a state directory, from before it is ready until it has ended."""
    make_state_dir(settings.state_dir)
    with ExitStack() as stack:
        try:
            stack.enter_context(held(settings.state_dir / DAEMON_LOCK))
        except BlockingIOError:
            raise DaemonRunning(
                f"A supervisor runs for {settings.state_dir} already.",
                remedy="The agentiso command uses it by itself; `agentiso daemon stop` ends it.",
            ) from None
        yield


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


async def _end_left_behind(state_dir: Path, system: System) -> None:
    while True:
        await trio.sleep(SWEEP_S)
        await end_left_behind(state_dir, system.registry)


async def _end_on_signal(scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
    """Have a signal end the supervisor in order; a later one changes nothing, whatever part of that is under way."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
        task_status.started()
        async for number in received:
            log.info("ending: signal %s", number)
            scope.cancel(reason=f"signal {number}")


async def _end_when_idle(system: System, clients: Clients, limit_s: float, scope: trio.CancelScope) -> None:
    idle_since = trio.current_time()
    while trio.current_time() - idle_since < limit_s:
        await trio.sleep(CHECK_S)
        if not await _is_idle(system, clients):
            idle_since = trio.current_time()
    scope.cancel(reason="idle")


async def _is_idle(system: System, clients: Clients) -> bool:
    """Tell whether there is neither client nor workspace; nobody can come between this answer and the next wait."""
    if clients:
        return False
    try:
        there = await system.list()
    except AgentisoError as error:
        log.warning("whether it is idle cannot be told: %s", error)
        return False
    # Who was welcomed meanwhile would be cut off.
    return not there and not clients
