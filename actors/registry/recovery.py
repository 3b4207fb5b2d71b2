"""What is found at a start: which workspaces there are, which machines are nobody's, what was being done.

Only what is proven to be unneeded goes: a machine whose workspace's record was read, is the last one that was written
and does not name it; a directory whose journal says that it is being destroyed, or that was never handed to anybody.
All else stays and is told as `Trouble`.  What may be a workspace keeps the store from collecting.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attrs
import trio

from actors.machine.qemu.orphans import end_machines
from actors.machine.qemu.process import find_machines, is_machine_of
from actors.machine.storage.checkpoint import layer_of
from actors.machine.storage.store import Store
from actors.model import record as records
from actors.model.errors import AgentisoError, CheckpointUnusable
from actors.model.files import earlier_of
from actors.model.info import Trouble
from actors.model.journal import Journal, Kind
from actors.model.names import is_short, short
from actors.model.record import WorkspaceRecord
from actors.model.states import UNOWNED
from actors.registry.troubles import Troubles

log = logging.getLogger("agentiso.registry")


@attrs.frozen
class Kept:
    """A workspace that somebody has, as it is written down."""

    record: WorkspaceRecord
    switches: frozenset[str]
    """Layers to which its disk was about to be switched."""
    unflushed: frozenset[Path]
    """What a power loss may undo, so that the record before is still there: the record, and what it names."""


@attrs.define
class Found:
    """What the directories of a state directory hold."""

    kept: list[Kept] = attrs.field(factory=list)
    unowned: list[Path] = attrs.field(factory=list)
    """Directories of workspaces that nobody has: not yet, or not any more."""
    troubles: list[Trouble] = attrs.field(factory=list)
    """What could not be read, or is not understood."""
    strays: list[Trouble] = attrs.field(factory=list)
    """What lies among the workspaces and is none."""


def read_all(root: Path, store: Store | None = None, lives: Callable[[str], bool] = lambda _name: False) -> Found:
    """Read every workspace's directory; what is wrong with one keeps no other from being read.

    With the ``store`` a workspace whose last record a power loss has taken part of goes back to what was before, unless
    its actor ``lives``, told by its directory's name.

    Raises:
        OSError: the directory of workspaces itself cannot be listed, so that nothing is known.

    """
    found = Found()
    for path in sorted(root.iterdir()):
        try:
            if records.may_be_workspace(path):
                read_one(path, found, None if lives(path.name) else store)
            elif not records.is_others(path):
                found.strays.append(_stray(path))
        except (AgentisoError, OSError) as error:
            found.troubles.append(trouble(f"workspace {path.name}", path, error))
    return found


def _stray(path: Path) -> Trouble:
    return Trouble(
        path.name, str(path), "It lies among the workspaces and is none: agentiso leaves it alone, and needs it not.",
        "Move it elsewhere.",
    )  # fmt: skip


def read_one(directory: Path, found: Found, store: Store | None = None) -> None:
    """Read a workspace's directory; with the ``store`` as above.

    Raises:
        OSError, DamagedRecord, DamagedJournal: it cannot be read, or is not understood.

    """
    if not is_short(directory.name):
        raise _misnamed(directory)
    if records.is_empty(directory):
        found.unowned.append(directory)
        return
    if store is not None:
        _roll_back(store, directory)
    intents = Journal(directory).intents()
    destroying = any(intent.kind is Kind.DESTROY for intent in intents)
    if destroying and not (directory / records.RECORD).exists():
        found.unowned.append(directory)
        return
    record = records.load(directory)
    if short(record.id) != directory.name:
        raise _misnamed(directory)
    if destroying or record.state in UNOWNED:
        # Nobody has it any more, or it was never handed to anybody.
        found.unowned.append(directory)
    else:
        switches = frozenset(intent.name for intent in intents if intent.kind is Kind.LAYER)
        found.kept.append(Kept(record, switches, _unflushed(store, directory, record) if store else frozenset()))


def _misnamed(directory: Path) -> records.DamagedRecord:
    return records.DamagedRecord(
        f"{directory} holds the record of a workspace and is not named after it.",
        remedy="Give it its name back, the first 8 digits of the id in its record, or move it out of "
        f"{directory.parent}; until then nothing is removed that it may need.",
    )


def _roll_back(store: Store, directory: Path) -> None:
    """Have a workspace be as its last flushed record says, if the one after it names what is not there.

    A power loss leaves that: what a record names was there before it.  It is done whenever it is found, since whoever
    found it first may have been ended.

    Raises:
        OSError, DamagedRecord: it cannot be told.

    """
    path = directory / records.RECORD
    earlier = earlier_of(path)
    if not earlier.exists():
        # What is written down is on stable storage.
        return
    try:
        now = records.read(path)
    except records.DamagedRecord:
        # Whoever reads it makes of it what can be made.
        return
    if now.machine is not None and is_machine_of(now.machine.process, Path(now.machine.directory)):
        # Its host has lost no power since; whatever is missing, the machine is not to be forgotten.
        return
    try:
        before = records.read(earlier)
    except records.DamagedRecord as error:
        if isinstance(error.__cause__, OSError):
            raise
        return
    if not _is_whole(store, now) and _is_whole(store, before):
        log.warning("workspace %s goes back to what was on stable storage: what came after it is lost", now.name)
        earlier.rename(path)


def _is_whole(store: Store, record: WorkspaceRecord) -> bool:
    """Tell whether all that a record names is there."""
    try:
        for name in record.needs:
            store.layers.depends_on(layer_of(store.checkpoint(name)) or name)
    except (FileNotFoundError, CheckpointUnusable):
        return False
    return True


def _unflushed(store: Store, directory: Path, record: WorkspaceRecord) -> frozenset[Path]:
    """Return what a power loss may undo of a workspace whose supervisor was killed before it had that flushed."""
    path = directory / records.RECORD
    if not earlier_of(path).exists():
        return frozenset()
    found = {directory, path}
    for name in record.needs:
        checkpoint = store.checkpoint(name)
        if checkpoint.is_dir():
            found |= {checkpoint, *checkpoint.iterdir()}
        # What is damaged no flush can help.
        with contextlib.suppress(CheckpointUnusable):
            found.add(store.layer(layer_of(checkpoint) or name))
    return frozenset(found)


def trouble(what: str, path: Path, error: Exception) -> Trouble:
    """Return what is to be told of something that could not be read."""
    if isinstance(error, AgentisoError):
        return Trouble(what, str(path), error.message, error.remedy)
    return Trouble(what, str(path), f"It cannot be read: {error}.", "Mend its disk or its rights; it is read again.")


async def end_orphans(
    state_dir: Path, found: Found, troubles: Troubles, *, lives: Callable[[str], bool], within: Path | None = None
) -> None:
    """End the machines that are proven to be nobody's, and tell of those that do not end, or may be somebody's.

    ``lives`` tells whether a workspace's actor runs already, to which all its machines belong.  With ``within`` only
    the machines in that directory are looked at.
    """
    root = state_dir / "workspaces"
    named = {records.directory_of(state_dir, kept.record.id): kept.record for kept in found.kept}
    machines = await trio.to_thread.run_sync(lambda: list(find_machines(state_dir)))
    for identity, directory in machines:
        if within is not None and not directory.is_relative_to(within):
            continue
        owner, why = next((parent for parent in directory.parents if parent.parent == root), None), ""
        if owner is None:
            # A template's boot, or a probe: nobody has it when no supervisor is at it.
            unneeded = directory.is_relative_to(state_dir / "templates")
        elif (record := named.get(owner)) is not None:
            unneeded = not lives(owner.name) and _is_unneeded(record, directory, owner)
            if not unneeded and not lives(owner.name) and record.machine is None:
                why = "its record may be older than it"
        elif not (unneeded := owner in found.unowned):
            why = "the record of its workspace cannot be read"
        if why:
            unknown = _unknown(identity.pid, directory, why)
            troubles.add(unknown, partial(_look_again, state_dir, unknown, troubles))
        if unneeded:
            await _end_orphan(state_dir, directory, troubles)


async def _end_orphan(state_dir: Path, directory: Path, troubles: Troubles) -> None:
    """End a machine that is nobody's, now or later: nobody will ever have it."""
    try:
        await end_machines(state_dir, directory)
    except (AgentisoError, OSError) as error:
        troubles.add(
            trouble(f"machine {directory.name}", directory, error), partial(end_machines, state_dir, directory)
        )


async def _look_again(state_dir: Path, unknown: Trouble, troubles: Troubles) -> None:
    if await trio.to_thread.run_sync(_is_still_unknown, state_dir, Path(unknown.path)):
        troubles.add(unknown, partial(_look_again, state_dir, unknown, troubles))


def _is_unneeded(record: WorkspaceRecord, directory: Path, owner: Path) -> bool:
    """Tell whether a workspace's record proves that a machine in its directory is not its own."""
    if record.machine is not None and Path(record.machine.directory) == directory:
        return False
    return records.is_whole(owner)


def _is_still_unknown(state_dir: Path, machine: Path) -> bool:
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
