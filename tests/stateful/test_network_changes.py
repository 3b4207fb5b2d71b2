"""Forwards and policies: what was not done is neither open nor written down, and no port is kept that nobody has.

The actors, records and supervisor are the real ones, over simulated machines (see `simulated`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from actors.machine.network.host_ports import free_port
from actors.machine.network.hostfwd import HostForwards
from actors.model import record as records
from actors.model.errors import ActorGone, AgentisoError, DeadlineExceeded, HostFailed, MachineFailed, PortTaken
from actors.model.info import Lifetime, WorkspaceInfo
from actors.registry import messages as r
from actors.workspace import messages as w
from actors.workspace import policy, ports
from tests.stateful.supervised import Site, leave_unswept


@attrs.define
class Forwarding:
    """What QEMU forwards, and what befalls it next."""

    open: set[int] = attrs.field(factory=set)
    adds: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
    """Waited for after a port was opened."""
    removes: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
    """Waited for before a port is closed."""


@pytest.fixture
def qemu(monkeypatch: pytest.MonkeyPatch) -> Forwarding:
    found = Forwarding()

    async def add(_self: object, _monitor: object, _link: object, *, guest_port: int, host_port: int) -> None:
        assert guest_port
        if host_port in found.open:
            raise PortTaken("could not set up host forwarding rule")
        found.open.add(host_port)
        await found.adds()

    async def remove(_self: object, _monitor: object, _link: object, host_port: int) -> None:
        await found.removes()
        found.open.discard(host_port)

    async def present(_self: object, _monitor: object, _link: object) -> dict[int, int]:
        await trio.lowlevel.checkpoint()
        return dict.fromkeys(found.open, 80)

    for function in (add, remove, present):
        monkeypatch.setattr(HostForwards, function.__name__, function)
    return found


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qemu: Forwarding) -> Site:
    assert not qemu.open
    leave_unswept(monkeypatch)
    found = Site(tmp_path, monkeypatch)
    found.settings = attrs.evolve(found.settings, network="user")
    return found


async def _mute() -> None:
    await trio.lowlevel.checkpoint()
    raise MachineFailed("QEMU did not answer 'human-monitor-command' within 10 s.")


async def _ask(site: Site, message: Any, deadline_s: float) -> Any:
    return await (await site.registry.ask(r.FindWorkspace("one"))).ref.ask(message, deadline_s=deadline_s)


async def _wait_free(site: Site, port: int) -> None:
    """Wait until a host port is anybody's again."""
    while True:
        try:
            await site.tell("other", w.AddForward(80, port))
        except AgentisoError:
            await trio.sleep(0.01)
        else:
            return


@pytest.mark.parametrize("failure", ["cancelled", "failed"])
@pytest.mark.parametrize("removes", [trio.lowlevel.checkpoint, _mute])
async def test_a_forward_that_was_not_made_is_closed_now_or_later_and_only_then_free_again(
    site: Site, qemu: Forwarding, failure: str, removes: Callable[[], Awaitable[None]]
) -> None:
    async with site.supervisor():
        info, _ = await site.create("one"), await site.create("other")
        port = free_port(set())
        qemu.adds, qemu.removes = trio.sleep_forever if failure == "cancelled" else _mute, removes
        with pytest.raises(DeadlineExceeded if failure == "cancelled" else MachineFailed):
            await _ask(site, w.AddForward(80, port), 0.5 if failure == "cancelled" else 10.0)
        assert site.record(info).forwards == ()
        qemu.adds = trio.lowlevel.checkpoint
        if removes is _mute:
            with pytest.raises(AgentisoError, match="is forwarded"):
                await site.tell("other", w.AddForward(80, port))
            qemu.removes = trio.lowlevel.checkpoint
        else:
            assert not qemu.open
        await _wait_free(site, port)
        assert qemu.open == {port}


async def test_a_forward_that_did_not_work_is_closed_before_it_is_opened_again(site: Site, qemu: Forwarding) -> None:
    async with site.supervisor():
        await site.create("one")
        forward = await site.tell("one", w.AddForward(80))
        await site.tell("one", w.Stop())
        qemu.open.clear()
        qemu.adds = qemu.removes = _mute
        await site.tell("one", w.Start(None))
        assert (await site.infos())["one"].network.port_forwards[0].fault
        qemu.adds = qemu.removes = trio.lowlevel.checkpoint
        assert not (await site.tell("one", w.AddForward(80))).fault
        assert qemu.open == {forward.host_port}
        assert not (await site.infos())["one"].network.port_forwards[0].fault


async def test_a_forward_whose_end_cannot_be_written_down_stays_open(
    site: Site, qemu: Forwarding, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwritten(*_arguments: object, **_options: object) -> None:
        raise HostFailed("The record cannot be written.")

    async with site.supervisor():
        info = await site.create("one")
        forward = await site.tell("one", w.AddForward(80))
        with monkeypatch.context() as patch:
            patch.setattr(records, "save", unwritten)
            with pytest.raises(HostFailed):
                await site.tell("one", w.RemoveForward(80))
        assert qemu.open == {forward.host_port}
        assert site.record(info).forwards == (forward,)


async def test_a_forward_that_qemu_does_not_close_is_said_to_be_open_and_closed_later(
    site: Site, qemu: Forwarding
) -> None:
    async with site.supervisor():
        info, _ = await site.create("one"), await site.create("other")
        forward = await site.tell("one", w.AddForward(80))
        qemu.removes = _mute
        assert "not closed" in (await site.tell("one", w.RemoveForward(80))).fault
        assert site.record(info).forwards == ()
        qemu.removes = trio.lowlevel.checkpoint
        await _wait_free(site, forward.host_port)
        assert qemu.open == {forward.host_port}


async def test_a_port_whose_actor_crashed_before_it_was_written_down_is_free_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_arguments: object, **_options: object) -> None:
        raise ZeroDivisionError

    async with site.supervisor():
        await site.create("one")
        await site.create("other")
        port = free_port(set())
        with monkeypatch.context() as patch:
            patch.setattr(ports, "_give_back", crash)
            patch.setattr(records, "save", crash)
            with pytest.raises(ActorGone):
                await site.tell("one", w.AddForward(80, port))
        await site.tell("one", w.SetLifetime(Lifetime()))
        await _wait_free(site, port)


@pytest.mark.parametrize("ends", [True, False])
async def test_a_policy_that_failed_is_not_in_force_later_whatever_became_of_the_machine(
    site: Site, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    async with site.supervisor():
        info: WorkspaceInfo = await site.create("one")

        async def bring_back(own: Any, *_arguments: object, **_options: object) -> None:
            if ends:
                site.qemu(info).dead.set()
                while own.machine is not None:
                    await trio.sleep(0.01)
            raise MachineFailed("It did not come up.")

        with monkeypatch.context() as patch:
            patch.setattr(policy, "bring_back", bring_back)
            with pytest.raises(MachineFailed):
                await site.tell("one", w.SetNetworkPolicy(allow_internet=True))
        found = await site.wait_for_state("one", "failed" if ends else "running")
        assert not found.network.allow_internet
        assert not site.record(info).allow_internet
        if not ends:
            await site.tell("one", w.SetNetworkPolicy(allow_internet=True))
            assert site.record(info).allow_internet
