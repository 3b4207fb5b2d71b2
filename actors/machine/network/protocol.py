"""What every network backend does for a machine.

A backend belongs to one supervisor and may keep state, such as the addresses it has given out.  What it makes on the
host for a machine outlives that supervisor, and has a name by which a later one can tell that it is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import attrs

from actors.model.host_check import ProbeResult

NETDEV: Final = "net0"
"""QEMU's name of the machine's one network device."""
INTERFACE: Final = "eth0"
"""The guest's name of it."""


@attrs.frozen
class NetworkIdentity:
    """The addresses of the guest's one interface."""

    interface: str
    mac: str
    address: str
    prefix: int
    gateway: str
    dns: tuple[str, ...]


@attrs.frozen
class Policy:
    """What a network lets through."""

    allow_internet: bool = False
    allow_inter_vm: bool = False
    """Whether other workspaces may reach it."""


@attrs.frozen
class Wanted:
    """The machine that is to be connected."""

    machine: str
    """Its UUID, by which what is made for it is found again."""
    mac: str
    policy: Policy
    announces: bool = False
    """Whether the guest knows how to announce its address, as those of earlier releases do; see `Network.devices`."""


@attrs.frozen
class Link:
    """How one machine is connected."""

    machine: str = ""
    """The UUID of the machine."""
    arguments: tuple[str, ...] = ()
    """QEMU's, for the host's end and for the guest's device."""
    descriptors: Mapping[int, int] = attrs.field(factory=dict)
    """The number under which QEMU inherits each, and our own, which whoever starts QEMU closes after that."""
    identity: NetworkIdentity | None = None
    """What the guest is told; ``None`` where it has no interface."""
    facts: dict[str, str] = attrs.field(factory=dict)
    """What a later supervisor has to know to adopt it; written down with the machine."""


class Monitor(Protocol):
    """QEMU's control connection."""

    async def execute(self, command: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run a QMP command and return what it returns."""


class Forwards(Protocol):
    """Ports of the host's loopback whose connections reach a guest."""

    async def add(self, monitor: Monitor, link: Link, *, guest_port: int, host_port: int) -> None:
        """Forward a host port.

        Raises:
            PortTaken: nobody can listen on it.

        """

    async def remove(self, monitor: Monitor, link: Link, host_port: int) -> None:
        """Forward a host port no longer; no-op if it was not."""

    async def present(self, monitor: Monitor, link: Link) -> dict[int, int]:
        """Return what is forwarded: host port to guest port."""


class Network(Protocol):
    """A way to connect machines."""

    @property
    def name(self) -> str:
        """By which settings and records know it."""

    @property
    def wired(self) -> bool:
        """Whether its guests have an interface at all."""

    @property
    def inter_vm(self) -> bool:
        """Whether workspaces can be allowed to reach each other."""

    @property
    def forwards(self) -> Forwards | None:
        """How host ports are forwarded; ``None`` where they cannot be."""

    def probe(self) -> ProbeResult:
        """Look whether this host has what it needs."""

    def devices(self, mac: str, *, announces: bool = False) -> tuple[str, ...]:
        """Return QEMU's arguments for what the guest sees: the same for every host, and part of each `Link`'s.

        A guest that ``announces`` has a device that can ask it to send its address, which a restored one must not do:
        it is its parent's.  Only the device state of earlier releases needs such a one, whose QEMU (7.2) crashes when
        a restored guest resets it, as a reboot does.
        """

    def address(self, facts: Mapping[str, str]) -> str | None:
        """Return the address of a guest by its link's facts, as far as it is known."""

    async def plan(self, wanted: Wanted) -> Link:
        """Make on the host what a machine needs; if that fails or is cancelled, nothing of it is left."""

    async def adopt(self, wanted: Wanted, facts: Mapping[str, str]) -> Link:
        """Take up the link of a machine that an earlier supervisor started."""

    async def apply_policy(self, monitor: Monitor, link: Link, policy: Policy) -> bool:
        """Put a policy in force on a running machine, also for open connections.

        ``False``: only another machine can have it, and nothing was changed.
        """

    async def cut_off(self, monitor: Monitor, link: Link) -> None:
        """Let nothing through any more, in either direction, for as long as the machine runs."""

    async def owned(self) -> tuple[Link, ...]:
        """Return what this host has of this state directory's machines, found without any record."""

    async def release(self, link: Link) -> None:
        """Take away what was made for a machine, once its process has been reaped; no-op for what is gone."""
