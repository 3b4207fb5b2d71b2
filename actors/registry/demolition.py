"""The end of a workspace, whatever its actor, its machine or this supervisor is up to.

It is an intent of the journal first, and is gone on with by whoever finds that.  The machine is ended, then the actor,
then the files go; each step stands for itself, and can be done again.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import trio

from actors.machine.qemu.orphans import end_machines
from actors.model import record as records
from actors.model.errors import HostFailed, NoCapacity
from actors.model.files import failures_reported
from actors.model.journal import Journal, Kind
from actors.runtime import Supervisor
from actors.workspace.host import Host
from actors.workspace.resources import intents_of, owner_of


async def demolish(host: Host, supervisor: Supervisor, workspace_id: str) -> None:
    """Destroy a workspace, by its id or the first digits of that; not cancellable.

    Raises:
        HostFailed, NoCapacity, MachineFailed: something of it could not be removed or ended; all else is.  It is
            to be tried again.

    """
    directory = records.directory_of(host.state_dir, workspace_id)
    with trio.CancelScope(shield=True), failures_reported():
        await _intend(directory)
        await end_machines(host.state_dir, directory)
        # Whichever runs by now, be it one that is only being started.
        if (ref := supervisor.find(records.actor_name(workspace_id))) is not None:
            await supervisor.stop(ref)
        for port in [port for port, owner in host.forwarded.items() if owner == workspace_id]:
            del host.forwarded[port]
        await clear(host.state_dir, directory)
        # Also by the first digits of an id, which is all that a directory tells.
        for owner in host.store.holds.owners:
            if owner.startswith((owner_of(workspace_id), intents_of(workspace_id))):
                host.store.release(owner)


async def clear(state_dir: Path, directory: Path) -> None:
    """Remove a workspace's directory, and end what runs in it, where no actor is at it any more; errors as above."""
    await _intend(directory)
    await end_machines(state_dir, directory)
    with failures_reported():
        await trio.to_thread.run_sync(records.remove, directory)


async def _intend(directory: Path) -> None:
    """Write down that it is to be destroyed; a disk that is broken, or full, is no reason to keep a workspace."""
    if directory.is_dir():
        journal = Journal(directory)
        with contextlib.suppress(NoCapacity, HostFailed), failures_reported():
            journal.will(Kind.DESTROY, directory.name)
            await journal.flush()
