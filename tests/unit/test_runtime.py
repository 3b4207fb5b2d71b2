"""The actor runtime, in virtual time."""

from __future__ import annotations

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors.model.errors import ActorGone, DeadlineExceeded, InvalidArgument, MailboxFull
from actors.runtime import Actor, Message, RestartPolicy, Supervisor


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


async def test_a_full_mailbox_refuses_at_once(autojump_clock: object, counter_type: type[Counter]) -> None:
    async with trio.open_nursery() as nursery:
        ref = await Supervisor(nursery).start("c", counter_type)
        for _ in range(257):
            nursery.start_soon(_ask_quietly, ref)
            await wait_all_tasks_blocked()
        with pytest.raises(MailboxFull):
            await ref.ask(Add(1))
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
