"""A trial: one operation, one fault at one point of it, the recovery, and everything looked at."""

from __future__ import annotations

import copy
import random
import shutil
from pathlib import Path
from typing import Final

import attrs
import pytest
import trio

from actors.machine.storage import integrity
from actors.model.errors import AgentisoError
from actors.registry import messages as r
from tests.stateful import determinism, lives
from tests.stateful.faults import Fault, Happening, go_on_failing
from tests.stateful.file_work import Work, watched
from tests.stateful.inspection import Allowed, Inspection, fallen
from tests.stateful.modelled import PAUSED, RUNNING, Modelled
from tests.stateful.operations import Operation
from tests.stateful.points import FILE, ID, Point, Steps, Watch
from tests.stateful.stable_disk import StableDisk, forget_change_times
from tests.stateful.stage import Model, Stage

ASK_S: Final = 500.0
"""More than the deadline of anything that is asked, and what it may take to be rolled back."""
LINGER_S: Final = 3.0
"""How long after its answer an operation is still watched: what was left for later is done by then."""
SOON_S: Final = 1.0
"""After so long what is reported of a start is on stable storage too."""
AT_ONCE_S: Final = 15.0
RECOVER_S: Final = 300.0
"""Crashed actors are back by then, what failed for a moment was tried again, and silence is over."""
REAL_S: Final = 60.0
REPORTED, REFUSED, UNKNOWN = "reported", "refused", "unknown"


@attrs.frozen
class Trial:
    """What is tried; without a fault the points are counted."""

    operation: Operation
    fault: Fault | None = None
    point: Point | None = None
    seed: int = 1


@attrs.define
class Outcome:
    """What came of it."""

    trial: Trial
    points: list[Point] = attrs.field(factory=list)
    came: bool = False
    answer: str = UNKNOWN
    said: str = ""
    """The refusal."""
    failed: list[str] = attrs.field(factory=list)
    """The children that were reported not to be."""
    cancelled: bool = False
    violations: list[str] = attrs.field(factory=list)


def conduct(trial: Trial, root: Path) -> Outcome:
    """Make a trial in a directory, which is removed before and after."""
    shutil.rmtree(root, ignore_errors=True)
    watch = Watch()
    steps = Steps(watch)
    with pytest.MonkeyPatch.context() as patch:
        course = _Course(trial, Stage(root, patch), watch)
        if trial.fault is not None and trial.fault.loses_power:
            course.keep_what_is_flushed(patch)
        try:
            with watched(root, course.at_file):
                determinism.run(trial.seed, lambda: course.run(steps), steps)
        finally:
            shutil.rmtree(root, ignore_errors=True)
            root.with_name(f"{root.name}.boot").unlink(missing_ok=True)
    if steps.whole.cancelled_caught:
        course.outcome.violations.append("it goes round and round")
    return course.outcome


class Hopeless(Exception):
    """There is no way back."""


class _Course:
    """The course of one trial."""

    def __init__(self, trial: Trial, stage: Stage, watch: Watch) -> None:
        self._trial = trial
        self._stage = stage
        self._watch = watch
        self._happening = Happening(stage, trio.CancelScope())
        self.outcome = Outcome(trial)
        self._disk: StableDisk | None = None
        self._answered_at = self._happened_at = 0.0

    def keep_what_is_flushed(self, patch: pytest.MonkeyPatch) -> None:
        """Know what a loss of power would leave."""
        self._disk = StableDisk(self._stage.state_dir)
        self._stage.world.flushed = self._disk.flush
        # Beside what is watched: reading it is no work of ours.
        self._boot = self._stage.root.with_name(f"{self._stage.root.name}.boot")
        self._boot.write_text("before")
        patch.setattr(integrity, "BOOT_ID", self._boot)
        forget_change_times(patch)

    # -- the points

    def at_file(self, work: Work) -> None:
        """Count work on a file, and have it fail where that is planned, or whoever does it was killed."""
        lives.check()
        if self._disk is not None:
            self._disk.note(work)
        if lives.BESIDE.get():
            return
        go_on_failing(self._happening, work)
        self._work = work
        self._watch.reach(FILE, f"{work.kind} {work.path.relative_to(self._stage.root)}")

    def _at(self, point: Point) -> None:
        trial, wanted = self._trial, self._trial.point
        if trial.fault is None or wanted is None or (point.kind, point.number) != (wanted.kind, wanted.number):
            return
        assert point == wanted, f"not the same in every run: {point} and {wanted}"
        self._happened_at = trio.current_time()
        trial.fault.do(self._happening, self._work if point.kind == FILE else None)

    # -- the course

    async def run(self, steps: Steps) -> None:
        """Set the stage, have the operation and the fault come to pass, let everything recover, look."""
        stage, operation = self._stage, self._trial.operation
        with steps.whole:
            async with trio.open_nursery() as stage.nursery:
                await stage.begin()
                await stage.set()
                await operation.prepare(stage)
                before = copy.deepcopy(stage.model)
                after = copy.deepcopy(before)
                operation.change(after)
                await self._watched_ask()
                self.outcome.points, self.outcome.came = self._watch.seen, self._happening.came
                if self._trial.fault is None or self._happening.came:
                    try:
                        await self._recover_and_look(before, after)
                    except Hopeless as error:
                        self.outcome.violations.append(str(error))
                stage.nursery.cancel_scope.cancel(reason="the trial is over")

    async def _watched_ask(self) -> None:
        self._watch.at, self._watch.on, self._stage.world.sweeps = self._at, True, True
        began = trio.current_time()
        await self._ask(self._happening.asking)
        self._look_at_the_way_back(trio.current_time() - began)
        self._happening.answered, self._answered_at = True, trio.current_time()
        if not self._happening.killed:
            await trio.sleep(LINGER_S)
        self._watch.on = False
        if self._trial.operation.soon and self._disk and self._happened_at < self._answered_at + SOON_S:
            self.outcome.answer = UNKNOWN

    def _look_at_the_way_back(self, took_s: float) -> None:
        """A way back needs nothing of the machine that is left, and waits for none of its answers."""
        fault = self._trial.fault
        if self._trial.operation.way_back and fault is not None and fault.hushes_old and self._happening.came:
            if self.outcome.answer != REPORTED:
                self.outcome.violations.append(f"a way back needs what is mute: {_plain(self.outcome.said)}")
            elif took_s > AT_ONCE_S:
                self.outcome.violations.append(f"a way back waits {took_s:.0f} s for what is mute")

    async def _ask(self, scope: trio.CancelScope) -> None:
        outcome = self.outcome
        outcome.answer, outcome.said = UNKNOWN, ""
        try:
            with trio.fail_after(ASK_S), scope:
                answer = await self._trial.operation.ask(self._stage)
                outcome.answer = REPORTED
                children = answer.report.children if isinstance(answer, r.Forked) else ()
                outcome.failed = [child.name for child in children if child.error]
            outcome.cancelled = scope.cancelled_caught and not self._happening.killed
        except trio.TooSlowError:
            outcome.violations.append("the ask is never answered")
        except AgentisoError as error:
            outcome.said = str(error)
            unknown = error.code == "gone" or self._trial.operation.by_itself
            # What goes on by itself is done by the time that it is looked at.
            outcome.answer = UNKNOWN if unknown else REPORTED if error.code == "unfinished" else REFUSED
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | trio.Cancelled | AssertionError):
                raise
            outcome.said = f"{type(error).__name__}: {error}"
            if not self._happening.killed and not self._trial.operation.starts:
                outcome.violations.append(f"the ask ends in {type(error).__name__}")

    async def _recover_and_look(self, before: Model, after: Model) -> None:
        stage, outcome = self._stage, self.outcome
        if self._happening.killed or (self._trial.operation.starts and outcome.answer != REPORTED):
            await self._begin_again()
        await self._recover()
        allowed = self._allowed(before, after)
        look = Inspection(stage, allowed)
        await self._found(look, before, after)
        if outcome.violations:
            return
        if self._may_ask_again(look, before):
            await self._ask_again(after)
            allowed = _only(before, after)
        await self._begin_again()
        await trio.sleep(RECOVER_S)
        again = await Inspection(stage, allowed).look()
        outcome.violations += [f"after another start: {text}" for text in again]

    async def _begin_again(self) -> None:
        if self._happening.lost and self._disk is not None:
            await self._stage.end()
            self._stage.world.lose_power()
            self._boot.write_text("after")
            self._disk.lose(self._happening.lost, random.Random(self._trial.seed))
            self._happening.lost, self._stage.lost_power = None, True
        try:
            await self._stage.begin_again()
        except Exception as error:
            raise Hopeless(f"no supervisor starts any more: {_plain(repr(error))}") from error

    async def _recover(self) -> None:
        """Let time pass, in which silence ends; a supervisor that ended is replaced."""
        await trio.sleep(RECOVER_S / 2)
        self._happening.relieve()
        await trio.sleep(RECOVER_S / 2)
        if self._stage.fatal is not None:
            self.outcome.violations.append(f"the supervisor ended: {type(self._stage.fatal).__name__}")
            self._stage.fatal = None
            await self._begin_again()

    async def _found(self, look: Inspection, before: Model, after: Model) -> None:
        outcome = self.outcome
        found = await look.look()
        if found and outcome.answer == REFUSED and not await Inspection(self._stage, _only(before, after)).look():
            found = [f"it is refused and yet done: {_plain(outcome.said)}"]
        makes = [name for name in self._trial.operation.makes if name in look.infos]
        if outcome.cancelled and 0 < len(makes) < len(self._trial.operation.makes):
            found.append("half of it is there although nobody waits for it any more")
        outcome.violations += found

    def _may_ask_again(self, look: Inspection, before: Model) -> bool:
        nothing_came = all(look.matched.get(name) == workspace for name, workspace in before.items())
        nothing_came = nothing_came and not (look.infos.keys() - before.keys())
        may = self._trial.operation.again and not self._happening.fallen
        return may and self.outcome.answer != REPORTED and nothing_came

    async def _ask_again(self, after: Model) -> None:
        """What nothing came of can be had now that nothing is wrong any more."""
        outcome, said, answer = self.outcome, self.outcome.said, self.outcome.answer
        await self._ask(trio.CancelScope())
        if outcome.answer != REPORTED:
            outcome.violations.append(f"asked for again it fails: {_plain(outcome.said)}")
        outcome.said, outcome.answer = said, answer

    def _allowed(self, before: Model, after: Model) -> Allowed:
        """Return what each workspace may be like now."""
        names = sorted({*before, *after})
        models = {REPORTED: [after], REFUSED: [before], UNKNOWN: [before, after]}[self.outcome.answer]
        allowed: dict[str, list[Modelled | None]] = {name: [model.get(name) for model in models] for name in names}
        for name in self.outcome.failed:
            allowed[name] = [None]
        if self._happening.fallen or self._happening.silent:
            # Where it was cannot be kept then, which is said; that is no reason to stay there.
            for name, candidates in allowed.items():
                candidates += [_stepless(each, before[name]) for each in candidates if each and name in before]
        if self._disk is not None:
            return {name: [each and unpowered(each) for each in candidates] for name, candidates in allowed.items()}
        if self._happening.fallen:
            self._allow_death(allowed, before)
        return allowed

    def _allow_death(self, allowed: dict[str, list[Modelled | None]], before: Model) -> None:
        """Whose machine died may have failed after what was done, or before it."""
        owners = {qemu.workspace for qemu in self._happening.fallen}
        known = {self._stage.ids[name]: name for name in before if name in self._stage.ids}
        names = {known[owner] for owner in owners & known.keys()} or set(self._trial.operation.makes)
        for name in names:
            allowed[name] += [fallen(each) for each in allowed[name] if each and each.state in (RUNNING, PAUSED)]
            if name in before:
                first = {**copy.deepcopy(before), name: fallen(before[name])}
                self._trial.operation.change(first)
                allowed[name].append(first.get(name))


def _stepless(workspace: Modelled, before: Modelled) -> Modelled:
    """Return a workspace without the way back that it got meanwhile."""
    got = len(workspace.undo) > len(before.undo)
    return attrs.evolve(copy.deepcopy(workspace), undo=workspace.undo[:-1]) if got else workspace


def unpowered(workspace: Modelled) -> Modelled:
    """Return what a loss of power makes of a workspace."""
    return fallen(workspace) if workspace.state in (RUNNING, PAUSED) else workspace


def _only(before: Model, after: Model) -> Allowed:
    return {name: [after.get(name)] for name in (*before, *after)}


def _plain(text: str) -> str:
    return ID.sub("*", text)[:160]
