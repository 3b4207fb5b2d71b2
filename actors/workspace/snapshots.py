"""A workspace's checkpoints: for a fork, under a name in its tree, or as the way back from a restore."""

from __future__ import annotations

import time
from typing import Any, Final

import attrs
import trio

from actors.machine import checkpoint as checkpoints
from actors.machine import pause as standstill
from actors.machine.compaction import compact
from actors.machine.guest.pulse import ANSWER_S
from actors.machine.storage import integrity
from actors.machine.storage.checkpoint import Checkpoint
from actors.model.errors import AgentisoError, GuestBroken, IllegalState, MachineFailed, NotFound, RestoreUnproven
from actors.model.info import SnapshotInfo
from actors.model.names import new_id
from actors.model.states import State
from actors.workspace import tree
from actors.workspace.lifecycle import bring_back, end_unreached, settle_on
from actors.workspace.resources import Resources

WAY_BACK_S: Final = 3.0
"""A way back does not need the present guest's answer, and waits no longer for it."""
TAKEN_ALONE: Final = (
    "The guest did not answer, so this was taken without it: its disk is as after a power cut, and a machine restored "
    "from its memory may not answer either; then restore it with disk_only."
)
KEPT_ALONE: Final = (
    "The guest did not answer before: undo brings it back as it was, or if it does not answer then either, its disk as "
    "after a power cut."
)


async def take(
    own: Resources,
    owner: str,
    *,
    with_memory: bool = True,
    durable: bool = False,
    whole: bool | None = None,
    guest_needed: bool = True,
    answer_s: float = ANSWER_S,
) -> checkpoints.Taken:
    """Checkpoint what there is, held for ``owner``: the machine, the disk, or what a suspended workspace resumes from.

    Unless the guest is needed, it is done without it where it does not answer; see `checkpoints.take`.

    Raises:
        IllegalState: the workspace has no disk yet, or is suspended and its disk is wanted without the memory.

    """
    record, store, machine = own.record, own.store, own.machine
    if own.unreached is not None:
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
            machine,
            store,
            with_memory=with_memory,
            durable=durable,
            whole=whole,
            guest_needed=guest_needed,
            answer_s=answer_s,
            intend=own.intend_layer,
        )
        store.hold(owner, {taken.checkpoint.id})
    finally:
        # The disk may stand on its next layer even if the checkpoint failed after that, or the machine died.
        own.settle_layer(machine)
    return taken


def _take_disk(own: Resources, owner: str) -> checkpoints.Taken:
    """Checkpoint the disk as it is, or will be once the machine is given up that cannot be reached.

    The workspace keeps its layer: a machine that starts from there gets a fresh one over what a checkpoint stands on.
    """
    record, store = own.record, own.store
    layer = own.last_layer() if own.unreached else record.layer
    if layer is None:
        raise IllegalState(f"Workspace {record.name} has no disk yet.", remedy="Start it first.")
    made = checkpoints.take_disk(store, layer, record.disk_bytes)
    store.hold(owner, {made.id})
    store.unflushed.update(store.files_of(made))
    return checkpoints.Taken(made, 0.0, 0)


async def create(own: Resources, name: str, *, with_memory: bool) -> SnapshotInfo:
    """Keep a checkpoint under a name, flushed to stable storage; with memory also of a guest that does not answer."""
    tree.check_new_name(own.record, name)
    owner, began = f"snapshot:{new_id()}", time.perf_counter()
    try:
        taken = await take(own, owner, with_memory=with_memory, durable=True, guest_needed=not with_memory)
        made = taken.checkpoint
        own.save(**tree.add(own.record, name, made))
    finally:
        own.store.release(owner)
    if not made.digest:
        own.background("digest", integrity.add_digest_later, own.store, made)
    info = tree.infos(own.record)[-1]
    note = TAKEN_ALONE if made.alone else ""
    return attrs.evolve(info, pause_ms=taken.pause_s * 1000, seconds=time.perf_counter() - began, note=note)


async def restore(own: Resources, name: str, *, disk_only: bool) -> str:
    """Go back to a snapshot, whatever the present machine does; where it was before can be had again by `undo`.

    Returns what has to be said of that step back, if it is not as whole as usual or could not be kept.
    """
    snapshot = tree.find(own.record, name)
    source = own.store.load(snapshot.checkpoint)
    if disk_only:
        source = attrs.evolve(source, has_memory=False)
    with own.store.held() as owner:
        step, note = await _step_back(own, f"restore of {snapshot.name}", owner)
        await bring_back(own, source, head=snapshot.id, **step)
    return note


async def _step_back(own: Resources, before: str, owner: str) -> tuple[tree.Changes, str]:
    """Keep where the workspace is now, if at all possible; a machine that cannot be checkpointed is no reason to stay.

    Returns the changes that make it a step back, on stable storage and held for ``owner`` until then, and what has to
    be said of it.
    """
    limits, machine = own.host.settings.limits, own.machine
    if not limits.max_undo:
        return {}, ""
    answers = machine is None or machine.held is not None or await standstill.guest_answers(machine, WAY_BACK_S)
    try:
        # Unlike a snapshot it is not to hold up the guest until all is on its disk, which its memory makes up for.
        if own.unreached is None:
            # It has been waited for.
            answer_s = ANSWER_S if answers else 0.0
            taken = await take(own, owner, durable=True, whole=False, guest_needed=answers, answer_s=answer_s)
        else:
            taken = _take_disk(own, owner)
        made = taken.checkpoint
    except (GuestBroken, MachineFailed) as error:
        return {}, f"This cannot be undone, since what was before could not be kept: {error.message}"
    except AgentisoError as error:
        if answers:
            # What is in order is not thrown away for want of room on the host's disk.
            raise
        return {}, f"This cannot be undone, since what was before could not be kept: {error.message}"
    own.background("digest", integrity.add_digest_later, own.store, made)
    step = tree.push_undo(own.record, made, before, max_count=limits.max_undo, max_bytes=limits.max_undo_mb * 2**20)
    return step, KEPT_ALONE if made.alone else ""


async def undo(own: Resources) -> str:
    """Go back to where the workspace was before its last restore; say what was undone.

    What had failed before that restore has no machine to go back to: it gets its disk back, and is stopped.

    Raises:
        NotFound: nothing can be undone.
        IllegalState: it had failed before, and has a machine now, which would be lost for that disk.

    """
    if not own.record.undo:
        raise NotFound(
            f"Nothing of workspace {own.record.name} can be undone.",
            remedy="Only a restore can be; take a snapshot before other things.",
        )
    *earlier, step = own.record.undo
    changes: tree.Changes = {"undo": tuple(earlier)}
    had_failed = step.state is State.FAILED
    if had_failed and own.lifecycle.state not in (State.STOPPED, State.FAILED):
        raise IllegalState(
            f"Workspace {own.record.name} had failed before the {step.before}: there is no machine to go back to, only "
            "the disk that it left.",
            remedy="Stop the workspace first if you want that disk: undo then puts it back, for the workspace to start "
            "from. Take a snapshot before, to keep what there is now.",
        )
    source = own.store.load(step.checkpoint)
    note = f"The {step.before} was undone."
    if step.has_memory or step.state is State.RUNNING:
        note += await _bring_back_somehow(own, source, head=step.head, **changes)
    else:
        await _go_without_machine(own, source, head=step.head, **changes)
    if had_failed:
        note += " It had failed before that, so it is stopped now, on the disk that it had then."
    return note


async def _bring_back_somehow(own: Resources, source: Checkpoint, *, head: str | None, **changes: Any) -> str:
    """Bring back a step; what was kept of a guest that did not answer, and still does not, is booted from its disk."""
    try:
        await bring_back(own, source, head=head, **changes)
    except (MachineFailed, RestoreUnproven) as error:
        if not source.alone:
            raise
        await bring_back(own, attrs.evolve(source, has_memory=False), head=head, **changes)
        why = error.message.splitlines()[0]
        return f" It was booted from its disk, since its guest does not answer as it was either: {why}"
    return ""


async def _go_without_machine(own: Resources, source: Checkpoint, *, head: str | None, **changes: Any) -> None:
    """Have the workspace be stopped on a checkpoint's disk, and end its machine."""
    machine, unreached = own.machine, own.unreached
    settle_on(own, source, head=head, **changes)
    own.machine = None
    with trio.CancelScope(shield=True):
        if machine is not None:
            await machine.end()
        await end_unreached(own, unreached)


def delete(own: Resources, name: str, *, cascade: bool) -> tuple[str, ...]:
    """Forget a snapshot, or with ``cascade`` all that stand on it too; return the names of what went."""
    changes, names = tree.remove(own.record, name, cascade=cascade)
    own.save(**changes)
    return names


def find(own: Resources, name: str) -> Checkpoint:
    """Return the checkpoint of a snapshot."""
    return own.store.load(tree.find(own.record, name).checkpoint)
