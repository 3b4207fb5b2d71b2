"""The forwarded ports of a workspace: ports of the host's loopback address that lead to ports of its guest."""

from __future__ import annotations

from actors.model.info import PortForward
from actors.workspace import messages as w


class Ports:
    """``workspace.ports``.

    A forward belongs to the workspace: it is there again after a restore, a resume, a start, and when another
    supervisor takes over.  Forks do not inherit it.
    """

    def __init__(self, ref: w.WorkspaceRef) -> None:
        self._ref = ref

    async def forward(self, guest_port: int, host_port: int | None = None) -> PortForward:
        """Forward ``127.0.0.1:host_port`` of the host, a free port if left out, to a port of the guest.

        The guest's server has to listen on the guest's address or on all of them: one that listens on 127.0.0.1
        only is not reached.

        Raises:
            PortTaken: somebody else has the host port.
            InvalidArgument: a port is out of range or forwarded otherwise, or the workspace has no network.

        """
        return await self._ref.ask(w.AddForward(guest_port, host_port))

    async def remove(self, guest_port: int) -> PortForward:
        """Forward to a port of the guest no longer, and return what the forward was.

        Its ``fault`` says so if the host's port is not closed yet.
        """
        return await self._ref.ask(w.RemoveForward(guest_port))

    async def list(self) -> tuple[PortForward, ...]:
        """Return the forwards, those that do not work with the reason in ``fault``."""
        found: tuple[PortForward, ...] = (await self._ref.ask(w.Describe())).network.port_forwards
        return found
