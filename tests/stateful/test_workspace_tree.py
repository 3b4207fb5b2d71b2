"""Workspaces and their trees against a model: whatever is done to them, and whatever fails meanwhile.

The actors, the registry, the records, the store, the checkpoints and the supervisor are the real ones, over simulated
machines (see `simulated`).  After every step: each workspace is where the model says, its memory and its disk hold
what was written last on that branch, every snapshot and every step back can be had, no file is kept that nobody needs,
none is missing, and no machine runs that belongs to nobody.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from anyio.from_thread import start_blocking_portal
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.machine.storage import integrity, qcow2
from actors.model import record as records
from actors.model.errors import ActorGone, AgentisoError
from actors.model.files import read_json
from actors.model.image import BootImage
from actors.model.info import Lifetime, Shape, WorkspaceInfo
from actors.model.settings import Limits, Settings
from actors.model.states import State
from actors.registry import messages as r
from actors.registry.supervisor import open_supervisor
from actors.runtime import RestartPolicy
from actors.workspace import file_messages
from actors.workspace import messages as w
from actors.workspace.actor import SETTLED_SOON
from tests.stateful import determinism
from tests.stateful.modelled import FAILED, MAX_UNDO, PAUSED, RUNNING, STOPPED, SUSPENDED, Instant, Modelled, Node
from tests.stateful.simulated import BLANK, DISK, MARK_BYTES, MEMORY, World, dies, head_of, mark_of, refuses

MAX_WORKSPACES: Final = 4
IDLE_S: Final = 100.0
RESTART_S: Final = 0.5
"""The pause before an actor's first restart is shorter."""
TRIES: Final = 8
LIMIT_S: Final = 60.0
"""Real time, for a busy host."""
SHARED_MEMORY = Path("/dev/shm")
"""Flushing files to it costs nothing."""
WHICH = st.integers(0, 11)
"""Chooses one of however many there are."""


class TreeMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, Modelled] = {}
        self.number = 0
        self.planned: str | None = None
        self.stack = ExitStack()
        shared = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
        self.state_dir = Path(tempfile.mkdtemp(prefix="ai-tree-", dir=shared))
        self.stack.callback(shutil.rmtree, self.state_dir)
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        determinism.no_threads(patch)
        self.world = World(patch)
        files = self.state_dir / "image"
        files.mkdir()
        for name in ("kernel", "initrd", "layer", "root.raw"):
            (files / name).touch()
        self.image = BootImage(
            "base", "0" * 64, files / "kernel", files / "initrd", files / "layer", files / "root.raw"
        )
        self.settings = Settings(
            state_dir=self.state_dir,
            shape=Shape(vcpus=1, memory_mb=128, disk_gb=1),
            network="none",
            limits=Limits(max_undo=MAX_UNDO, memory_reserve_mb=0, max_disk_layers=4),
        )
        self.clock = MockClock(rate=0)
        self.portal = self.stack.enter_context(start_blocking_portal("trio", backend_options={"clock": self.clock}))
        self.begin()

    # -- the supervisor

    def begin(self) -> None:
        self.over, _ = self.portal.start_task(self.supervise)

    async def supervise(self, *, task_status: trio.TaskStatus[None]) -> None:
        async def load(_name: str) -> BootImage:
            await trio.lowlevel.checkpoint()
            if self.planned == "the registry crashes":
                self.planned = "the registry crashed"
                raise RuntimeError("a bug")
            return self.image

        with trio.CancelScope() as self.scope:
            async with open_supervisor(self.settings, load, keep=True) as self.registry:
                task_status.started()
                await trio.sleep_forever()

    def end(self) -> None:
        self.portal.call(self.scope.cancel)
        self.over.result()

    # -- asking

    def named(self, prefix: str) -> str:
        self.number += 1
        return f"{prefix}-{self.number}"

    def one(self, which: int) -> Modelled:
        return list(self.model.values())[which % len(self.model)]

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call something that ends at once, or when a crashed actor has been restarted."""
        future = self.portal.start_task_soon(function, *arguments)
        self.portal.call(wait_all_tasks_blocked)
        for _ in range(TRIES):
            if future.done():
                break
            self.portal.call(self.clock.jump, RESTART_S)
            self.portal.call(wait_all_tasks_blocked)
        return future.result(LIMIT_S)

    def ask(self, message: Any) -> Any:
        return self.call(self.registry.ask, message)

    async def _tell(self, name: str, message: Any) -> Any:
        found = await self.registry.ask(r.FindWorkspace(name))
        answer = await found.ref.ask(message)
        if isinstance(message, w.WorkspaceChange) and not isinstance(message, SETTLED_SOON):
            # What is reported survives a power loss.
            record = records.directory_of(self.state_dir, found.workspace_id) / records.RECORD
            assert record not in self.world.store.unflushed
        return answer

    def tell(self, workspace: Modelled, message: Any) -> Any:
        return self.call(self._tell, workspace.name, message)

    def info(self, workspace: Modelled) -> WorkspaceInfo:
        info: WorkspaceInfo = self.tell(workspace, w.Describe())
        return info

    def do(self, workspace: Modelled, message: Any, change: Callable[[Modelled], object]) -> None:
        """Have something done that is legal now; it may fail only because of what was planned."""
        undone, after = self.undone(workspace, message), copy.deepcopy(workspace)
        change(after)
        try:
            answer = self.tell(workspace, message)
            if "cannot be undone" in getattr(answer, "note", ""):
                # The machine that was to be left died: that is no reason to stay with it.
                assert self.planned == "dies"
                after.undo = workspace.undo
            self.model[workspace.name] = after
        except ActorGone:
            assert self.planned == "crashes"
            self.wait_for_restart()
            self.model[workspace.name] = self.found_one_of(*undone, after)
        except AgentisoError:
            if self.planned is None or self.world.forget_plans():
                raise
            self.model[workspace.name] = self.found_one_of(*undone)
        finally:
            self.settle_plans()

    @staticmethod
    def undone(workspace: Modelled, message: Any) -> list[Modelled]:
        """Return where a workspace may be once something has failed; that it was woken for guest work is not undone."""
        if not workspace.idle or not isinstance(message, w.GuestWork):
            return [workspace]
        woken = copy.deepcopy(workspace)
        woken.state, woken.idle = RUNNING, False
        return [workspace, woken]

    def refuse(self, workspace: Modelled, message: Any, code: str) -> None:
        with pytest.raises(AgentisoError) as caught:
            self.tell(workspace, message)
        assert caught.value.code == code

    def found_one_of(self, *alternatives: Modelled) -> Modelled:
        """After a crash the work was done or it was not, wholly."""
        info = self.info(alternatives[0])
        for candidate in alternatives:
            candidate = copy.deepcopy(candidate)
            if info.state == FAILED:
                candidate.state = FAILED
            if self.agrees(info, candidate):
                return candidate
        raise AssertionError((info, alternatives))

    def wait_for_restart(self) -> None:
        for workspace in self.model.values():
            self.tell(workspace, w.SetLifetime(Lifetime()))
        # Only crashes in short succession end an actor for good.
        self.portal.call(self.clock.jump, RestartPolicy().window_s + 1)

    def settle_plans(self) -> None:
        """Machines that died meanwhile are noticed."""
        self.world.forget_plans()
        self.planned = None
        self.portal.call(wait_all_tasks_blocked)
        alive = {qemu.directory.parent.parent.name for qemu in self.world.alive}
        for workspace in self.model.values():
            if workspace.state in (RUNNING, PAUSED) and self.info(workspace).workspace_id[:8] not in alive:
                workspace.state = FAILED

    # -- what is done

    @initialize()
    def there_is_a_workspace(self) -> None:
        self.create(None)

    @precondition(lambda self: len(self.model) < MAX_WORKSPACES)
    @rule(lifetime=st.sampled_from([None, Lifetime()]))
    def create(self, lifetime: Lifetime | None) -> None:
        name = self.named("ws")
        try:
            self.ask(r.CreateWorkspace(name, lifetime=lifetime))
            self.model[name] = Modelled(name, BLANK, BLANK)
        except ActorGone:
            assert self.planned == "crashes"
            self.wait_for_restart()
        except AgentisoError:
            if self.planned is None or self.world.forget_plans():
                raise
        self.settle_plans()

    @precondition(lambda self: self.model)
    @rule(which=WHICH, memory=st.booleans())
    def write(self, which: int, *, memory: bool) -> None:
        workspace, text = self.one(which), self.named("mark")
        message = file_messages.WriteFile(MEMORY if memory else DISK, text.encode())
        if workspace.state is not RUNNING and not workspace.idle:
            self.refuse(workspace, message, "illegal_state")
            return

        def change(after: Modelled) -> None:
            after.state, after.idle = RUNNING, False
            setattr(after, "memory" if memory else "disk", text)

        self.do(workspace, message, change)

    @precondition(lambda self: self.model)
    @rule(which=WHICH, with_memory=st.booleans())
    def snapshot(self, which: int, *, with_memory: bool) -> None:
        workspace, name = self.one(which), self.named("point")
        message = w.CreateSnapshot(name, with_memory=with_memory)
        if workspace.state is SUSPENDED and not with_memory:
            self.refuse(workspace, message, "illegal_state")
            return

        def change(after: Modelled) -> None:
            instant = after.instant if with_memory else Instant(None, after.disk)
            after.nodes[name], after.head = Node(after.head, instant), name

        self.do(workspace, message, change)

    @precondition(lambda self: any(w.nodes for w in self.model.values()))
    @rule(which=WHICH, node=WHICH)
    def a_name_is_taken(self, which: int, node: int) -> None:
        workspace, name = self.node(which, node)
        self.refuse(workspace, w.CreateSnapshot(name), "name_taken")

    @precondition(lambda self: any(w.nodes for w in self.model.values()))
    @rule(which=WHICH, node=WHICH, disk_only=st.booleans())
    def restore(self, which: int, node: int, *, disk_only: bool) -> None:
        workspace, name = self.node(which, node)

        def change(after: Modelled) -> None:
            after.restore(name)
            after.memory = BLANK if disk_only else after.memory

        self.do(workspace, w.RestoreSnapshot(name, disk_only=disk_only), change)

    @precondition(lambda self: self.model)
    @rule(which=WHICH)
    def undo(self, which: int) -> None:
        workspace = self.one(which)
        if workspace.undo and workspace.undo[-1].state is FAILED and workspace.state not in (STOPPED, FAILED):
            self.refuse(workspace, w.Undo(), "illegal_state")
        elif workspace.undo:
            self.do(workspace, w.Undo(), Modelled.go_back)
        else:
            self.refuse(workspace, w.Undo(), "not_found")

    @precondition(lambda self: any(w.nodes for w in self.model.values()))
    @rule(which=WHICH, node=WHICH, cascade=st.booleans())
    def delete(self, which: int, node: int, *, cascade: bool) -> None:
        workspace, name = self.node(which, node)
        gone = workspace.delete(name, cascade=cascade)
        assert set(self.tell(workspace, w.DeleteSnapshot(name, cascade=cascade))) == gone

    def node(self, which: int, node: int) -> tuple[Modelled, str]:
        having = [workspace for workspace in self.model.values() if workspace.nodes]
        workspace = having[which % len(having)]
        return workspace, list(workspace.nodes)[node % len(workspace.nodes)]

    @precondition(lambda self: 0 < len(self.model) < MAX_WORKSPACES)
    @rule(which=WHICH, node=st.none() | WHICH)
    def fork(self, which: int, node: int | None) -> None:
        """From what there is now, or from a node of the tree."""
        parent, snapshot = self.one(which), None
        if node is not None and parent.nodes:
            snapshot = list(parent.nodes)[node % len(parent.nodes)]
        instant = parent.nodes[snapshot].instant if snapshot else parent.instant
        names = tuple(self.named("fork") for _ in range(min(2, MAX_WORKSPACES - len(self.model))))
        try:
            report = self.ask(r.ForkWorkspace(parent.name, len(names), snapshot=snapshot, names=names)).report
        except AgentisoError:
            if self.planned is None or self.world.forget_plans():
                raise
            self.wait_for_restart()
        else:
            for child in report.children:
                assert child.error is None or self.planned
                if child.error is None:
                    self.model[child.name] = Modelled(child.name, instant.memory or BLANK, instant.disk)
        self.settle_plans()

    @precondition(lambda self: self.model)
    @rule(which=WHICH)
    def destroy(self, which: int) -> None:
        workspace = self.one(which)
        del self.model[workspace.name]
        self.ask(r.DestroyWorkspace(workspace.name))

    # -- its life

    def change_state(self, which: int, message: Any, legal: set[State], state: State) -> None:
        workspace = self.one(which)
        if workspace.state not in legal:
            self.refuse(workspace, message, "illegal_state")
            return

        def change(after: Modelled) -> None:
            after.state, after.idle = state, False
            if state is STOPPED:
                after.memory = BLANK

        self.do(workspace, message, change)

    @precondition(lambda self: self.model)
    @rule(which=WHICH)
    def pause(self, which: int) -> None:
        self.change_state(which, w.Pause(), {RUNNING}, PAUSED)

    @precondition(lambda self: self.model)
    @rule(which=WHICH)
    def suspend(self, which: int) -> None:
        self.change_state(which, w.Suspend(), {RUNNING, PAUSED}, SUSPENDED)

    @precondition(lambda self: self.model)
    @rule(which=WHICH)
    def resume(self, which: int) -> None:
        self.change_state(which, w.Resume(), {PAUSED, SUSPENDED}, RUNNING)

    @precondition(lambda self: self.model)
    @rule(which=WHICH)
    def stop(self, which: int) -> None:
        self.change_state(which, w.Stop(), {RUNNING, PAUSED, SUSPENDED}, STOPPED)

    @precondition(lambda self: self.model)
    @rule(which=WHICH)
    def start(self, which: int) -> None:
        workspace = self.one(which)
        if workspace.state in (STOPPED, FAILED):
            workspace.memory = BLANK
        self.change_state(which, w.Start(None), {STOPPED, FAILED}, RUNNING)

    @precondition(lambda self: not self.planned and any(w.state is RUNNING for w in self.model.values()))
    @rule(which=WHICH)
    def nobody_needs_it_for_long(self, which: int) -> None:
        running = [workspace for workspace in self.model.values() if workspace.state is RUNNING]
        workspace = running[which % len(running)]
        self.tell(workspace, w.SetLifetime(Lifetime(idle_suspend_s=IDLE_S)))
        self.portal.call(wait_all_tasks_blocked)
        self.portal.call(self.clock.jump, IDLE_S)
        self.portal.call(wait_all_tasks_blocked)
        # Done after the suspend, which is under way.
        self.tell(workspace, w.SetLifetime(Lifetime()))
        workspace.state, workspace.idle = SUSPENDED, True

    # -- what befalls it

    @precondition(lambda self: self.world.alive)
    @rule(which=WHICH)
    def a_machine_is_killed(self, which: int) -> None:
        alive = self.world.alive
        self.portal.call(alive[which % len(alive)].dead.set)
        self.settle_plans()

    @rule(steps=st.integers(0, 12), what=st.sampled_from(["dies", "refuses", "crashes"]))
    def something_will_go_wrong(self, steps: int, what: str) -> None:
        """In one of the next steps of a machine, if what is done next has so many."""

        def crash(_qemu: object) -> None:
            raise RuntimeError("a bug")

        self.world.plan(steps, {"dies": dies, "refuses": refuses, "crashes": crash}[what])
        self.planned = what

    @precondition(lambda self: not self.planned)
    @rule()
    def the_registry_crashes(self) -> None:
        self.planned = "the registry crashes"
        with pytest.raises(ActorGone):
            self.ask(r.CreateWorkspace(self.named("ws")))
        self.wait_for_restart()
        self.settle_plans()

    @precondition(lambda self: not self.planned and any(len(w.undo) == MAX_UNDO for w in self.model.values()))
    @rule(which=WHICH, node=WHICH)
    def a_restore_fails_that_would_have_cost_a_step_back(self, which: int, node: int) -> None:
        having = [workspace for workspace in self.model.values() if len(workspace.undo) == MAX_UNDO and workspace.nodes]
        if having:
            workspace = having[which % len(having)]
            name = list(workspace.nodes)[node % len(workspace.nodes)]
            self.world.plan_start_failure()
            with pytest.raises(AgentisoError):
                self.tell(workspace, w.RestoreSnapshot(name))

    @rule(killed=st.none() | WHICH)
    def the_supervisor_is_replaced(self, killed: int | None) -> None:
        """And perhaps a machine dies while there is none."""
        self.world.forget_plans()
        self.planned = None
        self.portal.call(wait_all_tasks_blocked)
        self.end()
        if killed is not None and (alive := self.world.alive):
            self.portal.call(alive[killed % len(alive)].dead.set)
        self.begin()
        self.settle_plans()

    # -- what holds

    @staticmethod
    def agrees(info: WorkspaceInfo, workspace: Modelled) -> bool:
        nodes = {snapshot.name: (snapshot.parent, snapshot.has_memory) for snapshot in info.snapshots}
        expected = {n: (node.parent, node.instant.memory is not None) for n, node in workspace.nodes.items()}
        heads = [snapshot.name for snapshot in info.snapshots if snapshot.is_head]
        steps = [step.has_memory for step in info.undo]
        return (
            info.state == workspace.state
            and nodes == expected
            and heads == ([workspace.head] if workspace.head else [])
            and steps == [step.instant.memory is not None for step in workspace.undo]
            and (info.suspended_by == "idle") is workspace.idle
        )

    @precondition(lambda self: self.planned is None)
    @invariant()
    def every_workspace_is_where_it_should_be(self) -> None:
        infos = {info.name: info for info in self.ask(r.ListWorkspaces())}
        assert infos.keys() == self.model.keys()
        for name, workspace in self.model.items():
            assert self.agrees(infos[name], workspace), (infos[name], workspace)

    @precondition(lambda self: self.planned is None)
    @invariant()
    def memory_and_disks_hold_what_was_written_last_on_their_branch(self) -> None:
        for workspace in self.model.values():
            record = self.record_of(workspace)
            if workspace.state is RUNNING:
                for path, text in ((MEMORY, workspace.memory), (DISK, workspace.disk)):
                    assert self.tell(workspace, file_messages.ReadFile(path)).content.decode() == text
            elif workspace.state is SUSPENDED:
                assert self.instant_of(record.suspended) == workspace.instant
            else:
                assert record.layer is not None
                assert mark_of(self.world.store.layer(record.layer)) == workspace.disk
            for snapshot in record.snapshots:
                assert self.instant_of(snapshot.checkpoint) == workspace.nodes[snapshot.name].instant
            for made, step in zip(record.undo, workspace.undo, strict=True):
                assert self.instant_of(made.checkpoint) == step.instant
                assert made.state == step.state

    def record_of(self, workspace: Modelled) -> records.WorkspaceRecord:
        return records.load(records.directory_of(self.state_dir, self.info(workspace).workspace_id))

    def instant_of(self, checkpoint_id: str | None) -> Instant:
        assert checkpoint_id
        store = self.world.store
        checkpoint = store.load(checkpoint_id)
        memory = None
        if checkpoint.has_memory:
            integrity.verify(store, checkpoint)
            memory = head_of(store.checkpoint(checkpoint_id) / "ram")[:MARK_BYTES].strip("\0 ")
        return Instant(memory, mark_of(store.layer(checkpoint.layer)))

    @precondition(lambda self: self.planned is None)
    @invariant()
    def files_are_kept_that_somebody_needs_and_no_others(self) -> None:
        self.portal.call(self.world.store.collect)
        wanted: set[str] = set()
        for workspace in self.model.values():
            wanted |= self.record_of(workspace).needs
        for template in (self.state_dir / "templates").glob("*.json"):
            wanted.add(read_json(template)["checkpoint"])
        store = self.world.store
        kept = {path.name for path in (self.state_dir / "checkpoints").glob("[!.]*")}
        needed_layers = {name for name in wanted if not (store.checkpoint(name)).exists()}
        needed_layers |= {store.load(name).layer for name in wanted - needed_layers}
        for name in list(needed_layers):
            needed_layers |= {path.stem for path in qcow2.backing_chain(store.layer(name))}
        assert kept <= wanted
        assert {path.stem for path in (self.state_dir / "layers").glob("[!.]*")} == needed_layers

    @precondition(lambda self: self.planned is None)
    @invariant()
    def every_machine_belongs_to_a_workspace(self) -> None:
        having = [workspace for workspace in self.model.values() if workspace.state in (RUNNING, PAUSED)]
        directories = {Path(record.machine.directory) for w in having if (record := self.record_of(w)).machine}
        assert len(directories) == len(having)
        assert {qemu.directory for qemu in self.world.alive} == directories
        assert set(self.state_dir.glob("workspaces/*/machines/*")) == directories
        names = {self.info(workspace).workspace_id[:8] for workspace in self.model.values()}
        assert {path.name for path in (self.state_dir / "workspaces").glob("[!.]*")} == names
        for workspace in having:
            (qemu,) = [q for q in self.world.alive if q.directory.is_relative_to(self.directory_of(workspace))]
            assert qemu.running is (workspace.state is RUNNING)
            assert workspace.state is PAUSED or not qemu.held

    def directory_of(self, workspace: Modelled) -> Path:
        return records.directory_of(self.state_dir, self.info(workspace).workspace_id)

    def teardown(self) -> None:
        with self.stack:
            self.end()


TestTree = TreeMachine.TestCase
TestTree.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("what", ["dies", "refuses", "crashes"])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_what_befalls_a_workspace_while_it_is_woken_leaves_it_asleep_or_awake_and_whole(steps: int, what: str) -> None:
    tree = TreeMachine()
    try:
        tree.there_is_a_workspace()
        tree.write(0, memory=True)
        tree.nobody_needs_it_for_long(0)
        tree.something_will_go_wrong(steps=steps, what=what)
        tree.write(0, memory=False)
        tree.every_workspace_is_where_it_should_be()
        tree.memory_and_disks_hold_what_was_written_last_on_their_branch()
        tree.files_are_kept_that_somebody_needs_and_no_others()
        tree.every_machine_belongs_to_a_workspace()
    finally:
        tree.teardown()
