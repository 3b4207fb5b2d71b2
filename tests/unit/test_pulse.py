"""How long a guest that says nothing is waited for, and what is held against it."""

from __future__ import annotations

import math
import time

import pytest
import trio
from trio.testing import MockClock

from actors.machine.guest.pulse import MUTE_S, NOTED_S, QUIET_S, STALL_S, Patience, Pulse
from actors.model.errors import GuestBroken, GuestRefused


async def dead(limit_s: float) -> None:
    """Not answer a ping."""
    await trio.sleep(limit_s)
    raise GuestBroken("no answer")


async def alive(_limit_s: float) -> None:
    """Answer a ping, if with a refusal."""
    await trio.lowlevel.checkpoint()
    raise GuestRefused("unknown operation")


@pytest.mark.parametrize(
    ("patience", "limit_s"),
    [(Patience(), STALL_S), (Patience(MUTE_S, 60.0), 60.0), (Patience(MUTE_S), MUTE_S), (Patience(0.1), QUIET_S + 2)],
)
async def test_a_mute_guest_is_given_up_when_the_callers_time_is_over_and_patience_is_at_its_end(
    autojump_clock: MockClock, patience: Patience, limit_s: float
) -> None:
    assert await Pulse().wait_mute(patience, trio.Event(), dead) == pytest.approx(limit_s)
    assert trio.current_time() == pytest.approx(limit_s)


async def test_a_guest_that_answers_its_pings_is_never_given_up(autojump_clock: MockClock) -> None:
    pulse = Pulse()

    async def answer(_limit_s: float) -> None:
        pulse.heard()

    with trio.move_on_after(3600) as scope:
        await pulse.wait_mute(Patience(), trio.Event(), answer)
    assert scope.cancelled_caught


@pytest.mark.parametrize("sign", ["bytes came", "bytes were taken"])
async def test_a_guest_that_makes_progress_is_not_given_up_although_its_ping_waits_in_the_queue(
    autojump_clock: MockClock, sign: str
) -> None:
    pulse = Pulse()

    async def progress() -> None:
        for _ in range(10):
            await trio.sleep(20)
            pulse.heard() if sign == "bytes came" else pulse.took()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(progress)
        silent_s = await pulse.wait_mute(Patience(), trio.Event(), dead)
    assert trio.current_time() >= 200 + STALL_S
    assert silent_s >= STALL_S


async def test_a_guest_whose_cpus_stand_still_is_not_blamed_and_is_given_time_when_it_runs_on(
    autojump_clock: MockClock,
) -> None:
    pulse = Pulse()
    pulse.asked()
    pulse.stand_still()

    async def resume() -> None:
        await trio.sleep(1000)
        assert pulse.mute_since is None
        pulse.run_on()
        assert pulse.mute_since is None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(resume)
        await pulse.wait_mute(Patience(), trio.Event(), dead)
    assert trio.current_time() >= 1000 + STALL_S


async def test_a_watch_ends_with_the_request_it_watches(autojump_clock: MockClock) -> None:
    done = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Pulse().wait_mute, Patience(math.inf), done, dead)
        await trio.sleep(1)
        done.set()
    assert trio.current_time() == 1


async def test_it_is_told_since_when_an_answer_is_owed_until_one_comes(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulse = Pulse()
    mock_clock.jump(1000)
    # Nobody has asked for anything.
    assert pulse.mute_since is None
    monkeypatch.setattr(time, "time", lambda: 12345.0)
    pulse.asked()
    assert pulse.mute_since is None
    mock_clock.jump(NOTED_S)
    monkeypatch.setattr(time, "time", lambda: 99999.0)
    pulse.asked()
    assert pulse.mute_since == 12345.0
    pulse.took()
    assert pulse.mute_since == 12345.0
    pulse.heard()
    assert pulse.mute_since is None
    assert pulse.answered_at == 99999.0


async def test_a_refused_ping_is_an_answer(autojump_clock: MockClock) -> None:
    pulse = Pulse()

    async def answer(limit_s: float) -> None:
        pulse.heard()
        await alive(limit_s)

    with trio.move_on_after(300) as scope:
        await pulse.wait_mute(Patience(), trio.Event(), answer)
    assert scope.cancelled_caught
