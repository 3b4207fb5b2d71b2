"""What is not as it should be, and what would mend it; what there is in the store, and who keeps it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs

from actors.machine.storage.collection import Doubt
from actors.machine.storage.store import Store
from actors.model.files import failures_reported
from actors.model.info import Diagnosis, StoredPiece, Trouble, WorkspaceInfo
from actors.model.states import State
from actors.registry.images import Images
from actors.registry.troubles import Troubles
from actors.registry.workspaces import Workspaces
from actors.workspace.describe import failure_of
from actors.workspace.host import Host
from actors.workspace.resources import owner_of

STARTING: Final = "the start"
"""What keeps the store from being collected until everything was read."""
LOW_BYTES: Final = 16 * 1024 * 1024
"""With less room on its disk a machine soon stands still."""
GIVE_UP: Final = (
    "It is tried again by itself. To give its machine up: `agentiso stop {0}`, whose disk stays, or "
    "`agentiso snapshot restore {0} NAME`, or `agentiso destroy {0}`."
)
SILENT: Final = (
    "Wait for it; or what needs no answer of it: `agentiso undo {0}`, `agentiso snapshot restore {0} NAME`, or "
    "`agentiso stop {0}`, whose disk stays."
)
UNDONE: Final = (
    "It is tried again by itself: mend the host's disk, or make room on it, before the host loses its power."
)
FULL: Final = (
    "Free some space; of what is kept here, `agentiso snapshot delete` and `agentiso destroy` do so, also now. Guests "
    "that stand still for want of room go on by themselves then."
)


async def diagnose(host: Host, workspaces: Workspaces, troubles: Troubles, images: Images, *, again: bool) -> Diagnosis:
    """Tell everything that is damaged, out of reach, half-done or in the way, after it was tried ``again``."""
    store = host.store
    if again:
        await troubles.look_again()
        if store.trouble:
            await store.collect()
    infos = await workspaces.list()
    names = {owner_of(info.workspace_id): f"workspace {info.name}" for info in infos}
    return Diagnosis(
        damaged=(*troubles.all(), *workspaces.unreadable(), *(_damaged(doubt, names) for doubt in store.doubts)),
        unreachable=tuple(_silent(infos)),
        half_done=tuple(_half_done(infos)),
        collection=tuple(_not_collected(store)),
        failed=tuple(_failed(infos)),
        host=(*_room(host.state_dir), *await images.troubles()),
    )


def _damaged(doubt: Doubt, names: Mapping[str, str]) -> Trouble:
    """Tell of a file that is needed and cannot be read, with whose it is."""
    theirs = [names.get(owner, owner) for owner in doubt.owners]
    ways = [f"`agentiso destroy {owner.split()[1]}`" for owner in theirs if owner in names.values()]
    remedy = "Put it back from a backup, or mend its disk or its rights"
    if ways:
        remedy += f"; or restore a snapshot that does not need it and delete those that do, or {', '.join(ways)}"
    return Trouble(
        doubt.what, doubt.path, f"{doubt.why} Needed by {', '.join(theirs) or 'nobody known'}.", f"{remedy}."
    )


def _silent(infos: tuple[WorkspaceInfo, ...]) -> Iterator[Trouble]:
    for info in infos:
        what, hindrance = f"workspace {info.name}", info.hindrance
        known = f" The reason: {hindrance.why}." if hindrance else ""
        remedy = hindrance.remedy if hindrance else ""
        if info.state == State.UNREACHABLE:
            why = info.failure or "It cannot be reached."
            # What was the matter when it was lost may be something else by now.
            why += "" if hindrance and hindrance.why in why else known
            yield Trouble(what, "", why, f"{remedy} {GIVE_UP.format(info.name)}".strip())
        elif info.state == State.DESTROYING:
            continue
        elif info.mute_since is not None:
            why = f"Its guest has not answered for {time.time() - info.mute_since:.0f} s.{known}"
            yield Trouble(what, "", why, f"{remedy} {SILENT.format(info.name)}".strip())
        elif hindrance is not None:
            yield Trouble(what, "", f"It does not run:{known.removeprefix(' The reason:')}", remedy)
        elif info.note:
            yield Trouble(what, "", info.note, "It is asked again each time; nothing of it is changed.")


def _half_done(infos: tuple[WorkspaceInfo, ...]) -> Iterator[Trouble]:
    for info in infos:
        what = f"workspace {info.name}"
        if info.state == State.DESTROYING:
            yield Trouble(what, "", info.failure or "It is being destroyed.", f"agentiso destroy {info.name}")
        elif info.undone:
            yield Trouble(what, "", info.undone, UNDONE)


def _failed(infos: tuple[WorkspaceInfo, ...]) -> Iterator[Trouble]:
    for info in infos:
        if info.state == State.FAILED:
            why = failure_of(info.ended) if info.ended else info.failure or "Its machine ended."
            ways = [f"`agentiso start {info.name}` boots it from its disk"]
            ways += [f"`agentiso snapshot restore {info.name} {each.name}`" for each in info.snapshots[-1:]]
            ways += [f"`agentiso undo {info.name}`"] if info.undo else []
            yield Trouble(f"workspace {info.name}", "", why, f"{', '.join(ways)}, or `agentiso destroy {info.name}`.")


def _not_collected(store: Store) -> Iterator[Trouble]:
    for what, why in store.blocked.items():
        yield Trouble("collection", "", f"Nothing is removed, since {what} may need it: {why}", "Mend what is named.")
    for doubt in store.doubts:
        why = f"Nothing is removed, since it is not known what {doubt.what} stands on: {doubt.why}"
        yield Trouble("collection", doubt.path, why, "See there.")
    if store.trouble and not store.doubts:
        yield Trouble("collection", "", store.trouble, "It is tried again; mend what is named.")


def _room(state_dir: Path) -> Iterator[Trouble]:
    facts = os.statvfs(state_dir)
    if (free := facts.f_bavail * facts.f_frsize) < LOW_BYTES:
        why = f"It is full, or nearly so: {free // 1024} KB are free. What needs room is refused."
        yield Trouble("the host's disk", str(state_dir), why, FULL)


async def collect(store: Store, *, dry_run: bool) -> tuple[StoredPiece, ...]:
    """Describe all layers and checkpoints; or remove what nobody keeps, and describe what went.

    Raises:
        HostFailed, NoCapacity: what there is cannot be listed.

    """
    with failures_reported():
        async with store.nothing_removed():
            found = await store.survey()
    if dry_run:
        unknown = (*store.blocked, *(doubt.what for doubt in found.doubts))
        return tuple(piece if piece.kept_by else attrs.evolve(piece, maybe_kept_by=unknown) for piece in found.pieces)
    removed = set(await store.collect())
    return tuple(piece for piece in found.pieces if piece.id in removed)
