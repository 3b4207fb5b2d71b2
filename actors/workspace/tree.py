"""The tree of a workspace's snapshots and its stack of undo steps: functions from a record to what changes in it.

A snapshot's parent is the one that the workspace stood on when it was taken, so the tree branches after a restore.
"""

from __future__ import annotations

from typing import Any

import attrs

from actors.machine.storage.checkpoint import Checkpoint
from actors.model.errors import NameTaken, NotFound
from actors.model.info import SnapshotInfo, UndoInfo
from actors.model.names import check_name, new_id
from actors.model.record import SnapshotRecord, UndoRecord, WorkspaceRecord
from actors.model.states import State
from actors.model.text import shown

Changes = dict[str, Any]
"""Fields of a record and their new values."""


def find(record: WorkspaceRecord, name: str) -> SnapshotRecord:
    """Return the snapshot with a name or an id.

    Raises:
        NotFound: there is none.

    """
    for snapshot in record.snapshots:
        if name in (snapshot.name, snapshot.id):
            return snapshot
    known = ", ".join(snapshot.name for snapshot in record.snapshots) or "none"
    raise NotFound(f"Workspace {record.name} has no snapshot {shown(name)}; it has: {known}.", remedy="List them.")


def check_new_name(record: WorkspaceRecord, name: str) -> None:
    """Raise `InvalidName` or `NameTaken` unless a new snapshot may have this name."""
    check_name(name, "snapshot")
    if any(snapshot.name == name for snapshot in record.snapshots):
        raise NameTaken(
            f"Workspace {record.name} has a snapshot {name!r} already.", remedy="Choose another name, or delete it."
        )


def add(record: WorkspaceRecord, name: str, checkpoint: Checkpoint) -> Changes:
    """Put a snapshot on the one that the workspace stands on, and have it stand on the new one."""
    snapshot = SnapshotRecord(
        id=new_id(),
        name=name,
        parent=record.head,
        created_at=checkpoint.created_at,
        checkpoint=checkpoint.id,
        has_memory=checkpoint.has_memory,
        size_bytes=checkpoint.size_bytes,
    )
    return {"snapshots": (*record.snapshots, snapshot), "head": snapshot.id}


def remove(record: WorkspaceRecord, name: str, *, cascade: bool) -> tuple[Changes, tuple[str, ...]]:
    """Take a snapshot out, with ``cascade`` all that stand on it too; also return the names of what went.

    What stood on it stands on its parent then, and so does the workspace.
    """
    top = find(record, name)
    gone = {top.id}
    if cascade:
        # A child is always younger than its parent, and the records are in the order of their age.
        for snapshot in record.snapshots:
            if snapshot.parent in gone:
                gone.add(snapshot.id)
    kept = tuple(
        attrs.evolve(snapshot, parent=top.parent) if snapshot.parent in gone else snapshot
        for snapshot in record.snapshots
        if snapshot.id not in gone
    )
    undo = tuple(attrs.evolve(step, head=top.parent) if step.head in gone else step for step in record.undo)
    names = tuple(snapshot.name for snapshot in record.snapshots if snapshot.id in gone)
    return {"snapshots": kept, "undo": undo, "head": top.parent if record.head in gone else record.head}, names


def push_undo(
    record: WorkspaceRecord, checkpoint: Checkpoint, before: str, *, max_count: int, max_bytes: int
) -> Changes:
    """Remember where the workspace is now; the oldest steps go beyond ``max_count`` or ``max_bytes``.

    Of a machine that could not be reached no more than of one that failed can be had again.
    """
    step = UndoRecord(
        id=new_id(),
        before=before,
        created_at=checkpoint.created_at,
        checkpoint=checkpoint.id,
        has_memory=checkpoint.has_memory,
        size_bytes=checkpoint.size_bytes,
        state=State.FAILED if record.state is State.UNREACHABLE else record.state,
        head=record.head,
    )
    steps = [*record.undo, step][-max_count:] if max_count else []
    while len(steps) > 1 and sum(kept.size_bytes for kept in steps) > max_bytes:
        del steps[0]
    return {"undo": tuple(steps)}


def infos(record: WorkspaceRecord) -> tuple[SnapshotInfo, ...]:
    """Describe the snapshots, oldest first."""
    names = {snapshot.id: snapshot.name for snapshot in record.snapshots}
    return tuple(
        SnapshotInfo(
            id=snapshot.id,
            name=snapshot.name,
            parent=names.get(snapshot.parent or ""),
            created_at=snapshot.created_at,
            has_memory=snapshot.has_memory,
            size_bytes=snapshot.size_bytes,
            is_head=snapshot.id == record.head,
        )
        for snapshot in record.snapshots
    )


def undo_infos(record: WorkspaceRecord) -> tuple[UndoInfo, ...]:
    """Describe the undo steps, oldest first."""
    return tuple(UndoInfo(step.before, step.created_at, step.has_memory, step.size_bytes) for step in record.undo)
