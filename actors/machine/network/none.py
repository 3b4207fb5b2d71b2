"""No network at all: the guest has no interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from actors.machine.network.protocol import Link, Monitor, Policy, Wanted
from actors.model.host_check import ProbeResult


class NoNetwork:
    """Makes nothing, so that there is nothing to find again or to take away."""

    name: Final = "none"
    wired: Final = False
    inter_vm: Final = False
    forwards: Final = None

    def probe(self) -> ProbeResult:
        """Return that it works."""
        return ProbeResult("network none", True, "works everywhere", "machines without an interface")

    def devices(self, mac: str, *, announces: bool = False) -> tuple[str, ...]:  # noqa: ARG002 - there is none
        """Return no device."""
        return ()

    def address(self, facts: Mapping[str, str]) -> str | None:  # noqa: ARG002 - there is none
        """Return ``None``."""
        return None

    async def plan(self, wanted: Wanted) -> Link:
        """Return a link without anything."""
        return Link(wanted.machine)

    async def adopt(self, wanted: Wanted, facts: Mapping[str, str]) -> Link:  # noqa: ARG002 - there are none
        """Return the same."""
        return Link(wanted.machine)

    async def apply_policy(self, monitor: Monitor, link: Link, policy: Policy) -> bool:  # noqa: ARG002
        """Return ``True``: nothing gets through under any policy."""
        return True

    async def cut_off(self, monitor: Monitor, link: Link) -> None:
        """Do nothing: there is nothing to cut."""

    async def owned(self) -> tuple[Link, ...]:
        """Return nothing."""
        return ()

    async def release(self, link: Link) -> None:
        """Do nothing."""
