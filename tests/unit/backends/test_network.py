"""What every network does, whichever it is.  A new one is added to `NETWORKS` and has to pass all of this."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from typing import Any

import pytest
import trio

from actors.machine import descriptors
from actors.machine.network.choice import networks
from actors.machine.network.none import NoNetwork
from actors.machine.network.protocol import NETDEV, Link, Network, Policy, Wanted
from actors.machine.network.user import UserNetwork
from actors.model import backends
from actors.model.names import new_id

NETWORKS: list[Callable[[], Network]] = [
    UserNetwork,
    NoNetwork,
]
CLOSED, OPEN = Policy(), Policy(allow_internet=True)


class Monitor:
    """A QEMU that forwards ports, and remembers what else it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.forwards: dict[int, int] = {}

    async def execute(self, command: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        if command != "human-monitor-command":
            self.told.append((command, arguments or {}))
            return {}
        return {"return": self._answer((arguments or {})["command-line"])}

    def _answer(self, line: str) -> str:
        if line == "info usernet":
            return "".join(
                f"  TCP[HOST_FORWARD]  19  127.0.0.1 {host} 10.0.2.15 {guest} 0 0\r\n"
                for host, guest in self.forwards.items()
            )
        host, guest = re.findall(r":(\d+)(?:-\S+:(\d+))?$", line)[0]
        if line.startswith("hostfwd_add"):
            self.forwards[int(host)] = int(guest)
            return ""
        return "removed" if self.forwards.pop(int(host), None) else "not found"


@pytest.fixture(params=NETWORKS, ids=lambda make: make().name)
def make(request: pytest.FixtureRequest) -> Callable[[], Network]:
    """Return what makes the network of one supervisor."""
    found: Callable[[], Network] = request.param
    return found


@pytest.fixture
def network(make: Callable[[], Network]) -> Network:
    return make()


def wanted(policy: Policy = CLOSED, last: int = 1) -> Wanted:
    return Wanted(new_id(), f"52:54:00:00:00:{last:02x}", policy)


async def done_with(network: Network, *links: Link) -> None:
    for link in links:
        for fd in link.descriptors.values():
            os.close(fd)
        await network.release(link)


def test_every_network_is_known_by_its_name_and_passes_these_tests() -> None:
    assert networks().names == backends.NETWORKS == tuple(make().name for make in NETWORKS)


def test_what_check_shows_of_it_says_why(network: Network) -> None:
    found = network.probe()
    assert network.name in found.name
    assert found.verdict
    assert found.reason


async def test_a_link_is_what_the_guest_sees_and_the_hosts_end_of_it(network: Network) -> None:
    asked = wanted()
    link = await network.plan(asked)
    devices = network.devices(asked.mac)
    assert link.machine == asked.machine
    assert link.arguments[len(link.arguments) - len(devices) :] == devices
    assert devices.count("-device") == len(devices) / 2 == network.wired
    assert all(asked.mac in words for words in devices[1::2])
    assert (link.identity is not None) is network.wired
    if link.identity:
        assert link.identity.mac == asked.mac
        assert link.identity.address == network.address(link.facts)
    await done_with(network, link)


async def test_what_the_guest_sees_is_the_same_under_every_policy_and_supervisor(make: Callable[[], Network]) -> None:
    assert make().devices("mac") == make().devices("mac")
    network = make()
    links = [await network.plan(wanted(policy)) for policy in (CLOSED, OPEN)]
    assert len({link.arguments[-2:] for link in links}) == 1
    await done_with(network, *links)


async def test_the_descriptors_of_a_link_are_open_and_have_numbers_of_the_networks_own(network: Network) -> None:
    links = [await network.plan(wanted(last=last)) for last in (1, 2)]
    for link in links:
        assert all(number >= descriptors.NETWORK for number in link.descriptors)
        assert all(f"={number}" in " ".join(link.arguments) for number in link.descriptors)
        for fd in link.descriptors.values():
            os.fstat(fd)
    ours = [fd for link in links for fd in link.descriptors.values()]
    assert len(set(ours)) == len(ours)
    await done_with(network, *links)


async def test_a_later_supervisor_adopts_a_link_by_its_facts(make: Callable[[], Network]) -> None:
    asked = wanted()
    link = await make().plan(asked)
    facts = json.loads(json.dumps(link.facts))
    later = make()
    adopted = await later.adopt(asked, facts)
    assert (adopted.machine, adopted.identity, adopted.facts) == (link.machine, link.identity, link.facts)
    await done_with(later, link)


async def test_what_is_released_is_owned_no_more_and_releasing_it_again_does_nothing(
    make: Callable[[], Network],
) -> None:
    network = make()
    kept, gone = [await network.plan(wanted(last=last)) for last in (1, 2)]
    before = {link.machine for link in await network.owned()}
    assert before in (set(), {kept.machine, gone.machine})
    await done_with(network, gone)
    await network.release(gone)
    # Also another supervisor, which has no record of it, finds what is there and nothing else.
    assert {link.machine for link in await make().owned()} == before - {gone.machine}
    await done_with(network, kept)
    assert await network.owned() == ()


async def test_a_plan_that_is_cancelled_leaves_nothing(network: Network) -> None:
    with trio.CancelScope() as scope:
        scope.cancel(reason="the start was given up")
        await done_with(network, await network.plan(wanted()))
    assert await network.owned() == ()


async def test_a_policy_is_in_force_at_once_or_nothing_has_changed(network: Network) -> None:
    monitor, link = Monitor(), await network.plan(wanted())
    if not await network.apply_policy(monitor, link, OPEN):
        assert monitor.told == []
        assert monitor.forwards == {}
    await done_with(network, link)


async def test_a_guest_without_an_interface_has_nothing_that_could_be_allowed(network: Network) -> None:
    monitor, link = Monitor(), await network.plan(wanted())
    if not network.wired:
        assert network.forwards is None
        assert not network.inter_vm
        assert await network.apply_policy(monitor, link, OPEN)
    await done_with(network, link)


async def test_a_guest_is_cut_off_by_its_own_device_alone(network: Network) -> None:
    monitor, link = Monitor(), await network.plan(wanted())
    await network.cut_off(monitor, link)
    assert all(arguments.get("name") == NETDEV for command, arguments in monitor.told if command == "set_link")
    await done_with(network, link)


async def test_a_forward_is_there_from_when_it_is_added_until_it_is_removed(network: Network) -> None:
    monitor, link = Monitor(), await network.plan(wanted())
    if (forwards := network.forwards) is not None:
        await forwards.add(monitor, link, guest_port=80, host_port=40001)
        await forwards.add(monitor, link, guest_port=5432, host_port=40002)
        assert await forwards.present(monitor, link) == {40001: 80, 40002: 5432}
        await forwards.remove(monitor, link, 40001)
        await forwards.remove(monitor, link, 40001)
        assert await forwards.present(monitor, link) == {40002: 5432}
        await forwards.remove(monitor, link, 40002)
    await done_with(network, link)
