"""The inspection of a stage after something went wrong: what the supervisor says, what is there, and what must hold."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import attrs
import trio

from actors.machine.storage import integrity
from actors.model.errors import ActorGone, AgentisoError
from actors.model.info import Shape, WorkspaceInfo
from actors.model.record import WorkspaceRecord
from actors.registry import messages as r
from actors.workspace import file_messages
from tests.stateful.leftovers import leftovers, machines
from tests.stateful.modelled import FAILED, PAUSED, RUNNING, SUSPENDED, Instant, Modelled
from tests.stateful.points import ID
from tests.stateful.simulated import DISK, MARK_BYTES, MEMORY, Qemu, head_of, mark_of
from tests.stateful.stage import DISK_QUOTA_GB, OWNER, Stage

ANSWER_S: Final = 100.0
"""Whoever asks for something simple waits no longer, however the time of the actors passes."""
TRIES: Final = 3

Allowed = Mapping[str, Sequence[Modelled | None]]
"""What each workspace may be like; ``None`` where it may not be there."""


@attrs.define
class Inspection:
    """One look at everything.  What does not hold is gathered in `found`, most telling first."""

    stage: Stage
    allowed: Allowed
    found: list[str] = attrs.field(factory=list)
    infos: dict[str, WorkspaceInfo] = attrs.field(factory=dict)
    matched: dict[str, Modelled | None] = attrs.field(factory=dict)
    """What each workspace is like of that which was allowed."""

    async def look(self) -> list[str]:
        """Return all that does not hold."""
        try:
            with trio.fail_after(ANSWER_S):
                listed = await self._ask(r.ListWorkspaces())
        except trio.TooSlowError:
            return ["the list of workspaces is never answered"]
        except AgentisoError as error:
            return [f"the list of workspaces is refused: {_plain(error)}"]
        self.infos = {info.name: info for info in listed}
        if len(self.infos) != len(listed):
            self.found.append("two workspaces have one name")
        for name in sorted({*self.infos, *self.allowed}):
            await self._look_at(name)
        self.found += [*machines(self.stage, self.infos), *leftovers(self.stage, self.infos)]
        await self._look_at_quota()
        return self.found

    async def _ask(self, message: object) -> list[WorkspaceInfo]:
        for _ in range(TRIES):
            with contextlib.suppress(ActorGone):
                return list(await self.stage.registry.ask(message))  # type: ignore[arg-type]
        return list(await self.stage.registry.ask(message))  # type: ignore[arg-type]

    # -- one workspace

    async def _look_at(self, name: str) -> None:
        candidates = self.allowed.get(name, [None])
        info = self.infos.get(name)
        if info is None:
            self.matched[name] = None
            if None not in candidates:
                self.found.append(f"workspace {name}: it is gone")
            return
        present = [each for each in candidates if each is not None]
        if not present:
            self.found.append(f"workspace {name}: it is there ({info.state}) and must not be")
            return
        differences = []
        for each in present:
            differences.append(await self._differences(info, each))
            if not differences[-1]:
                self.matched[name] = each
                return
        alike = [found for found, each in zip(differences, present, strict=True) if each.state == info.state]
        self.found.append(f"workspace {name}: " + "; or: ".join(", ".join(found) for found in alike or differences))

    async def _differences(self, info: WorkspaceInfo, workspace: Modelled) -> list[str]:
        """Say in what a workspace is not like the model."""
        if info.state != workspace.state:
            why = f" ({ID.sub('*', info.failure)[:160]})" if info.failure else ""
            return [f"it is {info.state} and not {workspace.state}{why}"]
        found = [text for text in _of_tree(info, workspace) if text]
        try:
            record = self.stage.record(info.workspace_id)
            found += await self._of_contents(info, workspace, record)
        except (AgentisoError, OSError) as error:
            found.append(f"it is not whole: {_plain(error)}")
        except trio.TooSlowError:
            found.append("its guest is never answered for")
        return found

    async def _of_contents(self, info: WorkspaceInfo, workspace: Modelled, record: WorkspaceRecord) -> list[str]:
        found: list[str] = []
        if record.state != info.state:
            found.append(f"its record says {record.state}")
        if workspace.state == RUNNING:
            instant = await self._read(workspace.name)
        elif workspace.state == PAUSED:
            qemu = self._machine_of(info)
            instant = Instant(qemu.memory, mark_of(qemu.disk)) if qemu else Instant(None, "")
        elif workspace.state == SUSPENDED:
            instant = self._instant_of(record.suspended)
        else:
            instant = Instant(None, mark_of(self.stage.world.store.layer(record.layer or "")))
        if instant != workspace.instant:
            found.append(f"it holds {instant} and not {workspace.instant}")
        for snapshot in record.snapshots:
            if snapshot.name in workspace.nodes:
                found += self._of_kept(snapshot.name, snapshot.checkpoint, workspace.nodes[snapshot.name].instant)
        for made, step in zip(record.undo, workspace.undo, strict=False):
            found += self._of_kept("the way back", made.checkpoint, step.instant)
        return found

    async def _read(self, name: str) -> Instant:
        with trio.fail_after(ANSWER_S):
            memory, disk = [
                (await self.stage.tell(name, file_messages.ReadFile(path))).content.decode() for path in (MEMORY, DISK)
            ]
        return Instant(memory, disk)

    def _of_kept(self, what: str, checkpoint: str, wanted: Instant) -> list[str]:
        instant = self._instant_of(checkpoint)
        return [] if instant == wanted else [f"{what} holds {instant} and not {wanted}"]

    def _instant_of(self, checkpoint_id: str | None) -> Instant:
        store = self.stage.world.store
        checkpoint = store.load(checkpoint_id or "")
        memory = None
        if checkpoint.has_memory:
            integrity.verify(store, checkpoint)
            memory = head_of(store.checkpoint(checkpoint.id) / "ram")[:MARK_BYTES].strip("\0 ")
        return Instant(memory, mark_of(store.layer(checkpoint.layer)))

    # -- machines

    def _machine_of(self, info: WorkspaceInfo) -> Qemu | None:
        own = [qemu for qemu in self.stage.world.alive if qemu.workspace == info.workspace_id[:8]]
        return own[0] if own else None

    # -- the quota

    async def _look_at_quota(self) -> None:
        """Ask for more than there is: the refusal tells what is counted."""
        wanted = sum(info.owner == OWNER for info in self.infos.values())
        try:
            with trio.fail_after(ANSWER_S):
                await self.stage.registry.ask(
                    r.CreateWorkspace("too-large", shape=Shape(1, 128, DISK_QUOTA_GB + 1), owner=OWNER)
                )
        except AgentisoError as error:
            counted = error.facts.get("current")
            if error.code == "quota_exceeded" and counted != wanted:
                self.found.append(f"{counted} workspaces are counted in a quota and there are {wanted}")
            elif error.code != "quota_exceeded":
                self.found.append(f"a quota cannot be asked for: {_plain(error)}")
        except trio.TooSlowError:
            self.found.append("a create is never answered")


def _of_tree(info: WorkspaceInfo, workspace: Modelled) -> Iterator[str]:
    nodes = {each.name: (each.parent, each.has_memory) for each in info.snapshots}
    wanted = {name: (node.parent, node.instant.memory is not None) for name, node in workspace.nodes.items()}
    if nodes != wanted:
        yield f"its snapshots are {nodes} and not {wanted}"
    heads = [each.name for each in info.snapshots if each.is_head]
    if heads != ([workspace.head] if workspace.head else []):
        yield f"it stands on {heads} and not on {workspace.head}"
    steps, back = [each.has_memory for each in info.undo], [each.instant.memory is not None for each in workspace.undo]
    if steps != back:
        yield f"its ways back are {steps} and not {back}"
    if (info.suspended_by == "idle") is not workspace.idle:
        yield f"it was suspended by {info.suspended_by}"


def fallen(workspace: Modelled) -> Modelled:
    """Return what becomes of a workspace whose machine died."""
    return attrs.evolve(copy.deepcopy(workspace), state=FAILED, memory="", idle=False)


def _plain(error: BaseException) -> str:
    return ID.sub("*", f"{type(error).__name__}: {error}")[:200]
