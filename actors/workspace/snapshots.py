"""A workspace's checkpoints: for a fork, under a name in its tree, or as the way back from a restore."""

from __future__ import annotations

import time

import attrs
import trio

from actors.machine import checkpoint as checkpoints
from actors.machine.compaction import compact
from actors.machine.storage import integrity
from actors.machine.storage.checkpoint import Checkpoint
from actors.model.errors import IllegalState, NotFound
from actors.model.info import SnapshotInfo
from actors.model.names import new_id
from actors.model.states import State
from actors.workspace import tree
from actors.workspace.lifecycle import bring_back, give_up_process, settle_on
from actors.workspace.resources import Resources


async def take(own: Resources, owner: str, *, with_memory: bool = True, durable: bool = False) -> checkpoints.Taken:
    """Checkpoint what there is, held for ``owner``: the machine, the disk, or what a suspended workspace resumes from.

    Raises:
        IllegalState: the workspace has no disk yet, or is suspended and its disk is wanted without the memory.

    """
    record, store, machine = own.record, own.store, own.machine
    if own.has_process:
        raise IllegalState(
            f"The machine of workspace {record.name} cannot be reached, so nothing of it can be checkpointed.",
            remedy="It is tried again; or stop it, or restore a snapshot.",
        )
    if record.suspended:
        if not with_memory:
            raise IllegalState(
                f"Workspace {record.name} is suspended: its disk belongs to its memory.",
                remedy="Take the memory too, or resume it first.",
            )
        store.hold(owner, {record.suspended})
        return checkpoints.Taken(store.load(record.suspended), 0.0, 0)
    if machine is None:
        return _take_disk(own, owner)
    if machine.held is None and machine.doubtful_layer is None:
        await compact(machine, store.layer(machine.layer), own.host.settings.limits.max_disk_layers)
    try:
        taken = await checkpoints.take(
            machine, store, with_memory=with_memory, durable=durable, intend=own.intend_layer
        )
        store.hold(owner, {taken.checkpoint.id})
    finally:
        # The disk may stand on its next layer even if the checkpoint failed after that, or the machine died.
        own.settle_layer(machine)
    return taken


def _take_disk(own: Resources, owner: str) -> checkpoints.Taken:
    record, store, next_layer = own.record, own.store, new_id()
    if record.layer is None:
        raise IllegalState(f"Workspace {record.name} has no disk yet.", remedy="Start it first.")
    with store.held(next_layer):
        made = checkpoints.take_disk(store, record.layer, next_layer, record.disk_bytes)
        store.hold(owner, {made.id})
        store.unflushed.update(store.files_of(made))
        own.save(layer=next_layer)
    return checkpoints.Taken(made, 0.0, 0)


async def create(own: Resources, name: str, *, with_memory: bool) -> SnapshotInfo:
    """Keep a checkpoint under a name, flushed to stable storage."""
    tree.check_new_name(own.record, name)
    owner, began = f"snapshot:{new_id()}", time.perf_counter()
    try:
        taken = await take(own, owner, with_memory=with_memory, durable=True)
        made = taken.checkpoint
        own.save(**tree.add(own.record, name, made))
    finally:
        own.store.release(owner)
    if not made.digest:
        own.background("digest", integrity.add_digest_later, own.store, made)
    info = tree.infos(own.record)[-1]
    return attrs.evolve(info, pause_ms=taken.pause_s * 1000, seconds=time.perf_counter() - began)


async def restore(own: Resources, name: str, *, disk_only: bool) -> None:
    """Go back to a snapshot; where the workspace was before can be had again by `undo`."""
    snapshot = tree.find(own.record, name)
    source = own.store.load(snapshot.checkpoint)
    await give_up_process(own)
    if disk_only:
        source = attrs.evolve(source, has_memory=False)
    steps = own.record.undo
    try:
        # The oldest step goes only if the restore succeeds.
        with own.store.held(*(step.checkpoint for step in steps)):
            try:
                await _keep_undo(own, f"restore of {snapshot.name}")
                await bring_back(own, source, head=snapshot.id)
            except BaseException:
                own.note(undo=steps)
                raise
    finally:
        with trio.CancelScope(shield=True):
            await own.store.collect()


async def _keep_undo(own: Resources, before: str) -> None:
    limits, owner = own.host.settings.limits, f"undo:{new_id()}"
    if not limits.max_undo:
        return
    try:
        made = (await take(own, owner)).checkpoint
        own.save(
            **tree.push_undo(own.record, made, before, max_count=limits.max_undo, max_bytes=limits.max_undo_mb * 2**20)
        )
    finally:
        own.store.release(owner)
    own.background("digest", integrity.add_digest_later, own.store, made)


async def undo(own: Resources) -> str:
    """Go back to where the workspace was before its last restore; say what was undone.

    Raises:
        NotFound: nothing can be undone.

    """
    if not own.record.undo:
        raise NotFound(
            f"Nothing of workspace {own.record.name} can be undone.",
            remedy="Only a restore can be; take a snapshot before other things.",
        )
    *earlier, step = own.record.undo
    source = own.store.load(step.checkpoint)
    await give_up_process(own)
    if step.has_memory or step.state is State.RUNNING:
        await bring_back(own, source, head=step.head)
    else:
        settle_on(own, source, head=step.head)
        machine, own.machine = own.machine, None
        if machine is not None:
            with trio.CancelScope(shield=True):
                await machine.end()
    own.save(undo=tuple(earlier))
    with trio.CancelScope(shield=True):
        await own.store.collect()
    return f"The {step.before} was undone."


async def delete(own: Resources, name: str, *, cascade: bool) -> tuple[str, ...]:
    """Forget a snapshot, or with ``cascade`` all that stand on it too; return the names of what went."""
    changes, names = tree.remove(own.record, name, cascade=cascade)
    own.save(**changes)
    await own.store.collect()
    return names


def find(own: Resources, name: str) -> Checkpoint:
    """Return the checkpoint of a snapshot."""
    return own.store.load(tree.find(own.record, name).checkpoint)
