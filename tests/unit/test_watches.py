"""Watches on resources, without a supervisor: when they say that something has changed, and what waiting costs."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_util import RepeatedEvent

from actors.model.errors import ActorGone, AgentisoError, GuestBroken, GuestRefused, IllegalState, NotFound
from actors.model.guest import JobInfo, JobOutput
from actors.workspace.changes import Changes
from agentiso.mcp.subscriptions import _follow
from agentiso.mcp.watches import INTERVAL_S, RETRY_S, WAIT_S, JobWatch, RecordWatch


class Record:
    """Stands for the supervisor and what it knows of one workspace."""

    def __init__(self) -> None:
        self.changes = Changes()
        self.value: Any = 0

    async def wait_changed(self, since: int | None = None, *, workspace_id: str | None = None) -> int:
        return await self.changes.wait(since, workspace_id)

    async def look(self) -> object:
        await trio.lowlevel.checkpoint()
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def set(self, value: Any) -> None:
        self.value = value
        self.changes.note("ws")


@pytest.fixture
def record() -> Any:
    return Record()


async def follow(watch: Any, told: list[float]) -> None:
    async def tell() -> None:
        told.append(trio.current_time())

    await _follow(watch, tell)


async def test_a_flood_is_told_a_few_times_a_second_and_its_last_change_always(
    record: Any, autojump_clock: MockClock
) -> None:
    watch, told = RecordWatch(record, record.look, "ws"), list[float]()
    await watch.begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, watch, told)
        for number in range(1, 1001):
            record.set(number)
            await trio.sleep(0.01)
        await trio.sleep(INTERVAL_S)
        seen = len(told)
        await trio.sleep(1000)
        nursery.cancel_scope.cancel()
    assert 10 <= seen <= 10 / INTERVAL_S + 2
    assert len(told) == seen
    assert told[-1] >= told[0] + 9.9


async def test_what_nobody_could_see_is_not_told_and_an_actor_that_crashed_is(
    record: Any, autojump_clock: MockClock
) -> None:
    watch, told = RecordWatch(record, record.look, "ws"), list[float]()
    await watch.begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, watch, told)
        record.set(0)
        record.changes.note("another")
        await trio.sleep(10)
        assert told == []
        record.set(ActorGone("It crashed."))
        await trio.sleep(10)
        assert len(told) == 1
        record.set(1)
        await trio.sleep(10)
        assert len(told) == 2
        record.value = NotFound("It is gone.")
        record.changes.forget("ws")
    assert len(told) == 3


JOB = JobInfo(
    job_id="1", command="make", running=True, exit_code=None, signal=None, timed_out=False, started_at=0.0,
    duration_s=0.0, stdout_bytes=0, stderr_bytes=0, note="", carried_from=None,
)  # fmt: skip


class Guest:
    """Stands for a workspace with one job, as far as its output is waited for."""

    def __init__(self) -> None:
        self.jobs = self
        self.job = JOB
        self.error: AgentisoError | None = None
        self.asked: list[tuple[int, int]] = []
        self._changed = RepeatedEvent()

    def set(self, **changes: Any) -> None:
        self.error = changes.pop("error", None)
        self.job = attrs.evolve(self.job, **changes)
        self._changed.set()

    async def found(self) -> Guest:
        await trio.lowlevel.checkpoint()
        return self

    async def poll(self, job_id: str, *, max_bytes: int) -> JobOutput:
        return await self.wait(job_id, wait_s=0, output=True, cursors=(0, 0), max_bytes=max_bytes)

    async def wait(
        self, job_id: str, *, wait_s: float, output: bool, cursors: tuple[int, int], max_bytes: int
    ) -> JobOutput:
        self.asked.append(cursors)
        with trio.move_on_after(wait_s):
            while not self.error and self.job.running and self.job.stdout_bytes == cursors[0]:
                await self._changed.wait()
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        if cursors[0] > self.job.stdout_bytes:
            raise GuestRefused("a cursor is beyond the end of its stream.")
        return JobOutput(self.job, b"x", b"", (cursors[0] + 1, 0), (0, 0), matched=False)


async def test_a_jobs_output_and_its_end_are_told_and_waiting_costs_nothing(
    record: Any, autojump_clock: MockClock
) -> None:
    guest = Guest()
    watch, told = JobWatch(record, guest.found, "ws", "1"), list[float]()  # type: ignore[arg-type]
    await watch.begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, watch, told)
        await trio.sleep(1000)
        assert (told, guest.asked) == ([], [(0, 0), (0, 0)])
        guest.set(stdout_bytes=100)
        await trio.sleep(1000)
        assert (len(told), guest.asked[2:]) == (1, [(100, 0)])
        guest.set(running=False)
    assert len(told) == 2


async def test_a_watch_on_a_job_goes_on_with_the_next_machine(record: Any, autojump_clock: MockClock) -> None:
    guest = Guest()
    watch, told = JobWatch(record, guest.found, "ws", "1"), list[float]()  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, watch, told)
        guest.set(stdout_bytes=100)
        await trio.sleep(10)
        assert len(told) == 1
        guest.set(error=GuestBroken("Its machine ended."))
        record.changes.note("ws")
        await wait_all_tasks_blocked()
        guest.error = IllegalState("It is suspended.")
        await trio.sleep(2 * RETRY_S)
        asked = len(guest.asked)
        await trio.sleep(10 * WAIT_S)
        assert (len(told), len(guest.asked)) == (1, asked)
        # It is resumed at a snapshot at which it had written less.
        guest.set(stdout_bytes=50)
        record.changes.note("ws")
        await trio.sleep(10)
        assert len(told) == 2
        guest.set(error=GuestRefused("there is no such job."))
    assert len(told) == 3
