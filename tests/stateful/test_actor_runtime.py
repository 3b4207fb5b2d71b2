"""The actor runtime against a model: whatever is asked, cancelled, crashed and waited for, in virtual time.

The promise under test is that of `ActorRef.ask`: work whose asker got a result was done; of all other work nothing is
left, save of that which its asker was told of, or could see, not to be over.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import attrs
import trio
from anyio.from_thread import start_blocking_portal
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.model.errors import ActorGone, DeadlineExceeded, InvalidArgument, MailboxFull, NeverBegun, OutcomeUnknown
from actors.runtime import SETTLE_S, Actor, ActorRef, Message, RestartPolicy, Supervisor

MAX_RESTARTS = 2
LONG_S = 1000.0


@attrs.frozen
class Apply(Message[int]):
    number: int
    pause_s: float


@attrs.frozen
class ApplyBeside(Apply):
    CONCURRENT = True


@attrs.frozen
class ApplyStubbornly(Apply):
    """Whatever happens."""


@attrs.frozen
class Refuse(Message[None]):
    """Refuse within a nursery, beside another task."""

    CONCURRENT = True


@attrs.frozen
class Crash(Message[None]):
    pass


class Worker(Actor):
    """Applies numbers to a store that outlives it, each after a pause."""

    def __init__(self, applied: set[int], begun: set[int]) -> None:
        super().__init__("worker")
        self._applied = applied
        self._begun = begun

    async def handle(self, message: Message[Any]) -> object:
        match message:
            case Apply():
                self._begun.add(message.number)
                with trio.CancelScope(shield=isinstance(message, ApplyStubbornly)):
                    await trio.sleep(message.pause_s)
                self._applied.add(message.number)
                return message.number
            case Refuse():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep_forever)
                    raise InvalidArgument("as expected")
            case _:
                raise RuntimeError("a bug")


@attrs.define(eq=False)
class Asker:
    number: int
    stubborn: bool = False
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    result: int | None = None
    failure: Exception | None = None
    over: bool = False


class RuntimeMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = MockClock(rate=0)
        self.applied: set[int] = set()
        self.begun: set[int] = set()
        self.askers: list[Asker] = []
        self.crashes = 0
        self.given_up = False
        self.nursery: trio.Nursery
        self.ref: ActorRef[object]
        self.stack = ExitStack()
        self.portal = self.stack.enter_context(start_blocking_portal("trio", backend_options={"clock": self.clock}))
        self.world_over, _ = self.portal.start_task(self.world)

    async def world(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as self.nursery:
            supervisor = Supervisor(self.nursery)
            self.ref = await supervisor.start(
                "worker",
                lambda: Worker(self.applied, self.begun),
                policy=RestartPolicy(max_restarts=MAX_RESTARTS, window_s=LONG_S * 100),
                on_giveup=lambda _name, _failure: self.give_up(),
            )
            task_status.started()
            await trio.sleep_forever()

    def give_up(self) -> None:
        self.given_up = True

    async def ask(self, asker: Asker, message: Message[Any], deadline_s: float) -> None:
        with asker.scope:
            try:
                asker.result = await self.ref.ask(message, deadline_s=deadline_s)
            except (ActorGone, DeadlineExceeded, InvalidArgument, MailboxFull) as error:
                asker.failure = error
        asker.over = True

    async def begin(self, message: Message[Any], number: int, deadline_s: float) -> None:
        asker = Asker(number, isinstance(message, ApplyStubbornly))
        self.askers.append(asker)
        self.nursery.start_soon(self.ask, asker, message, deadline_s)
        await wait_all_tasks_blocked()

    async def pass_time(self, seconds: float) -> None:
        self.clock.jump(seconds)
        await wait_all_tasks_blocked()

    @rule(pause_s=st.floats(0, 20), deadline_s=st.floats(0.1, 30), beside=st.booleans())
    def somebody_asks(self, pause_s: float, deadline_s: float, *, beside: bool) -> None:
        number = len(self.askers)
        kind = ApplyBeside if beside else Apply
        self.portal.call(self.begin, kind(number, pause_s), number, deadline_s)

    @rule(pause_s=st.floats(0, 3 * SETTLE_S), deadline_s=st.floats(0.1, 30))
    def somebody_asks_for_what_cannot_be_cancelled(self, pause_s: float, deadline_s: float) -> None:
        number = len(self.askers)
        self.portal.call(self.begin, ApplyStubbornly(number, pause_s), number, deadline_s)

    @rule()
    def something_is_refused_within_a_nursery(self) -> None:
        self.portal.call(self.begin, Refuse(), -1, LONG_S)

    @rule()
    def the_actor_crashes(self) -> None:
        self.crashes += 1
        self.portal.call(self.begin, Crash(), -1, LONG_S)

    @rule(which=st.integers(0, 30))
    def somebody_loses_patience(self, which: int) -> None:
        if self.askers:
            asker = self.askers[which % len(self.askers)]
            self.portal.call(asker.scope.cancel)
            self.portal.call(wait_all_tasks_blocked)

    @rule(seconds=st.floats(0, 40))
    def time_passes(self, seconds: float) -> None:
        self.portal.call(self.pass_time, seconds)

    @invariant()
    def what_was_done_is_what_was_answered(self) -> None:
        answered = {asker.number for asker in self.askers if asker.result is not None}
        assert answered <= self.applied
        # Who was cancelled learned nothing, who still waits has not yet.
        unknown = {
            asker.number
            for asker in self.askers
            if asker.stubborn and (asker.failure is None or isinstance(asker.failure, OutcomeUnknown))
        }
        assert self.applied <= answered | unknown

    @invariant()
    def who_is_told_that_nothing_was_done_is_told_the_truth(self) -> None:
        for asker in self.askers:
            if isinstance(asker.failure, NeverBegun):
                assert asker.number not in self.begun
            elif isinstance(asker.failure, DeadlineExceeded):
                assert asker.number in self.begun
            assert not isinstance(asker.failure, OutcomeUnknown) or asker.stubborn

    @invariant()
    def an_actor_is_given_up_only_after_its_restarts(self) -> None:
        assert self.ref.alive is not self.given_up
        if self.given_up:
            assert self.crashes > MAX_RESTARTS

    def teardown(self) -> None:
        with self.stack:
            try:
                for _ in range(len(self.askers) + MAX_RESTARTS + 2):
                    self.portal.call(self.pass_time, LONG_S)
                self.what_was_done_is_what_was_answered()
                assert all(asker.over for asker in self.askers)
            finally:
                self.portal.call(self.nursery.cancel_scope.cancel)
                self.world_over.result()


TestRuntime = RuntimeMachine.TestCase
TestRuntime.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
