"""The actor runtime, in virtual time."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors.model.errors import (
    ActorGone,
    AgentisoError,
    DeadlineExceeded,
    HostFailed,
    InvalidArgument,
    MailboxFull,
    NeverBegun,
    NotFound,
    OutcomeUnknown,
    Unfinished,
)
from actors.runtime import (
    MAILBOX_SIZE,
    SETTLE_S,
    Actor,
    ActorRef,
    Mailbox,
    Message,
    RestartPolicy,
    Supervisor,
    WhenCancelled,
    ordinary_failure,
)


@attrs.frozen
class Add(Message[int]):
    amount: int
    pause_s: float = 0.0


@attrs.frozen
class Fail(Message[None]):
    expected: bool


@attrs.frozen
class Slow(Message[int]):
    seconds: float
    CONCURRENT = True


class Counter(Actor):
    lives = 0

    def __init__(self) -> None:
        super().__init__("counter")
        type(self).lives += 1
        self.total = 0
        self.reverted: list[int] = []

    async def handle(self, message: Message[object]) -> object:
        match message:
            case Add():
                try:
                    await trio.sleep(message.pause_s)
                except trio.Cancelled:
                    with trio.CancelScope(shield=True):
                        await trio.sleep(1)
                        self.reverted.append(message.amount)
                    raise
                self.total += message.amount
                return self.total
            case Slow():
                await trio.sleep(message.seconds)
                return 1
            case Fail(expected=True):
                raise InvalidArgument("as expected")
            case _:
                raise RuntimeError("a bug")


@pytest.fixture
def counter_type() -> type[Counter]:
    class Fresh(Counter):
        pass

    return Fresh


async def test_messages_are_answered_in_turn(autojump_clock: object, counter_type: type[Counter]) -> None:
    async with trio.open_nursery() as nursery:
        ref = await Supervisor(nursery).start("c", counter_type)
        assert [await ref.ask(Add(2)), await ref.ask(Add(3))] == [2, 5]
        nursery.cancel_scope.cancel()


async def test_a_concurrent_message_waits_for_none_that_is_handled_in_turn(
    autojump_clock: object, counter_type: type[Counter]
) -> None:
    async with trio.open_nursery() as nursery:
        ref = await Supervisor(nursery).start("c", counter_type)
        order: list[str] = []

        async def ask(name: str, message: Message[int]) -> None:
            await ref.ask(message)
            order.append(name)

        async with trio.open_nursery() as askers:
            for name, message in (("first", Add(1, 10)), ("second", Add(1, 1)), ("beside", Slow(2))):
                askers.start_soon(ask, name, message)
                await wait_all_tasks_blocked()
        assert order == ["beside", "first", "second"]
        nursery.cancel_scope.cancel()


async def test_concurrent_messages_overlap(autojump_clock: object, counter_type: type[Counter]) -> None:
    async with trio.open_nursery() as nursery:
        ref = await Supervisor(nursery).start("c", counter_type)
        began = trio.current_time()
        async with trio.open_nursery() as askers:
            for _ in range(10):
                askers.start_soon(ref.ask, Slow(5))
        assert trio.current_time() - began == pytest.approx(5)
        nursery.cancel_scope.cancel()


async def test_an_ask_past_its_deadline_is_rolled_back(autojump_clock: object, counter_type: type[Counter]) -> None:
    made: list[Counter] = []

    def factory() -> Counter:
        made.append(counter_type())
        return made[-1]

    async with trio.open_nursery() as nursery:
        ref = await Supervisor(nursery).start("c", factory)
        with pytest.raises(DeadlineExceeded):
            await ref.ask(Add(1, pause_s=10), deadline_s=2)
        assert made[0].reverted == [1]
        assert await ref.ask(Add(5)) == 5
        nursery.cancel_scope.cancel()


async def test_a_withdrawn_message_never_runs(autojump_clock: object, counter_type: type[Counter]) -> None:
    async with trio.open_nursery() as nursery:
        ref = await Supervisor(nursery).start("c", counter_type)
        nursery.start_soon(ref.ask, Add(1, pause_s=10))
        await wait_all_tasks_blocked()
        with trio.move_on_after(1):
            await ref.ask(Add(100))
        assert await ref.ask(Add(1)) == 2
        nursery.cancel_scope.cancel()


async def test_an_expected_error_is_the_askers_and_the_actor_lives_on(
    autojump_clock: object, counter_type: type[Counter]
) -> None:
    async with trio.open_nursery() as nursery:
        ref = await Supervisor(nursery).start("c", counter_type)
        await ref.ask(Add(1))
        with pytest.raises(InvalidArgument):
            await ref.ask(Fail(expected=True))
        assert await ref.ask(Add(1)) == 2
        nursery.cancel_scope.cancel()


async def test_a_crashed_actor_is_restarted_over_the_same_mailbox(
    autojump_clock: object, counter_type: type[Counter]
) -> None:
    async with trio.open_nursery() as nursery:
        ref = await Supervisor(nursery).start("c", counter_type)
        await ref.ask(Add(1))
        with pytest.raises(ActorGone):
            await ref.ask(Fail(expected=False))
        assert await ref.ask(Add(7)) == 7
        assert counter_type.lives == 2
        nursery.cancel_scope.cancel()


async def test_an_actor_that_crashes_too_often_is_given_up(autojump_clock: object, counter_type: type[Counter]) -> None:
    told: list[str] = []
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery)
        policy = RestartPolicy(max_restarts=2)
        ref = await supervisor.start("c", counter_type, policy=policy, on_giveup=lambda name, _error: told.append(name))
        for _ in range(3):
            with pytest.raises(ActorGone):
                await ref.ask(Fail(expected=False))
        await ref.stopped.wait()
        assert told == ["c"]
        with pytest.raises(ActorGone):
            await ref.ask(Add(1))
        nursery.cancel_scope.cancel()


async def test_whoever_cannot_be_told_of_an_actor_that_is_given_up_takes_no_other_along(
    autojump_clock: object, counter_type: type[Counter]
) -> None:
    def told(_name: str, _error: BaseException) -> None:
        raise RuntimeError("Nursery is closed to new arrivals")

    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery)
        ref = await supervisor.start("c", counter_type, policy=RestartPolicy(max_restarts=0), on_giveup=told)
        other = await supervisor.start("d", counter_type)
        with pytest.raises(ActorGone):
            await ref.ask(Fail(expected=False))
        await ref.stopped.wait()
        assert await other.ask(Add(1)) == 1
        nursery.cancel_scope.cancel()


async def test_an_actor_that_is_stopped_while_it_is_being_started_is_gone_for_whoever_starts_it(
    autojump_clock: object,
) -> None:
    class Late(Actor):
        async def setup(self) -> None:
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery)

        async def start() -> None:
            with pytest.raises(ActorGone, match="stopped while it was being started"):
                await supervisor.start("late", lambda: Late("late"))

        nursery.start_soon(start)
        await wait_all_tasks_blocked()
        ref = supervisor.find("late")
        assert ref is not None
        await supervisor.stop(ref)
        assert supervisor.find("late") is None


async def test_a_full_mailbox_refuses_at_once(autojump_clock: object, counter_type: type[Counter]) -> None:
    async with trio.open_nursery() as nursery:
        ref = await Supervisor(nursery).start("c", counter_type)
        for _ in range(MAILBOX_SIZE + 1):
            nursery.start_soon(_ask_quietly, ref)
            await wait_all_tasks_blocked()
        with pytest.raises(MailboxFull, match="nothing was done"):
            await ref.ask(Add(1))
        assert await ref.ask(Slow(1)) == 1
        nursery.cancel_scope.cancel()


async def _ask_quietly(ref: object) -> None:
    await ref.ask(Add(1, pause_s=1000), deadline_s=10**6)  # type: ignore[attr-defined]


async def test_stopping_an_actor_fails_whoever_waits(autojump_clock: object, counter_type: type[Counter]) -> None:
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery)
        ref = await supervisor.start("c", counter_type)

        async def ask() -> None:
            with pytest.raises(ActorGone):
                await ref.ask(Add(1, pause_s=100))

        nursery.start_soon(ask)
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        await supervisor.stop(ref)
        assert not ref.alive


# -- what becomes of work whose asker goes on without it


@attrs.frozen
class Do(Message[str]):
    """Have the test's own function handle this."""

    work: Callable[[], Awaitable[Any]]
    WHEN_CANCELLED = WhenCancelled.REVERTS


@attrs.frozen
class DoBeside(Do):
    CONCURRENT = True


class Doer(Actor):
    def __init__(self, background: Callable[[Actor], None] = lambda _actor: None) -> None:
        super().__init__("doer")
        self._begin = background

    async def setup(self) -> None:
        self._begin(self)

    async def handle(self, message: Message[Any]) -> Any:
        assert isinstance(message, Do)
        return await message.work()


@asynccontextmanager
async def running(background: Callable[[Actor], None] = lambda _actor: None) -> AsyncIterator[ActorRef[object]]:
    async with trio.open_nursery() as nursery:
        yield await Supervisor(nursery).start("doer", lambda: Doer(background))
        nursery.cancel_scope.cancel()


async def stubborn() -> str:
    """Not to be cancelled for longer than an asker waits."""
    with trio.CancelScope(shield=True):
        await trio.sleep(SETTLE_S + 10)
    return "done"


async def test_work_that_never_had_its_turn_is_told_from_work_that_was_rolled_back(autojump_clock: object) -> None:
    begun: list[str] = []

    async def work() -> None:
        begun.append("work")
        await trio.sleep_forever()

    async with running() as ref, trio.open_nursery() as nursery:
        nursery.start_soon(ref.ask, Do(trio.sleep_forever))
        await wait_all_tasks_blocked()
        with pytest.raises(NeverBegun, match="nothing of it was done") as caught:
            await ref.ask(Do(work), deadline_s=2)
        assert (caught.value.code, begun) == ("never_begun", [])
        with pytest.raises(DeadlineExceeded, match="rolled back") as rolled_back:
            await ref.ask(DoBeside(work), deadline_s=2)
        assert (rolled_back.value.code, begun) == ("deadline_exceeded", ["work"])
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("fate", "kind", "said"),
    [
        (WhenCancelled.LOOKS, DeadlineExceeded, "within 0.5 s; it was cancelled, and changes nothing"),
        (WhenCancelled.STOPS, DeadlineExceeded, "what of it was done by then stays done"),
        (WhenCancelled.GOES_ON, Unfinished, "it cannot be cancelled. It goes on by itself"),
    ],
)
async def test_only_what_undoes_itself_is_said_to_be_rolled_back(
    autojump_clock: object, fate: WhenCancelled, kind: type[AgentisoError], said: str
) -> None:
    class Late(Do):
        WHEN_CANCELLED = fate

    async with running() as ref:
        with pytest.raises(kind, match=said):
            await ref.ask(Late(trio.sleep_forever), deadline_s=0.5)


async def test_of_a_message_that_says_nothing_of_its_end_the_least_is_said(autojump_clock: object) -> None:
    assert Message.WHEN_CANCELLED is WhenCancelled.STOPS


async def test_work_that_cannot_be_cancelled_in_time_is_still_under_way_and_said_to_be(autojump_clock: object) -> None:
    async with running() as ref:
        began = trio.current_time()
        with pytest.raises(OutcomeUnknown, match="still under way") as caught:
            await ref.ask(Do(stubborn), deadline_s=2)
        assert caught.value.code == "outcome_unknown"
        assert trio.current_time() - began == pytest.approx(2 + SETTLE_S)


async def test_work_that_ends_well_in_spite_of_its_cancellation_has_a_result(autojump_clock: object) -> None:
    async def finish() -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(10)
        return "done"

    async with running() as ref:
        assert await ref.ask(Do(finish), deadline_s=2) == "done"


async def test_an_asker_that_is_cancelled_goes_on_once_its_work_is_rolled_back(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    over: list[float] = []

    async def revert() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
                over.append(trio.current_time())

    async with running() as ref:
        with trio.move_on_after(1):
            await ref.ask(DoBeside(revert))
        assert over == [trio.current_time()]
        assert not caplog.records
        with trio.move_on_after(1):
            await ref.ask(DoBeside(stubborn))
        assert "still works on DoBeside" in caplog.text


# -- what ends an actor, and what does not


async def nested(*failures: BaseException) -> None:
    """Fail within nurseries."""

    async def fail(failure: BaseException) -> None:
        await wait_all_tasks_blocked()
        raise failure

    async with trio.open_nursery() as outer:
        async with trio.open_nursery() as inner:
            for failure in failures:
                inner.start_soon(fail, failure)
        outer.cancel_scope.cancel()


async def test_a_refusal_out_of_nurseries_is_the_askers_like_any_other() -> None:
    async with running() as ref:
        with pytest.raises(InvalidArgument, match="as expected"):
            await ref.ask(Do(lambda: nested(InvalidArgument("as expected"))))
        assert await ref.ask(Do(lambda: _answer("it lives"))) == "it lives"


async def test_of_several_refusals_the_first_is_raised_and_names_the_others() -> None:
    async with running() as ref:
        with pytest.raises((InvalidArgument, NotFound)) as caught:
            await ref.ask(Do(lambda: nested(InvalidArgument("one"), NotFound("two"))))
        assert {str(caught.value), *caught.value.__notes__} in ({"one", "Beside it: two"}, {"two", "Beside it: one"})
        assert await ref.ask(Do(lambda: _answer("it lives"))) == "it lives"


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOTCONN, None])
async def test_what_the_host_answers_is_the_askers_whatever_it_is(
    number: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as ref:
        answer = OSError(number, "an answer", "/a/file") if number else OSError("an answer")
        with pytest.raises(HostFailed, match="an answer"):
            await ref.ask(Do(lambda: nested(answer)))
        assert "an answer" in caplog.text
        assert await ref.ask(Do(lambda: _answer("it lives"))) == "it lives"


async def test_what_the_host_answers_to_a_start_is_told_as_its_failure() -> None:
    def begin(_actor: Actor) -> None:
        raise FileNotFoundError(errno.ENOENT, "it is not there", "/a/file")

    async with trio.open_nursery() as nursery:
        with pytest.raises(HostFailed, match="it is not there"):
            await Supervisor(nursery).start("doer", lambda: Doer(begin))


async def test_a_bug_among_refusals_crashes_the_actor(autojump_clock: object) -> None:
    async with running() as ref:
        with pytest.raises(ActorGone, match="the outcome is unknown"):
            await ref.ask(Do(lambda: nested(InvalidArgument("one"), ZeroDivisionError("two"))))
        assert await ref.ask(Do(lambda: _answer("it is back"))) == "it is back"


async def test_a_nursery_that_is_cancelled_for_its_asker_is_rolled_back(autojump_clock: object) -> None:
    async def wait() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)

    async with running() as ref:
        with pytest.raises(DeadlineExceeded, match="rolled back"):
            await ref.ask(Do(wait), deadline_s=1)


async def _answer(text: str) -> str:
    await trio.lowlevel.checkpoint()
    return text


async def test_cancellations_beside_a_failure_do_not_hide_it_and_are_none_themselves() -> None:
    cancelled: list[BaseException] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            cancelled.append(error)
            raise
    refused = InvalidArgument("no")
    assert ordinary_failure(BaseExceptionGroup("", [refused, *cancelled]), InvalidArgument) is refused
    assert ordinary_failure(cancelled[0], InvalidArgument) is None
    assert ordinary_failure(BaseExceptionGroup("", cancelled), InvalidArgument) is None


async def test_an_actor_that_crashes_while_everything_is_stopped_takes_nobody_along(autojump_clock: object) -> None:
    """Its bug and the cancellation come in one exception group."""

    async def crash() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ZeroDivisionError

    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery)
        ref, other = await supervisor.start("one", Doer), await supervisor.start("other", Doer)

        async def ask() -> None:
            with pytest.raises(ActorGone):
                await ref.ask(Do(crash))

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        await supervisor.stop(ref)
        assert await other.ask(Do(lambda: _answer("it lives"))) == "it lives"
        nursery.cancel_scope.cancel()


async def test_what_waits_for_an_actor_that_crashes_is_handled_by_its_next_life(
    autojump_clock: object, counter_type: type[Counter]
) -> None:
    async with trio.open_nursery() as nursery:
        ref = await Supervisor(nursery).start("c", counter_type)
        totals: list[int] = []

        async def add() -> None:
            totals.append(await ref.ask(Add(1)))

        async def fail() -> None:
            with pytest.raises(ActorGone):
                await ref.ask(Fail(expected=False))

        async with trio.open_nursery() as askers:
            askers.start_soon(ref.ask, Add(0, pause_s=1))
            for ask in (fail, add, add):
                await wait_all_tasks_blocked()
                askers.start_soon(ask)
        assert (totals, counter_type.lives) == ([1, 2], 2)
        nursery.cancel_scope.cancel()


async def test_a_closed_mailbox_refuses_all_that_waits_and_all_that_comes() -> None:
    mailbox = Mailbox()
    ref: ActorRef[object] = ActorRef("gone", mailbox)

    async def ask(message: Message[int]) -> None:
        with pytest.raises(ActorGone, match=r"it stopped\. Nothing was done"):
            await ref.ask(message)

    async with trio.open_nursery() as nursery:
        for message in (Add(1), Slow(1)):
            nursery.start_soon(ask, message)
        await wait_all_tasks_blocked()
        assert len(mailbox) == 2
        mailbox.close("it stopped")
    await ask(Add(1))
    assert len(mailbox) == 0


# -- background tasks


class Failing:
    """Fails as often as there are failures, then waits."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.runs: list[float] = []

    async def __call__(self) -> None:
        self.runs.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.failures:
            raise self.failures.pop(0)


async def test_a_background_task_that_fails_is_tried_again_after_growing_pauses(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    group = ExceptionGroup("", [OSError("a disk"), InvalidArgument("a value")])
    task = Failing(InvalidArgument("once"), OSError("twice"), group)
    async with running(lambda actor: actor.background("task", task)) as ref:
        began = trio.current_time()
        await trio.sleep(100)
        assert [run - began for run in task.runs] == pytest.approx([0, 1, 3, 7])
        assert "doer: task failed" in caplog.text
        assert await ref.ask(Do(lambda: _answer("it lives"))) == "it lives"


async def test_a_background_task_whose_failure_is_told_is_not_tried_again(autojump_clock: object) -> None:
    task, told = Failing(InvalidArgument("once")), list[str]()
    report = told.append
    async with running(lambda actor: actor.background("task", task, on_failure=lambda error: report(str(error)))):
        await trio.sleep(100)
    assert (told, len(task.runs)) == (["once"], 1)


async def test_a_bug_in_a_background_task_restarts_its_actor_and_no_other(autojump_clock: object) -> None:
    task, lives = Failing(ZeroDivisionError()), list[str]()

    def begin(actor: Actor) -> None:
        lives.append(actor.name)
        actor.background("task", task)

    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery)
        other = await supervisor.start("other", Doer)
        ref = await supervisor.start("doer", lambda: Doer(begin))
        nursery.start_soon(other.ask, Do(partial(trio.sleep, 50)))
        await trio.sleep(100)
        assert len(lives) == 2
        assert await ref.ask(Do(lambda: _answer("it is back"))) == "it is back"
        nursery.cancel_scope.cancel()
