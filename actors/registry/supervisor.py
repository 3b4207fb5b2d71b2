"""One supervisor per state directory: the lock, the actors, and what becomes of the machines at the end."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import trio

from actors.machine.storage.store import Store
from actors.model import record as records
from actors.model.errors import ActorGone, AgentisoError, SupervisorRunning
from actors.model.files import failures_reported
from actors.model.names import is_short
from actors.model.settings import Settings
from actors.registry import messages as r
from actors.registry import places
from actors.registry.actor import RegistryActor
from actors.registry.demolition import clear
from actors.registry.ephemeral import Ephemeral, NotingRef, end_left_behind
from actors.registry.lock import LOCK, held, holder_of
from actors.runtime import Supervisor, open_plain_nursery
from actors.workspace.host import Host
from actors.workspace.image_uses import ImageShelf, LoadImage

END_S: Final = 120.0
log = logging.getLogger("agentiso.supervisor")


@asynccontextmanager
async def open_supervisor(
    settings: Settings, load_image: LoadImage, *, keep: bool, shelf: ImageShelf | None = None
) -> AsyncIterator[r.RegistryRef]:
    """Run the actors of a state directory and yield the registry; without a ``shelf`` it lists and removes no images.

    At the end machines run on, for the next supervisor to adopt; but unless ``keep`` the workspaces that were made
    meanwhile are destroyed.

    Raises:
        SupervisorRunning: another process holds the state directory.
        HostFailed: it cannot be read, or one of its directories is missing.

    """
    with failures_reported():
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    workspaces = settings.state_dir / "workspaces"
    with _lock(settings):
        with failures_reported():
            await trio.to_thread.run_sync(places.claim, settings.state_dir)
            earlier = set(workspaces.iterdir())
        made = None if keep else Ephemeral.of_supervisor(settings.state_dir)
        try:
            async with _run_actors(settings, load_image, shelf, earlier=None if keep else earlier) as registry:
                yield registry if made is None else NotingRef(registry, made)
        finally:
            if made is not None:
                # Whatever the actors could not destroy, since a crash or an interrupt ended them.
                with trio.CancelScope(shield=True, deadline=trio.current_time() + END_S):
                    await _remove_all_but(earlier, settings.state_dir)
                    made.close()


async def _remove_all_but(kept: set[Path], state_dir: Path) -> None:
    """Remove the workspaces that were made meanwhile; what cannot be removed now is at the next start."""
    made = {path for path in (state_dir / "workspaces").iterdir() if is_short(path.name) and path.is_dir()} - kept
    for directory in made:
        try:
            await clear(state_dir, directory)
        except (AgentisoError, OSError) as error:
            log.warning("what is left of workspace %s could not be removed: %s", directory.name, error)


@asynccontextmanager
async def _run_actors(
    settings: Settings, load_image: LoadImage, shelf: ImageShelf | None, *, earlier: set[Path] | None
) -> AsyncIterator[r.RegistryRef]:
    """Run the actors; at the end the workspaces whose directories are not among ``earlier`` are destroyed."""
    store = Store(settings.state_dir)
    await trio.to_thread.run_sync(store.sweep)
    async with open_plain_nursery() as nursery:
        supervisor = Supervisor(nursery)
        host = Host(settings, store, load_image, shelf)
        registry = await supervisor.start("registry", lambda: RegistryActor(host, supervisor))
        await end_left_behind(settings.state_dir, registry)
        try:
            yield registry
        finally:
            if earlier is not None:
                shield = trio.CancelScope(shield=True, deadline=trio.current_time() + END_S)
                # An actor that is gone destroys nothing; the caller ends what it leaves.
                with shield, contextlib.suppress(ActorGone):
                    await _destroy_all_but(earlier, settings.state_dir, registry)
            nursery.cancel_scope.cancel(reason="the supervisor ends")


async def _destroy_all_but(kept: set[Path], state_dir: Path, registry: r.RegistryRef) -> None:
    infos = await registry.ask(r.ListWorkspaces())

    async def destroy(workspace_id: str) -> None:
        with contextlib.suppress(AgentisoError):
            await registry.ask(r.DestroyWorkspace(workspace_id))

    async with trio.open_nursery() as nursery:
        for info in infos:
            if records.directory_of(state_dir, info.workspace_id) not in kept:
                nursery.start_soon(destroy, info.workspace_id)


@contextmanager
def _lock(settings: Settings) -> Iterator[None]:
    path = settings.state_dir / LOCK
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(path))
        except BlockingIOError:
            holder = holder_of(path)
            raise SupervisorRunning(
                f"Another supervisor ({holder or 'of another user, or in a container'}) holds {settings.state_dir}.",
                remedy="Use it through the agentiso command, end it with `agentiso daemon stop` or, if it is a program "
                "of your own, as you end that; or choose another state directory (AGENTISO_STATE_DIR).",
                pid=holder.pid if holder else None,
            ) from None
        yield
