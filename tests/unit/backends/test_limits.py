"""What all limits do around the start of a process.  New ones are added to `LIMITS` and have to pass all of this.

The one that is made here stands for those that place a process: it holds the process back until it is let in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import trio

from actors.machine import descriptors
from actors.machine.limits.choice import best_limits, limits
from actors.machine.limits.none import NoLimits
from actors.machine.limits.protocol import Bounds, Limits, Placement
from actors.machine.qemu.process import QemuProcess
from actors.model.host_check import ProbeResult
from actors.model.info import Shape
from actors.model.names import new_id

LIMIT_S = 20
WAIT_THEN_RUN = f'read -r _ <&{descriptors.LIMITS} && exec {descriptors.LIMITS}<&- && exec "$@"'


class Gate:
    """Limits whose processes wait until they are let in; what is made for each is a pipe."""

    name = "gate"
    made: ClassVar[dict[str, int]] = {}
    """Of the host: the writing end of each machine's pipe."""

    def probe(self) -> ProbeResult:
        return ProbeResult("limits", True, "gate", "made by a test")

    async def prepare(self, bounds: Bounds) -> Placement:
        await trio.lowlevel.checkpoint()
        ours, self.made[bounds.machine] = os.pipe()
        return Placement(
            bounds.machine, before=("/bin/sh", "-c", WAIT_THEN_RUN, "sh"), descriptors={descriptors.LIMITS: ours}
        )

    async def enter(self, placement: Placement, pid: int) -> None:
        os.write(self.made[placement.machine], b"\n")
        await trio.lowlevel.checkpoint()

    async def adopt(self, machine: str) -> Placement:
        return Placement(machine)

    async def owned(self) -> tuple[Placement, ...]:
        return tuple(Placement(machine) for machine in self.made)

    async def release(self, placement: Placement) -> None:
        if (fd := self.made.pop(placement.machine, None)) is not None:
            os.close(fd)


LIMITS: list[Callable[[], Limits]] = [
    NoLimits,
    Gate,
]


@pytest.fixture(params=LIMITS, ids=lambda make: make().name)
def make(request: pytest.FixtureRequest) -> Callable[[], Limits]:
    """Return what makes the limits of one supervisor."""
    found: Callable[[], Limits] = request.param
    return found


@pytest.fixture
def bounds() -> Iterator[Bounds]:
    yield Bounds(new_id(), Shape(1, 128, 1))
    assert Gate.made == {}


async def done_with(found: Limits, *placements: Placement) -> None:
    for placement in placements:
        for fd in placement.descriptors.values():
            os.close(fd)
        await found.release(placement)


def test_all_limits_that_there_are_pass_these_tests() -> None:
    assert {made.name for made in limits()} < {make().name for make in LIMITS}


def test_the_last_ones_need_nothing_and_are_taken_where_no_others_can_be() -> None:
    *_, last = limits()
    assert last.probe().ok is not False
    assert best_limits().name in limits().names


def test_what_check_shows_of_them_says_why(make: Callable[[], Limits]) -> None:
    found = make().probe()
    assert found.verdict == make().name
    assert found.reason


async def test_a_process_is_in_its_place_before_it_becomes_what_it_is_and_stays_the_same_process(
    make: Callable[[], Limits], bounds: Bounds, tmp_path: Path
) -> None:
    found, log = make(), tmp_path / "log"
    placement = await found.prepare(bounds)
    argv = placement.wrap(("/bin/sh", "-c", "echo $$ $0; ls /proc/$$/fd", bounds.machine))
    process = QemuProcess.spawn(argv, uuid=bounds.machine, log=log, descriptors=placement.descriptors)
    with trio.fail_after(LIMIT_S):
        # What waits has not begun: it would have written something.
        assert log.read_text() == "" or not placement.before
        await found.enter(placement, process.pid)
        assert await process.end(LIMIT_S)
    process.release()
    said = log.read_text().split()
    assert said[:2] == [str(process.pid), bounds.machine]
    assert str(descriptors.LIMITS) not in said[2:]
    await done_with(found, placement)


async def test_what_is_released_is_owned_no_more_and_releasing_it_again_does_nothing(
    make: Callable[[], Limits], bounds: Bounds
) -> None:
    found = make()
    placement = await found.prepare(bounds)
    assert {owned.machine for owned in await make().owned()} <= {bounds.machine}
    await done_with(found, placement)
    await found.release(placement)
    assert await make().owned() == ()


async def test_a_later_supervisor_gives_back_what_it_adopted(make: Callable[[], Limits], bounds: Bounds) -> None:
    placement, later = await make().prepare(bounds), make()
    adopted = await later.adopt(bounds.machine)
    assert adopted.machine == bounds.machine
    await done_with(later, placement)
    await later.release(adopted)
    assert await later.owned() == ()


async def test_a_place_whose_making_is_cancelled_is_not_there(make: Callable[[], Limits], bounds: Bounds) -> None:
    found = make()
    with trio.CancelScope() as scope:
        scope.cancel(reason="the start was given up")
        await done_with(found, await found.prepare(bounds))
    assert await found.owned() == ()
