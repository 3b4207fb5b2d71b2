"""One supervisor per state directory: the lock, the actors, and what becomes of the machines at the end."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from actors import messages as m
from actors.errors import SupervisorRunning
from actors.host import Host, LoadImage
from actors.machine.store import Store
from actors.registry import RegistryActor
from actors.runtime import Supervisor, open_plain_nursery
from actors.settings import Settings

END_S = 120.0


@asynccontextmanager
async def open_supervisor(settings: Settings, load_image: LoadImage, *, keep: bool) -> AsyncIterator[m.RegistryRef]:
    """Run the actors of a state directory and yield the registry.

    At the end machines run on, for the next supervisor to adopt; but unless ``keep`` the workspaces that were made
    meanwhile are destroyed.

    Raises:
        SupervisorRunning: another process holds the state directory.

    """
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _lock(settings):
        store = Store(settings.state_dir)
        async with open_plain_nursery() as nursery:
            supervisor = Supervisor(nursery)
            host = Host(settings, store, load_image)
            registry = await supervisor.start("registry", lambda: RegistryActor(host, supervisor))
            earlier = {info.workspace_id for info in await registry.ask(m.ListWorkspaces())}
            try:
                yield registry
            finally:
                if not keep:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + END_S):
                        await _destroy_all_but(earlier, registry)
                nursery.cancel_scope.cancel(reason="the supervisor ends")


async def _destroy_all_but(kept: set[str], registry: m.RegistryRef) -> None:
    infos = await registry.ask(m.ListWorkspaces())
    async with trio.open_nursery() as nursery:
        for info in infos:
            if info.workspace_id in kept:
                continue
            nursery.start_soon(registry.ask, m.DestroyWorkspace(info.workspace_id))


@contextmanager
def _lock(settings: Settings) -> Iterator[None]:
    path = settings.state_dir / "lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = path.read_text().strip() or "unknown"
            raise SupervisorRunning(
                f"Another supervisor (pid {pid}) holds {settings.state_dir}.",
                remedy="Use it through the agentiso command, stop it with `agentiso daemon stop`, or choose another "
                "state directory (AGENTISO_STATE_DIR).",
                pid=pid,
            ) from None
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        yield
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)
