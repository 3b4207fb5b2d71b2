"""Events of `guest.wire` over a byte stream: what the service ``live`` speaks once it has welcomed its client."""

from __future__ import annotations

from typing import Final

import trio

from guest.wire import Codec, Event, encode

RECEIVE_BYTES: Final = 65536


class Framed:
    """Sends and receives events; any number of tasks may send."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._codec = Codec()
        self._sending = trio.Lock()

    async def send(self, event: Event) -> None:
        """Send an event.

        Raises:
            BrokenResourceError: the peer has gone.

        """
        async with self._sending:
            await self._stream.send_all(encode(event))

    async def receive(self) -> Event | None:
        """Return the next event, or ``None`` once the peer has gone."""
        while (event := self._codec.next_event()) is None:
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._codec.receive_data(bytes(data))
        return event
