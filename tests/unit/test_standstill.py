"""A machine is made to stand still, whole or not at all, and runs on whatever happens; none of it is believed."""

from __future__ import annotations

import ctypes
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from actors.machine import pause as standstill
from actors.machine.machine import Machine, Standstill
from actors.machine.pause import RESUME_LIMIT_S, FileSystem
from actors.model.errors import CheckpointUnusable, GuestBroken, MachineFailed, QmpError
from guest import filesystem


class StandIn:
    """A guest and a QEMU that note what is asked of them; either may be mute, and QEMU may refuse."""

    broken = False

    def __init__(self, *, holds: bool = True) -> None:
        self.asked: list[str] = []
        self.holds = holds
        self.runs = True
        self.guest_mute = False
        self.qemu_mute = False
        self.refuses: set[str] = set()
        self.late: list[str] = []
        """What QEMU was told while it was mute, and does when it is not any more."""
        self.answered = trio.Event()
        self.machine = Machine(cast("Any", None), cast("Any", None), "layer", 0)
        self.machine.qmp = self.machine.client = cast("Any", self)

    async def _ask(self, what: str, limit_s: float = 10.0) -> None:
        self.asked.append(what)
        await trio.lowlevel.checkpoint()
        if self.guest_mute or self.qemu_mute or not self.runs:
            with trio.move_on_after(limit_s):
                await self.answered.wait()
                return
            raise GuestBroken(f"it did not answer {what}")

    async def ping(self, limit_s: float = 10.0) -> None:
        await self._ask("ping", limit_s)

    async def sync_disks(self, limit_s: float = 60.0) -> None:
        await self._ask("sync", limit_s)

    async def freeze(self, *, write: bool, quiesce: bool) -> bool:
        await self._ask("write" if write else "quiesce" if quiesce else "freeze")
        return self.holds

    async def release(self) -> float:
        # What comes before it in QEMU's queue is done by then.
        await trio.lowlevel.checkpoint()
        await self._ask("release")
        return 0.0

    async def execute(self, command: str, *, limit_s: float = 10.0) -> dict[str, Any]:
        return await self.finish(await self.begin(command), limit_s=limit_s)

    async def begin(self, command: str) -> str:
        self.asked.append(command)
        await trio.lowlevel.checkpoint()
        if self.qemu_mute:
            self.late.append(command)
        elif command not in self.refuses:
            self._obey(command)
        return command

    def _obey(self, command: str) -> None:
        self.runs = {"stop": False, "cont": True}.get(command, self.runs)

    async def finish(self, command: str, *, limit_s: float = 10.0) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        if self.qemu_mute:
            with trio.move_on_after(limit_s):
                await self.answered.wait()
        if self.qemu_mute:
            raise MachineFailed(f"QEMU did not answer {command!r}.")
        if command in self.refuses:
            raise QmpError(f"QEMU refused {command!r}.")
        return {"running": self.runs}

    def answer(self) -> None:
        """Be mute no longer, and obey what came meanwhile."""
        self.qemu_mute = False
        for command in self.late:
            self._obey(command)
        self.late.clear()
        self.answered.set()

    async def wait_stalled(self) -> bool:
        await trio.sleep_forever()
        return False


@pytest.fixture
async def guest() -> StandIn:
    return StandIn()


@pytest.mark.parametrize("file_system", [FileSystem.WRITTEN, FileSystem.QUIESCED])
async def test_processes_that_cannot_be_held_refuse_a_whole_disk_and_go_on(file_system: FileSystem) -> None:
    guest = StandIn(holds=False)
    with pytest.raises(CheckpointUnusable, match="could not be made to stand still"):
        async with standstill.standing_still(guest.machine, file_system):
            raise AssertionError("a machine that does not stand still was given out")
    assert "stop" not in guest.asked
    assert guest.asked[-2:] == ["cont", "release"]


async def test_a_fork_needs_no_whole_disk_and_says_that_processes_were_not_held() -> None:
    guest = StandIn(holds=False)
    async with standstill.standing_still(guest.machine, FileSystem.AS_IS) as pause:
        assert not pause.processes_held
        # QEMU says that it stands still in the same go.
        assert guest.asked == ["ping", "freeze", "stop", "query-status"]
    assert guest.asked[4:] == ["cont", "release"]


async def test_a_machine_runs_on_after_whatever_failed_while_it_stood_still() -> None:
    guest = StandIn(holds=True)

    async def fail() -> None:
        async with standstill.standing_still(guest.machine, FileSystem.QUIESCED) as pause:
            assert pause.processes_held
            assert pause.whole
            raise ValueError("a failure of any kind")

    with pytest.raises(ValueError, match="of any kind"):
        await fail()
    assert guest.asked == ["ping", "sync", "quiesce", "stop", "query-status", "cont", "release"]


def test_the_root_file_system_alone_is_written_out_while_processes_stand_still(monkeypatch: Any) -> None:
    written: list[Path] = []

    class Library:
        def __init__(self, *_: object, **__: object) -> None: ...

        def syncfs(self, fd: int) -> int:
            written.append(Path(f"/proc/self/fd/{fd}").readlink())
            return 0

    monkeypatch.setattr(ctypes, "CDLL", Library)
    filesystem.write_out()
    assert written == [Path("/")]


# -- what is held


async def test_what_is_held_is_looked_at_and_held_anew_if_it_runs(guest: StandIn, autojump_clock: MockClock) -> None:
    await standstill.hold(guest.machine, FileSystem.QUIESCED)
    async with standstill.standing_still(guest.machine, FileSystem.WRITTEN) as pause:
        assert pause.processes_held
    assert not guest.runs
    guest.runs = True
    async with standstill.standing_still(guest.machine, FileSystem.AS_IS) as pause:
        assert not guest.runs
        # It did something meanwhile.
        assert not pause.processes_held
    with pytest.raises(CheckpointUnusable, match="without its guest"):
        async with standstill.standing_still(guest.machine, FileSystem.WRITTEN):
            raise AssertionError("a disk was given out for whole that is not")
    assert not guest.runs
    await standstill.let_go(guest.machine)
    assert guest.asked[-2:] == ["cont", "release"]
    assert guest.runs
    assert guest.machine.held is None


async def test_a_machine_that_qemu_does_not_stop_is_never_read(guest: StandIn, autojump_clock: MockClock) -> None:
    await standstill.hold(guest.machine, FileSystem.AS_IS)
    guest.runs, guest.refuses = True, {"stop"}
    with pytest.raises(QmpError):
        async with standstill.standing_still(guest.machine, FileSystem.AS_IS):
            raise AssertionError("a running machine was given out")
    assert guest.machine.unsettled


@pytest.mark.parametrize("ending", ["hold", "let_go"])
async def test_a_change_that_is_cancelled_half_way_is_finished(
    guest: StandIn, autojump_clock: MockClock, ending: str
) -> None:
    machine = guest.machine
    if ending == "let_go":
        await standstill.hold(machine, FileSystem.QUIESCED)
    with trio.CancelScope() as scope:
        original = guest.begin

        async def begin(command: str) -> str:
            scope.cancel(reason="whoever asked has had enough")
            return await original(command)

        guest.begin = begin  # type: ignore[method-assign]
        if ending == "hold":
            await standstill.hold(machine, FileSystem.QUIESCED)
        else:
            await standstill.let_go(machine)
        # Between this and what the caller writes down nobody comes.
        assert (machine.held is None) is guest.runs
    assert (machine.held is None) is guest.runs
    assert not machine.unsettled


async def test_a_machine_that_qemu_does_not_resume_counts_as_held_and_is(
    guest: StandIn, autojump_clock: MockClock
) -> None:
    await standstill.hold(guest.machine, FileSystem.QUIESCED)
    guest.refuses = {"cont"}
    with pytest.raises(QmpError):
        await standstill.let_go(guest.machine)
    assert guest.machine.held is not None
    assert not guest.runs


async def test_a_resume_whose_answer_came_late_is_one(guest: StandIn, autojump_clock: MockClock) -> None:
    await standstill.hold(guest.machine, FileSystem.QUIESCED)
    guest.qemu_mute = True
    answers = [GuestBroken, MachineFailed]
    original = guest.finish

    async def finish(command: str, *, limit_s: float = 10.0) -> dict[str, Any]:
        try:
            return await original(command, limit_s=limit_s)
        except tuple(answers):
            guest.answer()
            raise

    guest.finish = finish  # type: ignore[method-assign]
    await standstill.let_go(guest.machine)
    assert guest.runs
    assert guest.machine.held is None
    assert not guest.machine.unsettled


async def attended(guest: StandIn, work: Callable[[], Awaitable[object]]) -> None:
    """Do something while the machine has its attendant, and let that do what is left."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(guest.machine.resume_when_stalled)
        await work()
        guest.answer()
        guest.guest_mute = False
        await trio.sleep(100)
        nursery.cancel_scope.cancel(reason="it has had its time")


async def test_a_resume_that_qemu_never_answered_is_taken_back_when_it_answers(
    guest: StandIn, autojump_clock: MockClock
) -> None:
    await standstill.hold(guest.machine, FileSystem.QUIESCED)
    guest.qemu_mute = True

    async def resume() -> None:
        with pytest.raises(MachineFailed):
            await standstill.let_go(guest.machine)
        assert guest.machine.held is not None

    await attended(guest, resume)
    # It obeyed the command that nobody waits for any more.
    assert not guest.runs
    assert not guest.machine.held or not guest.machine.held.processes_held
    assert not guest.machine.unsettled


@pytest.mark.parametrize("operation", ["hold", "standstill"])
async def test_a_stop_that_qemu_never_answered_does_not_last(
    guest: StandIn, autojump_clock: MockClock, operation: str
) -> None:
    original = guest.freeze

    async def freeze(**options: bool) -> bool:
        held = await original(**options)
        guest.qemu_mute = True
        return held

    guest.freeze = freeze  # type: ignore[method-assign]

    async def stop() -> None:
        still = standstill.standing_still(guest.machine, FileSystem.AS_IS)
        with pytest.raises(MachineFailed):
            await (standstill.hold(guest.machine, FileSystem.AS_IS) if operation == "hold" else still.__aenter__())

    await attended(guest, stop)
    assert guest.runs
    assert guest.machine.held is None
    assert not guest.machine.unsettled
    assert "release" in guest.asked


async def test_what_was_held_for_something_that_failed_runs_on_when_qemu_answers(
    guest: StandIn, autojump_clock: MockClock
) -> None:
    await standstill.hold(guest.machine, FileSystem.WRITTEN)
    guest.qemu_mute = True
    await attended(guest, lambda: standstill.give_up(guest.machine))
    assert guest.runs
    assert guest.machine.held is None
    assert not guest.machine.unsettled


async def test_processes_are_released_when_a_guest_answers_that_was_mute_at_the_end_of_a_standstill(
    guest: StandIn, autojump_clock: MockClock
) -> None:
    async def pause() -> None:
        async with standstill.standing_still(guest.machine, FileSystem.AS_IS):
            guest.guest_mute = True

    await attended(guest, pause)
    assert guest.asked[-2:] == ["ping", "release"]
    assert not guest.machine._owes_release.is_set()


# -- a mute guest


@pytest.mark.parametrize("file_system", list(FileSystem))
async def test_a_mute_guest_that_is_needed_is_named_within_a_bound_and_nothing_is_changed(
    guest: StandIn, autojump_clock: MockClock, file_system: FileSystem
) -> None:
    guest.guest_mute = True
    works: list[Callable[[], Awaitable[object]]] = [
        lambda: standstill.hold(guest.machine, file_system),
        lambda: standstill.standing_still(guest.machine, file_system).__aenter__(),
    ]
    for work in works:
        began = trio.current_time()
        with pytest.raises(GuestBroken, match=r"did not answer .* nothing was changed") as caught:
            await work()
        assert "snapshot_restore" in caught.value.remedy
        assert trio.current_time() - began <= 10
    assert set(guest.asked) == {"ping", "query-status"}


@pytest.mark.parametrize("file_system", list(FileSystem))
@pytest.mark.parametrize("moment", ["ping", "freeze"])
async def test_a_mute_guest_that_is_not_needed_is_made_to_stand_still_by_qemu_alone(
    guest: StandIn, autojump_clock: MockClock, file_system: FileSystem, moment: str
) -> None:
    guest.guest_mute = moment == "ping"
    original = guest.freeze

    async def freeze(**options: bool) -> bool:
        guest.guest_mute = True
        return await original(**options)

    guest.freeze = freeze  # type: ignore[method-assign]
    async with standstill.standing_still(guest.machine, file_system, guest_needed=False) as pause:
        assert not guest.runs
        assert pause.alone
        assert not pause.processes_held
        assert not pause.whole
    assert guest.runs
    held = await standstill.hold(guest.machine, file_system, guest_needed=False)
    assert held.alone
    assert not guest.runs


async def test_a_guest_that_stalls_while_it_writes_its_disk_is_not_waited_for_without_end(
    guest: StandIn, autojump_clock: MockClock
) -> None:
    async def sync(limit_s: float = 60.0) -> None:
        guest.guest_mute = True
        await guest._ask("sync", limit_s)

    guest.sync_disks = sync  # type: ignore[method-assign]
    with trio.fail_after(70), pytest.raises(GuestBroken):
        await standstill.hold(guest.machine, FileSystem.QUIESCED)
    assert guest.runs


async def test_a_mute_qemu_is_the_better_reason(guest: StandIn, autojump_clock: MockClock) -> None:
    guest.qemu_mute = True
    with trio.fail_after(11), pytest.raises(MachineFailed, match="did not answer 'query-status'"):
        await standstill.hold(guest.machine, FileSystem.QUIESCED)


async def test_a_way_back_asks_for_an_answer_only_as_long_as_it_is_told(
    guest: StandIn, autojump_clock: MockClock
) -> None:
    assert await standstill.guest_answers(guest.machine, 3.0)
    guest.guest_mute = True
    began = trio.current_time()
    assert not await standstill.guest_answers(guest.machine, 3.0)
    assert trio.current_time() - began == 3.0


# -- one that another supervisor held


@pytest.mark.parametrize("answers", ["guest", "guest that cannot hold its processes", "nobody", "nobody in time"])
async def test_a_machine_held_by_qemu_alone_stands_still_again_with_its_guest_if_that_answers(
    guest: StandIn, autojump_clock: MockClock, answers: str
) -> None:
    guest.runs, guest.machine.held = False, Standstill(alone=True)
    guest.guest_mute = answers == "nobody"
    guest.holds = answers == "guest"
    if answers == "nobody in time":

        async def freeze(**_options: bool) -> bool:
            raise GuestBroken("it ended")

        guest.freeze = freeze  # type: ignore[method-assign]
    with trio.fail_after(60):
        await standstill.hold_anew(guest.machine)
    held = guest.machine.held
    assert held is not None
    assert (held.alone, held.whole) == (answers.startswith("nobody"), answers == "guest")
    assert not guest.runs
    assert not guest.machine.unsettled


async def test_a_machine_that_qemu_does_not_answer_for_is_wanted_to_stand_still_as_before(
    guest: StandIn, autojump_clock: MockClock
) -> None:
    guest.runs, guest.machine.held = False, (before := Standstill(alone=True))
    guest.qemu_mute = True
    with trio.fail_after(60), pytest.raises(MachineFailed):
        await standstill.hold_anew(guest.machine)
    assert guest.machine.held is before
    guest.answer()
    await guest.machine.settle()
    assert not guest.runs


# -- what took too long


async def test_what_took_too_long_says_whether_the_machine_runs(guest: StandIn, autojump_clock: MockClock) -> None:
    async def linger() -> None:
        async with standstill.standing_still(guest.machine, FileSystem.AS_IS):
            await trio.sleep(RESUME_LIMIT_S + 1)

    with pytest.raises(MachineFailed, match=r"30 s; it runs on\."):
        await linger()
    assert guest.runs
    await standstill.hold(guest.machine, FileSystem.AS_IS)
    with pytest.raises(MachineFailed, match=r"30 s; it stands still as before\."):
        await linger()
    assert not guest.runs
