"""What is there - machines, files, holds - against what the workspaces that are there need: no less, and no more."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from actors.machine.storage import qcow2
from actors.model import record as records
from actors.model.errors import AgentisoError
from actors.model.files import read_json
from actors.model.info import WorkspaceInfo
from tests.stateful.modelled import PAUSED, RUNNING
from tests.stateful.points import ID
from tests.stateful.simulated import Qemu
from tests.stateful.stage import Stage

Infos = Mapping[str, WorkspaceInfo]
TEMPORARY: Final = (".new", ".part")
STAGING: Final = ("/imports/", "/boot-")


def machines(stage: Stage, infos: Infos) -> Iterator[str]:
    """Say where machines and the states of their workspaces do not fit."""
    by_id = {info.workspace_id[:8]: info for info in infos.values()}
    pooled = set(_pooled(stage))
    if len(pooled) > stage.settings.pool.size:
        yield f"{len(pooled)} machines wait in a pool of {stage.settings.pool.size}"
    seen: set[str] = set()
    for qemu in stage.world.alive:
        if qemu.workspace in seen:
            yield "two machines run of one workspace"
        seen.add(qemu.workspace)
        if qemu.workspace not in pooled:
            yield from _state_of(qemu, by_id.get(qemu.workspace))


def _state_of(qemu: Qemu, info: WorkspaceInfo | None) -> Iterator[str]:
    if info is None:
        yield "a machine runs that belongs to no workspace"
    elif info.state not in (RUNNING, PAUSED):
        yield f"a machine runs of {info.name}, which is {info.state}"
    elif qemu.running is not (info.state == RUNNING):
        yield f"{info.name} says {info.state}, and its processors {'run' if qemu.running else 'stand still'}"
    elif qemu.held and info.state == RUNNING:
        yield f"{info.name} says running, and its processes are held"


def leftovers(stage: Stage, infos: Infos) -> Iterator[str]:
    """Say which files and holds are left that nobody needs, and which are gone that somebody does."""
    if stage.lost_power and any(_is_damaged(directory) for directory in _entries(stage, "workspaces")):
        # What cannot be read is kept, and so is all that it may stand on.
        return
    wanted: set[str] = set()
    known, alive = {info.workspace_id[:8] for info in infos.values()}, {qemu.directory for qemu in stage.world.alive}
    for directory in _entries(stage, "workspaces"):
        if directory.name not in known and directory.name not in _pooled(stage):
            yield "a directory is left of a workspace that is not there"
            continue
        try:
            wanted |= records.load(directory).needs
        except AgentisoError:
            yield "a record is damaged"
        if set((directory / "machines").glob("*")) - alive:
            yield "a machine's directory is left"
    for path in (stage.state_dir / "templates").glob("*.json"):
        wanted.add(read_json(path)["checkpoint"])
    for qemu in stage.world.alive:
        # What its record says is looked at above; of a machine in the pool there is none.
        wanted |= {qemu.disk.stem} | ({qemu.ram.parent.name} if qemu.workspace in _pooled(stage) else set())
    yield from _of_store(stage, wanted)
    yield from _holds(stage, infos)
    for path in sorted(stage.root.rglob("*")):
        name = ID.sub("*", str(path.relative_to(stage.root)))
        if name.endswith(TEMPORARY) or any(part in name for part in STAGING):
            yield f"a file is left: {name}"


def _is_damaged(directory: Path) -> bool:
    try:
        records.load(directory)
    except AgentisoError:
        return True
    return False


def _entries(stage: Stage, name: str) -> list[Path]:
    directory = stage.state_dir / name
    return sorted(directory.glob("[!.]*")) if directory.is_dir() else []


def _pooled(stage: Stage) -> Iterator[str]:
    """Give the short ids of what waits in the pool."""
    for directory in _entries(stage, "workspaces"):
        with contextlib.suppress(AgentisoError):
            if records.load(directory).name.startswith("pool-"):
                yield directory.name


def _of_store(stage: Stage, wanted: set[str]) -> Iterator[str]:
    store = stage.world.store
    checkpoints = {path.name for path in _entries(stage, "checkpoints")}
    layers = {path.stem for path in _entries(stage, "layers")}
    needed = wanted - checkpoints
    for name in wanted & checkpoints:
        with contextlib.suppress(AgentisoError):
            needed.add(store.load(name).layer)
    for name in list(needed):
        try:
            needed |= {path.stem for path in qcow2.backing_chain(store.layer(name))}
        except (OSError, AgentisoError):
            yield "something that a record or a machine stands on is gone"
    if checkpoints - wanted:
        yield "checkpoints are left that nobody needs"
    if layers - needed:
        yield "layers are left that nobody needs"


def _holds(stage: Stage, infos: Infos) -> Iterator[str]:
    store, whose = stage.world.store, {info.workspace_id for info in infos.values()}
    names = [path.stem for kind in ("layers", "checkpoints") for path in _entries(stage, kind)]
    holders = store.holds.holders()
    for holder in sorted({holder for name in names for holder in holders.get(name, ())}):
        kind, _, of = holder.partition(":")
        if kind != "template" and of not in whose and not stage.settings.pool.size:
            yield f"a hold is left: {kind}"
