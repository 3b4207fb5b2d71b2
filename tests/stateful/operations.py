"""What is done to workspaces while something goes wrong: how it is prepared, asked for, and what has to come of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from actors.model.errors import IllegalState, NotFound
from actors.model.info import Lifetime, Shape
from actors.registry import messages as r
from actors.registry.actor import RegistryActor
from actors.workspace import messages as w
from tests.stateful.modelled import PAUSED, RUNNING, STOPPED, SUSPENDED, Modelled
from tests.stateful.simulated import BLANK
from tests.stateful.stage import OWNER, Model, Stage, fork_of, snapshotted

BUNDLE: Final = "exported.bundle"
TTL_S: Final = 30.0
LOOK_S: Final = 1.0
BY_ITSELF_S: Final = 300.0

Ask = Callable[[Stage], Awaitable[Any]]


async def _nothing(_stage: Stage) -> None:
    """Prepare nothing."""


def _same(_model: Model) -> None:
    """Change nothing."""


@attrs.frozen
class Operation:
    """One kind of thing that is done."""

    name: str
    ask: Ask
    change: Callable[[Model], object] = _same
    """What it changes."""
    prepare: Ask = _nothing
    makes: tuple[str, ...] = ()
    """Workspaces of which each may be there or not where the supervisor or the registry ended meanwhile."""
    starts: bool = False
    """Whether there is no supervisor before: a fault may keep it from starting."""
    by_itself: bool = False
    """Whether nobody asks for it, so that it may come to pass later than it is looked for."""
    soon: bool = False
    """Whether a power loss within a moment of its report may undo it."""
    way_back: bool = False
    """Whether it is a way back from a machine that is lost, and so needs nothing of that."""
    again: bool = True
    """Whether it can be asked for once more where nothing came of it."""


def _told(name: str, message: Any) -> Ask:
    async def ask(stage: Stage) -> Any:
        return await stage.tell(name, message)

    return ask


def _asked(message: Any) -> Ask:
    async def ask(stage: Stage) -> Any:
        return await stage.registry.ask(message)

    return ask


def _becomes(state: Any) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        workspace = model["a"]
        if state is STOPPED or workspace.state is STOPPED:
            workspace.memory = BLANK
        workspace.state = state

    return change


def _in(message: Any, state: Any) -> Ask:
    """Have workspace a be in a state first."""

    async def prepare(stage: Stage) -> None:
        await stage.tell("a", message)
        _becomes(state)(stage.model)

    return prepare


# -- export, import, templates, the pool


async def _export(stage: Stage) -> Any:
    return await stage.registry.ask(r.ExportWorkspace("a", stage.root / BUNDLE))


async def _import(stage: Stage) -> Any:
    return await stage.registry.ask(r.ImportWorkspace(stage.root / BUNDLE, "c", owner=OWNER))


async def _exported(stage: Stage) -> None:
    await _export(stage)


def _imported(model: Model) -> None:
    model["c"] = fork_of(model["a"], "c")


async def _pooled(stage: Stage) -> None:
    """Go on with a supervisor that has filled its pool."""
    await stage.end()
    stage.with_pool()
    await stage.begin()
    while not (await stage.registry.ask(r.DescribePool())).ready:
        await trio.sleep(LOOK_S)


# -- the supervisor, the registry, the end of a workspace's time


async def _ended(stage: Stage) -> None:
    await stage.end()


async def _killed(stage: Stage) -> None:
    stage.life.kill()
    await stage.end()


async def _begin(stage: Stage) -> Any:
    await stage.begin()
    return await stage.registry.ask(r.ListWorkspaces())


async def _paused_and_ended(stage: Stage) -> None:
    await _in(w.Pause(), PAUSED)(stage)
    await stage.end()


async def _crash_registry(stage: Stage) -> Any:
    crash(stage, RegistryActor)
    await trio.sleep(LOOK_S)
    return await stage.registry.ask(r.ListWorkspaces())


def crash(stage: Stage, kind: type, choose: int = 0) -> bool:
    """Have a bug end the oldest (0) or the youngest (-1) actor of a kind, if that is another; tell whether it does."""
    found = [actor for actor in stage.actors if isinstance(actor, kind) and _runs(actor)]
    if not found or (choose and len(found) == 1):
        return False
    found[choose].nursery.start_soon(_bug)
    return True


def _runs(actor: Any) -> bool:
    nursery = getattr(actor, "nursery", None)
    return nursery is not None and not nursery._closed and not nursery.cancel_scope.cancel_called


async def _bug() -> None:
    raise RuntimeError("a bug")


@contextmanager
def _limit() -> Iterator[None]:
    """Give up waiting for what may come to pass later."""
    with trio.move_on_after(BY_ITSELF_S) as limit:
        yield
    if limit.cancelled_caught:
        raise NotFound("It has not come to pass yet.")


async def _expire(stage: Stage) -> Any:
    """Wait for the end of a workspace's time, and of the workspace."""
    with _limit():
        while "c" in {info.name for info in await stage.registry.ask(r.ListWorkspaces())}:
            await trio.sleep(LOOK_S)


async def _short_lived(stage: Stage) -> None:
    await stage.create("c", Lifetime(ttl_s=TTL_S))
    await trio.sleep(TTL_S - LOOK_S)


async def _idle(stage: Stage) -> None:
    await stage.tell("a", w.SetLifetime(Lifetime(idle_suspend_s=TTL_S)))
    await trio.sleep(TTL_S - LOOK_S)


async def _wait_idle(stage: Stage) -> Any:
    with _limit():
        while (info := await stage.info("a")).state == RUNNING:
            await trio.sleep(LOOK_S)
    if info.state != SUSPENDED:
        raise IllegalState(f"It is {info.state}.")


def _idles(model: Model) -> None:
    model["a"].state, model["a"].idle = SUSPENDED, True


def _created(model: Model) -> None:
    model["c"] = Modelled("c", BLANK, BLANK)


def _forked(snapshot: str | None) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        for name in FORKED:
            model[name] = fork_of(model["a"], name, snapshot)

    return change


FORKED: Final = ("c", "d")
OTHER: Final = Shape(vcpus=1, memory_mb=256, disk_gb=1)
PAUSE, STOP, SUSPEND = _in(w.Pause(), PAUSED), _in(w.Stop(), STOPPED), _in(w.Suspend(), SUSPENDED)
_fork = _asked(r.ForkWorkspace("a", 2, names=FORKED, owner=OWNER))
_fork_snapshot = _asked(r.ForkWorkspace("a", 2, snapshot="s1", names=FORKED, owner=OWNER))


async def _undone(stage: Stage) -> None:
    await stage.tell("a", w.RestoreSnapshot("s2"))
    stage.model["a"].restore("s2")


OPERATIONS: Final = (
    Operation("create", _asked(r.CreateWorkspace("c", owner=OWNER)), _created, makes=("c",), soon=True),
    Operation(
        "create, with a template made first",
        _asked(r.CreateWorkspace("c", shape=OTHER, owner=OWNER)), _created, makes=("c",), soon=True,
    ),
    Operation("fork, live, of 2", _fork, _forked(None), makes=FORKED, soon=True),
    Operation("fork, suspended, of 2", _fork, _forked(None), SUSPEND, makes=FORKED, soon=True),
    Operation("fork, stopped, of 2", _fork, _forked(None), STOP, makes=FORKED, soon=True),
    Operation("fork from a snapshot", _fork_snapshot, _forked("s1"), makes=FORKED, soon=True, way_back=True),
    Operation("snapshot", _told("a", w.CreateSnapshot("s3")), lambda model: snapshotted(model["a"], "s3")),
    Operation(
        "snapshot, disk only",
        _told("a", w.CreateSnapshot("s3", with_memory=False)),
        lambda model: snapshotted(model["a"], "s3", with_memory=False),
    ),
    Operation("snapshot, paused", _told("a", w.CreateSnapshot("s3")), lambda m: snapshotted(m["a"], "s3"), PAUSE),
    Operation("restore", _told("a", w.RestoreSnapshot("s1")), lambda model: model["a"].restore("s1"), way_back=True),
    Operation("restore, suspended", _told("a", w.RestoreSnapshot("s1")), lambda m: m["a"].restore("s1"), SUSPEND),
    Operation("undo", _told("a", w.Undo()), lambda model: model["a"].go_back(), way_back=True),
    Operation("undo of a second restore", _told("a", w.Undo()), lambda m: m["a"].go_back(), _undone, way_back=True),
    Operation("suspend", _told("a", w.Suspend()), _becomes(SUSPENDED)),
    Operation("suspend, paused", _told("a", w.Suspend()), _becomes(SUSPENDED), PAUSE),
    Operation("suspend for idleness", _wait_idle, _idles, _idle, by_itself=True, again=False),
    Operation("resume, suspended", _told("a", w.Resume()), _becomes(RUNNING), SUSPEND),
    Operation("resume, paused", _told("a", w.Resume()), _becomes(RUNNING), PAUSE),
    Operation("pause", _told("a", w.Pause()), _becomes(PAUSED)),
    Operation("stop", _told("a", w.Stop()), _becomes(STOPPED), way_back=True),
    Operation("stop, suspended", _told("a", w.Stop()), _becomes(STOPPED), SUSPEND),
    Operation("start", _told("a", w.Start(None)), _becomes(RUNNING), STOP, soon=True),
    Operation("destroy", _asked(r.DestroyWorkspace("a")), lambda model: model.pop("a"), way_back=True),
    Operation("destroy, suspended", _asked(r.DestroyWorkspace("a")), lambda model: model.pop("a"), SUSPEND),
    Operation("delete snapshot", _told("a", w.DeleteSnapshot("s1")), lambda m: m["a"].delete("s1", cascade=False)),
    Operation("export", _export, again=False),
    Operation("import", _import, _imported, _exported, makes=("c",), soon=True),
    Operation("warm template", _asked(r.WarmTemplate(shape=OTHER))),
    Operation("claim from the pool", _asked(r.CreateWorkspace("c", owner=OWNER)), _created, _pooled, ("c",), soon=True),
    Operation("adoption", _begin, prepare=_ended, starts=True, again=False),
    Operation("adoption after a kill", _begin, prepare=_killed, starts=True, again=False),
    Operation("adoption, paused", _begin, prepare=_paused_and_ended, starts=True, again=False),
    Operation("expiry", _expire, lambda model: model.pop("c"), _short_lived, by_itself=True, again=False),
    Operation("registry restart", _crash_registry, again=False),
)  # fmt: skip


def bundle(stage: Stage) -> Path:
    """Return where an export goes."""
    return stage.root / BUNDLE
