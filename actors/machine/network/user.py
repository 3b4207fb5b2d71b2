"""QEMU's user network (slirp): needs no privilege, and each guest is alone on a network inside its own QEMU process.

It is told at its start whether it may reach the internet, so that another policy takes another machine.
Source: QEMU manual, -netdev user.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from actors.machine.network.hostfwd import HostForwards
from actors.machine.network.protocol import INTERFACE, NETDEV, Link, Monitor, NetworkIdentity, Policy, Wanted
from actors.model.host_check import ProbeResult

GUEST_ADDRESS: Final = "10.0.2.15"
"""The guest's address on its own slirp network, which no other machine shares."""
PREFIX: Final = 24
GATEWAY: Final = "10.0.2.2"
RESOLVER: Final = "10.0.2.3"


class UserNetwork:
    """All that it makes is inside of QEMU and ends with it."""

    name: Final = "user"
    wired: Final = True
    inter_vm: Final = False

    def __init__(self) -> None:
        self.forwards: Final = HostForwards()

    def probe(self) -> ProbeResult:
        """Return that it works."""
        return ProbeResult("network user", True, "works everywhere", "QEMU's own (slirp); no privilege needed")

    def devices(self, mac: str, *, announces: bool = False) -> tuple[str, ...]:
        """Return the guest's device."""
        silent = "" if announces else ",guest_announce=off"
        return ("-device", f"virtio-net-device,netdev={NETDEV},mac={mac}{silent}")

    def address(self, facts: Mapping[str, str]) -> str | None:  # noqa: ARG002 - it is always the same
        """Return the address that every guest has."""
        return GUEST_ADDRESS

    async def plan(self, wanted: Wanted) -> Link:
        """Return the link of a machine; there is nothing to make."""
        return self._link(wanted)

    async def adopt(self, wanted: Wanted, facts: Mapping[str, str]) -> Link:  # noqa: ARG002 - there are none
        """Return the same."""
        return self._link(wanted)

    def _link(self, wanted: Wanted) -> Link:
        restrict = "off" if wanted.policy.allow_internet else "on"
        return Link(
            wanted.machine,
            arguments=(
                "-netdev",
                f"user,id={NETDEV},ipv6=off,restrict={restrict}",
                *self.devices(wanted.mac, announces=wanted.announces),
            ),
            identity=NetworkIdentity(INTERFACE, wanted.mac, GUEST_ADDRESS, PREFIX, GATEWAY, (RESOLVER,)),
        )

    async def apply_policy(self, monitor: Monitor, link: Link, policy: Policy) -> bool:  # noqa: ARG002
        """Return ``False``."""
        return False

    async def cut_off(self, monitor: Monitor, link: Link) -> None:  # noqa: ARG002 - QEMU has only one
        """Unplug the guest's cable."""
        await monitor.execute("set_link", {"name": NETDEV, "up": False})

    async def owned(self) -> tuple[Link, ...]:
        """Return nothing: the host has nothing of it."""
        return ()

    async def release(self, link: Link) -> None:
        """Do nothing: it ended with QEMU."""
