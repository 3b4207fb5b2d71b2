"""The agent's end of a virtio-serial port or socket: resynchronisation, frames, a bounded queue of output.

A virtio-serial port reads as ended while no host is connected, which means "wait", not "over", and is ready all that
time: so its changes are waited for (virtio_console.c wakes the port's queue when the host opens or closes it).
"""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import select
import selectors
from typing import Final

from guest.handshake import NONCE_BYTES, SyncScanner, echo
from guest.wire import Codec, Event, encode

READ_BYTES: Final = 256 * 1024
HIGH_WATER_BYTES: Final = 256 * 1024
"""With this much output queued, nobody may queue more until the host has read some."""
PORT_BYTES: Final = 4096
"""virtio_console gives out no more than this in one read."""
WRITE_BYTES: Final = 32 * 1024
"""virtio_console takes no more than this in one write."""


class Link:
    """One channel to the host."""

    def __init__(self, fd: int | None, key: bytes, selector: selectors.BaseSelector, *, ends: bool) -> None:
        """With ``fd`` of ``None`` nobody is connected until `take_over`."""
        self.fd = -1 if fd is None else fd
        self.ends = ends
        """Whether end of input is the end of this link, as with a socket."""
        self.over = fd is None
        self.strange_bytes = 0
        """How much has come since the last resynchronisation, or without any."""
        self.host_nonce = b""
        self.guest_nonce = b""
        self.authenticated = False
        self._scanner = SyncScanner(key)
        self._codec = Codec()
        self._selector = selector
        self._out = bytearray()
        self._events = 0
        self._changes: select.epoll | None = None
        """While no host is connected: tells of the port's next change."""
        if fd is not None:
            os.set_blocking(fd, False)
            self._watch(selectors.EVENT_READ)

    def set_key(self, key: bytes) -> None:
        """Use a key from the next resynchronisation on."""
        self._scanner.set_key(key)

    def prepare(self) -> None:
        """Be ready for a new connection: what is checkpointed now starts with one."""
        self._scanner.prepare()

    @property
    def has_room(self) -> bool:
        """Whether more output may be queued."""
        return len(self._out) < HIGH_WATER_BYTES

    def receive(self) -> bool:
        """Read once; return whether a host has (re)connected, which voids all that was under way."""
        if self._changes:
            self._changes.poll(0)
        try:
            data = self._read()
        except BlockingIOError:
            self._watch_as_needed()
            return False
        except OSError:
            data = b""
        if not data:
            self.over = self.ends
            if self.over:
                self._watch(0)
            elif self._changes is None:
                self._await_change()
            return False
        self._watch_as_needed()
        found = self._scanner.feed(data)
        if found is None:
            self.strange_bytes += len(data)
            self._codec.receive_data(data)
            return False
        self._codec = Codec()
        self._codec.receive_data(found[1])
        self.host_nonce, self.guest_nonce = found[0], secrets.token_bytes(NONCE_BYTES)
        self.authenticated, self.strange_bytes = False, 0
        self._out = bytearray(echo(self.host_nonce, self.guest_nonce))
        self.flush()
        return True

    def _read(self) -> bytes:
        """Read what is there, which a port gives out by the page; most often a page holds it all."""
        data = os.read(self.fd, PORT_BYTES)
        if len(data) < PORT_BYTES:
            return data
        pieces, size = [data], len(data)
        with contextlib.suppress(BlockingIOError):
            while data and size < READ_BYTES:
                data = os.read(self.fd, READ_BYTES)
                pieces.append(data)
                size += len(data)
        return b"".join(pieces)

    def take_over(self, other: Link) -> None:
        """Go on as the connection of another link, which is of no use afterwards."""
        self.close()
        events = other._events
        other._watch(0)
        self.fd, self.over, other.fd, other.over = other.fd, other.over, -1, True
        self.host_nonce, self.guest_nonce, self.authenticated = other.host_nonce, other.guest_nonce, False
        self._scanner, self._codec, self._out = other._scanner, other._codec, other._out
        self._watch(events)

    def close(self) -> None:
        """End the connection, if there is one."""
        self._watch(0)
        self._out.clear()
        self.over = True
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def next_event(self) -> Event | None:
        """Return the next event of this connection; see `Codec.next_event`."""
        return self._codec.next_event()

    def drop(self) -> None:
        """Forget the present connection after a protocol error; the host has to begin anew."""
        self._codec = Codec()
        self.authenticated = False

    def send(self, event: Event) -> None:
        """Queue an event and write what can be written now."""
        self._out += encode(event)
        self.flush()

    def flush(self) -> None:
        """Write what can be written now."""
        while self._out:
            try:
                written = os.write(self.fd, self._out[:WRITE_BYTES])
            except BlockingIOError:
                break
            except OSError:
                self._out.clear()
                break
            del self._out[:written]
        self._watch_as_needed()

    def _watch_as_needed(self) -> None:
        self._watch(selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0))

    def _await_change(self) -> None:
        self._watch(0)
        self._changes = select.epoll()
        self._changes.register(self.fd, select.EPOLLIN | select.EPOLLET)
        self._selector.register(self._changes, selectors.EVENT_READ, self)

    def _watch(self, events: int) -> None:
        if self._changes:
            self._selector.unregister(self._changes)
            self._changes.close()
            self._changes = None
        if events == self._events:
            return
        if not self._events:
            self._selector.register(self.fd, events, self)
        elif not events:
            self._selector.unregister(self.fd)
        else:
            self._selector.modify(self.fd, events, self)
        self._events = events


def find_port(name: str) -> str:
    """Return the device of a named virtio-serial port.

    Raises:
        FileNotFoundError: there is none.

    """
    for path in glob.glob("/sys/class/virtio-ports/*/name"):
        with open(path) as file:
            if file.read().strip() == name:
                return "/dev/" + path.split("/")[-2]
    raise FileNotFoundError(f"no virtio-serial port is named {name}")
