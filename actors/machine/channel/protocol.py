"""What every channel does: how QEMU and the guest's kernel are told of it, and how the guest's agent is reached."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import trio

from actors.model.host_check import ProbeResult


class Endpoint(Protocol):
    """The channel of one machine."""

    @property
    def name(self) -> str:
        """The channel's name, by which the guest's agent knows it too."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """QEMU's arguments."""

    @property
    def socket(self) -> Path | None:
        """Where somebody has to listen for QEMU, which inherits that as `descriptors.CHANNEL`; ``None`` for nowhere."""

    @property
    def cid(self) -> int | None:
        """The machine's context id of vsock, written down with the machine; ``None`` where it has none."""

    @property
    def dialled(self) -> bool:
        """Whether the agent has to be called until it answers, since nobody says that it is there."""

    @property
    def tries(self) -> int:
        """How often a connection is made before it is given up: the first ones may break at once."""

    async def connect(self) -> trio.abc.Stream:
        """Connect to the guest's agent; the caller bounds the wait.

        Raises:
            OSError: nobody is there, where nobody has to be called, or the host has no room for a connection.
            HostUnfit: this host cannot reach it.

        """

    def presence(self, event: str, data: Mapping[str, Any]) -> bool | None:
        """Return what an event of QEMU's says of the agent: it is there, it is not, or nothing."""


class Channel(Protocol):
    """A kind of channel."""

    @property
    def name(self) -> str:
        """By which settings and records know it."""

    def probe(self) -> ProbeResult:
        """Look whether this host has what it needs."""

    def open(self, directory: Path) -> Endpoint:
        """Return the channel of a machine that is about to be started, whose files are in ``directory``."""

    def adopt(self, directory: Path, cid: int | None) -> Endpoint:
        """Return the channel of a machine that an earlier supervisor started.

        Without the ``cid`` that such a machine needs, it is that of no machine in particular, and cannot be reached.
        """
