"""What is found at a start: which workspaces there are, which machines are nobody's, what was being done.

Only what is proven to be unneeded goes: a machine whose workspace's record was read, is the last one that was written
and does not name it; a directory whose journal says that it is being destroyed, or that was never handed to anybody.
All else stays, is told as `Trouble`, and keeps the store from collecting.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs
import trio

from actors.machine.qemu.orphans import end_machines
from actors.machine.qemu.process import find_machines
from actors.machine.storage.checkpoint import layer_of
from actors.machine.storage.integrity import host_boot
from actors.machine.storage.store import Store
from actors.model import record as records
from actors.model.errors import AgentisoError, CheckpointUnusable
from actors.model.files import earlier_of, failures_reported, read_json, replace_json
from actors.model.info import Trouble
from actors.model.journal import Journal, Kind
from actors.model.record import WorkspaceRecord
from actors.model.states import UNOWNED

log = logging.getLogger("agentiso.registry")
BOOT: Final = "boot.json"
"""Has the id of the host's boot in which a supervisor was here last."""


@attrs.define
class Found:
    """What the directories of a state directory hold."""

    records: list[WorkspaceRecord] = attrs.field(factory=list)
    """Of workspaces that somebody has."""
    unowned: list[Path] = attrs.field(factory=list)
    """Directories of workspaces that nobody has: not yet, or not any more."""
    troubles: list[Trouble] = attrs.field(factory=list)
    """What could not be read, or is not understood."""


def lost_power(state_dir: Path) -> bool:
    """Tell whether the host has booted since a supervisor was here, so that what was not flushed may be gone.

    Raises:
        HostFailed, NoCapacity: what is needed to tell that the next time cannot be read, or written.

    """
    path = state_dir / BOOT
    with failures_reported():
        try:
            known = read_json(path)
        except (FileNotFoundError, ValueError):
            known = None
        if known != host_boot():
            replace_json(path, host_boot(), flushed=True)
    return known not in (None, host_boot())


def read_all(root: Path, lost: Store | None = None) -> Found:
    """Read every workspace's directory; what is wrong with one keeps no other from being read.

    With the store that may have ``lost`` what was not flushed, a workspace goes back to what was.

    Raises:
        OSError: the directory of workspaces itself cannot be listed, so that nothing is known.

    """
    found = Found()
    for directory in sorted(root.iterdir()):
        try:
            read_one(directory, found, lost)
        except (AgentisoError, OSError) as error:
            found.troubles.append(trouble(f"workspace {directory.name}", directory, error))
    return found


def _roll_back(store: Store, directory: Path) -> None:
    """Have a workspace be as its last flushed record says, if the one after it names what a power loss has taken."""
    path = directory / records.RECORD
    earlier = earlier_of(path)
    if not earlier.exists():
        # What is written down is on stable storage.
        return
    try:
        now, before = records.read(path), records.read(earlier)
    except records.DamagedRecord:
        # Whoever reads it makes of it what can be made.
        return
    if not _is_whole(store, now) and _is_whole(store, before):
        log.warning("workspace %s goes back to what was on stable storage when the host lost its power", now.name)
        earlier.rename(path)


def _is_whole(store: Store, record: WorkspaceRecord) -> bool:
    """Tell whether all that a record names is there."""
    try:
        for name in record.needs:
            layer = layer_of(store.checkpoint(name)) or name
            store.layers.depends_on(layer)
    except (FileNotFoundError, CheckpointUnusable):
        return False
    return True


def read_one(directory: Path, found: Found, lost: Store | None = None) -> None:
    """Read a workspace's directory; ``lost`` as above.

    Raises:
        OSError, DamagedRecord, DamagedJournal: it cannot be read, or is not understood.

    """
    if records.is_empty(directory):
        found.unowned.append(directory)
        return
    if lost is not None:
        _roll_back(lost, directory)
    destroying = any(intent.kind is Kind.DESTROY for intent in Journal(directory).intents())
    if destroying and not (directory / records.RECORD).exists():
        found.unowned.append(directory)
        return
    record = records.load(directory)
    if destroying or record.state in UNOWNED:
        # Nobody has it any more, or it was never handed to anybody.
        found.unowned.append(directory)
    else:
        found.records.append(record)


def trouble(what: str, path: Path, error: Exception) -> Trouble:
    """Return what is to be told of something that could not be read."""
    if isinstance(error, AgentisoError):
        return Trouble(what, str(path), error.message, error.remedy)
    return Trouble(what, str(path), f"It cannot be read: {error}.", "Mend its disk or its rights; it is read again.")


async def end_orphans(
    state_dir: Path, found: Found, *, lives: Callable[[WorkspaceRecord], bool], within: Path | None = None
) -> list[Trouble]:
    """End the machines that are proven to be nobody's, and tell of those of which that is not known.

    ``lives`` tells whether a workspace's actor runs already, to which all its machines belong.  With ``within`` only
    the machines in that directory are looked at.
    """
    root, troubles = state_dir / "workspaces", list[Trouble]()
    named = {records.directory_of(state_dir, record.id): record for record in found.records}
    machines = await trio.to_thread.run_sync(lambda: list(find_machines(state_dir)))
    for identity, directory in machines:
        if within is not None and not directory.is_relative_to(within):
            continue
        owner = next((parent for parent in directory.parents if parent.parent == root), None)
        if owner is None:
            # A template's boot, or a probe: nobody has it when no supervisor is at it.
            unneeded = directory.is_relative_to(state_dir / "templates")
        elif (record := named.get(owner)) is not None:
            unneeded = not lives(record) and _is_unneeded(record, directory, owner)
            if unneeded is False and not lives(record) and record.machine is None:
                troubles.append(_unknown(identity.pid, directory, "its record may be older than it"))
        else:
            unneeded = owner in found.unowned
            if not unneeded:
                troubles.append(_unknown(identity.pid, directory, "the record of its workspace cannot be read"))
        if unneeded:
            await end_machines(state_dir, directory)
    return troubles


def _is_unneeded(record: WorkspaceRecord, directory: Path, owner: Path) -> bool:
    """Tell whether a workspace's record proves that a machine in its directory is not its own."""
    if record.machine is not None and Path(record.machine.directory) == directory:
        return False
    return records.is_whole(owner)


def still_unknown(state_dir: Path, machine: Path) -> bool:
    """Tell whether a machine of which it was not known whose it is still runs, and nobody has it."""
    if not any(directory == machine for _, directory in find_machines(state_dir)):
        return False
    root = state_dir / "workspaces"
    record = records.load(root / machine.relative_to(root).parts[0])
    return record.machine is None or Path(record.machine.directory) != machine


def _unknown(pid: int, directory: Path, why: str) -> Trouble:
    return Trouble(
        f"machine {directory.name}",
        str(directory),
        f"QEMU's process {pid} runs, and whose it is cannot be told: {why}.",
        f"It is left alone. Mend the record; or, if nobody needs it, end it: kill {pid}",
    )
