"""The channel to a guest that nobody has called yet: it is broken, and made anew by whoever needs it."""

from __future__ import annotations

from typing import NoReturn

import trio

from actors.machine.guest.client import GuestClient


def absent(nursery: trio.Nursery) -> GuestClient:
    """Return such a channel."""
    client = GuestClient(_Nowhere(), nursery)
    client.give_up("nobody has called it yet")
    return client


class _Nowhere(trio.abc.Stream):
    """A stream that is closed."""

    async def send_all(self, data: object) -> NoReturn:  # noqa: ARG002
        await self._refuse()

    async def wait_send_all_might_not_block(self) -> NoReturn:
        await self._refuse()

    async def receive_some(self, max_bytes: int | None = None) -> NoReturn:  # noqa: ARG002
        await self._refuse()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    async def _refuse(self) -> NoReturn:
        await trio.lowlevel.checkpoint()
        raise trio.ClosedResourceError
