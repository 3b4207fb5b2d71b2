"""Whoever is told that a change was rolled back finds it so, wherever the change was cancelled.

The actors, records, store and checkpoints are the real ones, over simulated machines (see `simulated`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio

from actors.machine import pause
from actors.machine.network.hostfwd import HostForwards
from actors.machine.storage.store import Store
from actors.model import record as records
from actors.model.errors import AgentisoError, HostFailed, NeverBegun
from actors.model.guest import CommandSpec
from actors.model.info import WorkspaceInfo
from actors.registry import messages as r
from actors.runtime.mailbox import Envelope
from actors.workspace import file_messages, job_messages, snapshots
from actors.workspace import messages as w
from tests.stateful.simulated import MEMORY
from tests.stateful.supervised import Site, leave_unswept

MOST_WRITES: Final = 20
"""Of the record, by any operation here."""
KEPT: Final = (
    "state", "suspended", "snapshots", "undo", "head", "forwards", "allow_internet", "stands_still", "machine",
)  # fmt: skip
"""What of a record has to be as before when a change was rolled back."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    leave_unswept(monkeypatch)
    monkeypatch.setattr(pause, "ANSWER_S", 0.1)

    async def nothing(_forwards: HostForwards, *_arguments: object, **_options: object) -> dict[int, int]:
        await trio.lowlevel.checkpoint()
        return {}

    for name in ("add", "remove", "present"):
        monkeypatch.setattr(HostForwards, name, nothing)
    found = Site(tmp_path, monkeypatch)
    found.settings = attrs.evolve(found.settings, network="user")
    found.world.longest_silence_s, found.world.holds_processes = 0.1, False
    return found


async def _pause_alone(site: Site) -> None:
    """Pause it while its guest is mute, so that its disk is not whole; then the guest answers again."""
    qemu = site.qemu((await site.infos())["one"])
    qemu.mute = True
    await site.tell("one", w.Pause())
    qemu.mute = False


def _told(*messages: Any) -> Callable[[Site], Awaitable[None]]:
    async def tell(site: Site) -> None:
        for message in messages:
            await site.tell("one", message)

    return tell


CHANGES: Final[dict[str, tuple[Callable[[Site], Awaitable[None]], Any]]] = {
    "stop": (_told(), w.Stop()),
    "stop of a paused one": (_told(w.Pause()), w.Stop()),
    "stop of one paused without its guest": (_pause_alone, w.Stop()),
    "stop of a suspended one": (_told(w.Suspend()), w.Stop()),
    "start": (_told(w.Stop()), w.Start(None)),
    "pause": (_told(), w.Pause()),
    "suspend": (_told(), w.Suspend()),
    "resume of a paused one": (_told(w.Pause()), w.Resume()),
    "resume of a suspended one": (_told(w.Suspend()), w.Resume()),
    "snapshot": (_told(), w.CreateSnapshot("another")),
    "snapshot of a stopped one": (_told(w.Stop()), w.CreateSnapshot("another")),
    "restore": (_told(), w.RestoreSnapshot("point")),
    "undo": (_told(w.RestoreSnapshot("point")), w.Undo()),
    "undo to a stopped one": (_told(w.Stop(), w.RestoreSnapshot("point")), w.Undo()),
    "delete of a snapshot": (_told(), w.DeleteSnapshot("point")),
    "forward": (_told(), w.AddForward(80)),
    "end of a forward": (_told(w.AddForward(80)), w.RemoveForward(80)),
    "network policy": (_told(), w.SetNetworkPolicy(allow_internet=True)),
}
"""What is done before, and the change."""


def _seen(site: Site, info: WorkspaceInfo) -> dict[str, Any]:
    record = site.record(info)
    machines = {
        qemu.uuid: qemu.running for qemu in site.world.alive if qemu.directory.is_relative_to(site.directory(info))
    }
    return {name: getattr(record, name) for name in KEPT} | {"machines": machines}


@pytest.mark.parametrize("change", CHANGES)
async def test_what_is_told_to_be_rolled_back_is_as_before_wherever_it_was_cancelled(
    virtual_time: object, site: Site, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    before, message = CHANGES[change]
    async with site.supervisor():
        for writes in range(MOST_WRITES):
            info = await site.create("one")
            await site.tell("one", w.CreateSnapshot("point"))
            await before(site)
            seen, envelope, left = _seen(site, info), Envelope(message), [writes]

            def save(
                *arguments: Any, envelope: Envelope = envelope, left: list[int] = left, real: Any = records.save,
                **options: Any,
            ) -> Path:  # fmt: skip
                path: Path = real(*arguments, **options)
                if not left[0]:
                    envelope.reply.scope.cancel(reason="the asker gave up")
                left[0] -= 1
                return path

            with monkeypatch.context() as patch:
                patch.setattr(records, "save", save)
                (await site.registry.ask(r.FindWorkspace("one"))).ref._mailbox.put("one", envelope)
                await envelope.reply.settled.wait()
            if envelope.reply.cancelled:
                assert _seen(site, info) == seen, f"cancelled when the record had been written {writes + 1} times"
            await site.registry.ask(r.DestroyWorkspace("one"))
            if left[0] >= 0:
                break
        else:
            raise AssertionError(f"{change} writes the record more than {MOST_WRITES} times")


@pytest.mark.parametrize("change", ["stop of a suspended one", "resume of a suspended one", "delete of a snapshot"])
async def test_nobody_waits_for_what_is_not_needed_any_more_to_be_removed(
    virtual_time: object, site: Site, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    async def collect(_store: Store) -> list[str]:
        await trio.sleep_forever()
        raise AssertionError

    before, message = CHANGES[change]
    async with site.supervisor():
        await site.create("one")
        await site.tell("one", w.CreateSnapshot("point"))
        await before(site)
        monkeypatch.setattr(Store, "collect", collect)
        await site.tell("one", message)


async def test_a_paused_workspace_whose_stop_is_cancelled_while_its_guest_writes_is_paused_again(
    virtual_time: object, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.supervisor():
        info = await site.create("one")
        await site.write("one", "kept")
        await _pause_alone(site)
        with trio.CancelScope() as scope:

            async def asked(_machine: object, _limit_s: float) -> bool:
                assert site.qemu(info).running
                scope.cancel(reason="the asker gave up")
                await trio.sleep_forever()
                raise AssertionError

            with monkeypatch.context() as patch:
                patch.setattr(pause, "guest_answers", asked)
                patch.setattr(pause, "_prepare", _is_mute)
                await site.tell("one", w.Stop())
        assert scope.cancelled_caught
        assert (await site.infos())["one"].state == "paused"
        assert not site.qemu(info).running
        await site.tell("one", w.Resume())
        assert await site.read("one") == ("kept", "kept")


async def _is_mute(*_arguments: object, **_options: object) -> bool:
    await trio.lowlevel.checkpoint()
    return False


@pytest.mark.parametrize("held_again", [True, False])
async def test_a_paused_workspace_whose_stop_cannot_be_written_down_is_paused_again_or_said_to_run(
    virtual_time: object, site: Site, monkeypatch: pytest.MonkeyPatch, held_again: bool
) -> None:
    def save(*_arguments: object, **_options: object) -> Path:
        raise HostFailed("An error of the disk.")

    async def hold(*_arguments: object, **_options: object) -> None:
        await trio.lowlevel.checkpoint()
        raise HostFailed("It cannot be held.")

    async with site.supervisor():
        info = await site.create("one")
        await _pause_alone(site)
        with monkeypatch.context() as patch:
            patch.setattr(records, "save", save)
            if not held_again:
                patch.setattr(pause, "hold", hold)
            with pytest.raises(AgentisoError, match=r"error of the disk|it runs") as caught:
                await site.tell("one", w.Stop())
        assert ("it runs" in caught.value.message) == (not held_again)
        await site.wait_for_state("one", "paused" if held_again else "running")
        assert site.qemu(info).running == (not held_again)
        await site.tell("one", w.Stop())
        assert (await site.infos())["one"].state == "stopped"


# -- work in the guest, which waits for a change


@pytest.mark.parametrize(
    "message",
    [
        job_messages.Exec(CommandSpec("true", timeout_s=1.0)),
        job_messages.Exec(CommandSpec("true"), yield_s=0.0),
        job_messages.StartJob(CommandSpec("true", timeout_s=1.0)),
        job_messages.ReadJob("job"),
        file_messages.ReadFile(MEMORY),
    ],
    ids=lambda message: type(message).__name__,
)
async def test_work_in_the_guest_waits_for_a_change_no_longer_than_was_asked_for(
    virtual_time: object, site: Site, monkeypatch: pytest.MonkeyPatch, message: Any
) -> None:
    begun = trio.Event()

    async def slow(*_arguments: object, **_options: object) -> None:
        begun.set()
        await trio.sleep_forever()

    monkeypatch.setattr(snapshots, "create", slow)
    monkeypatch.setattr(job_messages, "TURN_S", 0.5)
    monkeypatch.setattr(w, "BOOT_DEADLINE_S", 0.5)
    async with site.supervisor(), trio.open_nursery() as nursery:
        await site.create("one")

        async def change() -> None:
            with suppress(AgentisoError):
                await site.tell("one", w.CreateSnapshot("point"))

        nursery.start_soon(change)
        await begun.wait()
        with trio.fail_after(10), pytest.raises(NeverBegun, match="nothing of it was done"):
            await site.tell("one", message)
        nursery.cancel_scope.cancel(reason="seen")
