"""The guest agent: one process, one selector loop, no threads.

It is a child of PID 1, reaps every orphan, outlives its host's connections, and answers each request by its id: small
replies at once, output and files in pieces as the host takes them.  A host's new connection voids what the old one
had under way; commands go on without an asker.  What a request does is in a module a noun: `jobs`, `transfers`,
`identity`; the table of handlers is here.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import gc
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from guest import filesystem
from guest.errors import ProtocolError
from guest.filework import InvalidRequest
from guest.handshake import proof, proves
from guest.identity import Guest
from guest.jobs import Jobs
from guest.link import Link, find_port
from guest.listener import Listener, listen_vsock
from guest.memory import Memory
from guest.starter import Starter
from guest.transfers import Transfers
from guest.untrusted import MALFORMED
from guest.wire import PROTOCOL_VERSION, Message

AGENT_VERSION: Final = "0.1.0"
PR_SET_CHILD_SUBREAPER: Final = 36
RB_AUTOBOOT: Final = 0x01234567
COLLECT_AFTER: Final = 20_000
"""Objects made before Python looks for cycles: hardly ever, and not in a restored guest's first moments."""
HELPERS: Final = ("search",)
"""Modules that run as programs of their own, since they may take long."""
ERROR_CODES: Final = {
    errno.ENOENT: "not_found",
    errno.ENOTDIR: "not_found",
    errno.EACCES: "permission_denied",
    errno.EPERM: "permission_denied",
    errno.EROFS: "permission_denied",
    errno.ENOSPC: "no_space",
    errno.EISDIR: "is_a_directory",
}


class Agent:
    """The state of the agent, and its loop."""

    def __init__(
        self,
        link: Link,
        key: bytes,
        selector: selectors.BaseSelector,
        *,
        nonce: str | None = None,
        generation: int = 0,
        listener: Listener | None = None,
        memory: Memory | None,
    ) -> None:
        self._link = link
        self._listener = listener
        self._key = key
        self._selector = selector
        self._guest = Guest() if memory else None
        self._memory = memory
        self._held = False
        """Whether the root file system takes no writes."""
        starter = Starter(wanted=memory is not None)
        self._groups = starter.groups
        self._jobs = Jobs(link, selector, starter, self._answer)
        self._jobs.began_anew = nonce is not None
        self._transfers = Transfers(link, self._attempt)
        self._nonce = nonce
        self._machine_id: str | None = None
        self._generation = generation
        self._handlers: dict[str, Callable[[int, dict[str, Any]], dict[str, Any] | None]] = {
            "ping": lambda _id, _body: {"uptime_s": time.monotonic()},
            "identify": self._identify,
            "freeze": self._freeze,
            "set_clock": self._set_clock,
            "release": self._release,
            **self._jobs.handlers,
            **self._transfers.handlers,
            "helper": self._helper,
            "grow_root": lambda _id, body: {"file_system_bytes": filesystem.grow(int(body["disk_bytes"]))},
            "sync": self._sync,
            "shutdown": self._shutdown,
        }

    # -- the loop

    def run(self) -> None:
        """Serve until the link is over, which for a virtio-serial port is never, nor while there is a listener."""
        wakeup, signalled = os.pipe()
        for end in (wakeup, signalled):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)
        _catch_signals()
        self._selector.register(wakeup, selectors.EVENT_READ, None)
        while not self._link.over or self._listener is not None:
            for selected, events in self._selector.select(self._pause_s()):
                # What came before it in this round may have closed the descriptor, or given its number to another.
                present = self._selector.get_map().get(selected.fd)
                if present is None or present.data is not selected.data:
                    continue
                if selected.data is None:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wakeup, 4096)
                self._on_ready(selected.data, selected.fd, events)
            self._jobs.check_deadlines()
            self._jobs.serve()
            self._transfers.produce()
            self._jobs.tidy()

    def _on_ready(self, owner: Any, fd: int, events: int) -> None:
        """Serve whoever registered a descriptor that is ready; nobody did for the signals'."""
        if owner is None:
            self._jobs.reap()
        elif owner is self._link:
            if events & selectors.EVENT_WRITE:
                self._link.flush()
            if events & selectors.EVENT_READ:
                self._receive()
        elif isinstance(owner, Listener):
            owner.accept(self._key)
        elif isinstance(owner, Link) and self._listener is not None:
            if self._listener.hear(owner, self._key):
                self._link.take_over(owner)
                self._forget_host()
                self._take_events()
        else:
            self._jobs.on_ready(owner, fd, events)

    def _pause_s(self) -> float | None:
        if self._transfers.ready:
            return 0
        deadline = self._jobs.next_deadline()
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def _receive(self) -> None:
        if self._link.receive() or self._link.over:
            self._forget_host()
        self._take_events()

    def _take_events(self) -> None:
        try:
            while (event := self._link.next_event()) is not None:
                if isinstance(event, Message):
                    self._handle(event.body)
                else:
                    self._transfers.take_data(event)
        except ProtocolError as error:
            print(f"agentiso-agent: {error}", flush=True)
            self._link.drop()
            self._forget_host()

    def _forget_host(self) -> None:
        self._jobs.forget_host()
        self._transfers.forget_host()

    # -- requests

    def _handle(self, body: dict[str, Any]) -> None:
        request_id, op = body.get("id"), body.get("op")
        if not isinstance(request_id, int) or not 0 < request_id < 2**32:
            raise ProtocolError(f"A request's id is {request_id!r}.")
        if op == "hello":
            self._hello(request_id, body)
            return
        if not self._link.authenticated:
            self._refuse(request_id, "unauthenticated", "the host has not proven itself")
            return
        handler = self._handlers.get(op) if isinstance(op, str) else None
        if handler is None:
            self._refuse(request_id, "invalid_request", f"unknown operation {op!r}")
            return
        self._attempt(request_id, lambda: handler(request_id, body))

    def _attempt(self, request_id: int, action: Callable[[], dict[str, Any] | None]) -> None:
        """Answer with what an action returns or raises; ``None`` means that the answer comes later."""
        try:
            result = action()
        except OSError as error:
            what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
            self._refuse(request_id, ERROR_CODES.get(error.errno or 0, "io_error"), what)
        except InvalidRequest as error:
            self._refuse(request_id, "invalid_request", str(error))
        except MALFORMED as error:
            self._refuse(request_id, "invalid_request", f"{type(error).__name__}: {error}")
        else:
            if result is not None:
                self._answer(request_id, result)

    def _answer(self, request_id: int, result: dict[str, Any]) -> None:
        self._link.send(Message({"id": request_id, "ok": result}))

    def _refuse(self, request_id: int, code: str, message: str) -> None:
        self._link.send(Message({"id": request_id, "error": {"code": code, "message": message[:4096]}}))

    def _hello(self, request_id: int, body: dict[str, Any]) -> None:
        link = self._link
        if not proves(self._key, b"host", link.host_nonce, link.guest_nonce, body.get("proof")):
            self._refuse(request_id, "unauthenticated", "the host's proof is wrong")
            link.drop()
            return
        link.authenticated = True
        system = os.uname()
        self._answer(
            request_id,
            {
                "version": PROTOCOL_VERSION,
                "agent_version": AGENT_VERSION,
                "arch": system.machine,
                "kernel": system.release,
                "proof": proof(self._key, b"guest", link.host_nonce, link.guest_nonce),
            },
        )

    def _identify(self, _request_id: int, body: dict[str, Any]) -> dict[str, Any]:
        reply: dict[str, Any] = {
            "failures": {},
            "rng_reseeded": False,
            "hostname": body["hostname"],
            "clock_step_s": 0,
            "hooks": [],
            "connections_closed": 0,
        }
        if self._guest:
            # Programs of the guest that run now may write to it.
            self._let_write()
            reply = self._guest.assume(body)
        reply["previous_nonce"], reply["generation"] = self._nonce, self._generation
        self._nonce, self._key = body["nonce"], bytes.fromhex(body["key"])
        if not body.get("rehearsal"):
            self._generation += 1
        if self._memory:
            self._memory.remember(self._key, body["nonce"], self._generation)
        self._link.set_key(self._key)
        if body["machine_id"] != self._machine_id:
            self._jobs.renew_ids()
            self._machine_id = body["machine_id"]
        reply["jobs"] = self._jobs.running()
        return reply

    def _freeze(self, _request_id: int, body: dict[str, Any]) -> dict[str, Any]:
        frozen = self._groups.freeze()
        if self._guest:
            self._guest.note_root()
        self._link.prepare()
        if frozen and body.get("write"):
            filesystem.write_out()
        if frozen and body.get("quiesce") and self._guest:
            filesystem.quiesce()
            self._held = True
        return {"frozen": frozen}

    def _let_write(self) -> None:
        if self._held:
            filesystem.thaw()
            self._held = False

    def _set_clock(self, _request_id: int, body: dict[str, Any]) -> dict[str, Any]:
        """Set the clock once more, now without delay."""
        if self._guest and body["time_ns"] is not None:
            time.clock_settime_ns(time.CLOCK_REALTIME, body["time_ns"])
        return {}

    def _release(self, request_id: int, body: dict[str, Any]) -> dict[str, Any]:
        """Set the clock, if a time is given, and let the commands run on."""
        self._set_clock(request_id, body)
        self._let_write()
        self._groups.thaw()
        return {}

    def _helper(self, _request_id: int, body: dict[str, Any]) -> dict[str, Any]:
        """Say how a program of the guest layer is started: as this one was, with another module."""
        if body.get("name") not in HELPERS:
            raise InvalidRequest(f"there is no helper {body.get('name')!r}")
        with open("/proc/self/cmdline", "rb") as file:
            words = [os.fsdecode(word) for word in file.read().split(b"\0")]
        home = os.environ.get("PYTHONHOME")
        return {
            "argv": [*words[: words.index("-m")], "-m", f"guest.{body['name']}"],
            "workdir": os.getcwd(),
            "env": {"PYTHONHOME": home} if home else {},
        }

    def _sync(self, _request_id: int, _body: dict[str, Any]) -> dict[str, Any]:
        os.sync()
        # Unlike that it says when the disk has not taken all of it.
        filesystem.write_out()
        return {}

    def _shutdown(self, request_id: int, _body: dict[str, Any]) -> dict[str, Any]:
        os.sync()
        if self._guest:
            self._answer(request_id, {})
            ctypes.CDLL(None).reboot(RB_AUTOBOOT)
        return {}


def _catch_signals() -> None:
    """Survive what PID 1 ignores too, but by handlers: a command inherits what is ignored, and no handler."""
    for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)


def _first_key(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _channel(chosen: argparse.Namespace, key: bytes, selector: selectors.BaseSelector) -> tuple[Link, Listener | None]:
    """Open the channel: a port or connection that is there, or a listener to which the host connects."""
    if chosen.channel in ("vsock", "listen"):
        listening = listen_vsock() if chosen.channel == "vsock" else socket.socket(fileno=chosen.fd)
        return Link(None, key, selector, ends=True), Listener(listening, selector)
    if chosen.channel == "fd":
        os.set_inheritable(chosen.fd, False)
        return Link(chosen.fd, key, selector, ends=True), None
    return Link(os.open(find_port(chosen.port_name), os.O_RDWR | os.O_CLOEXEC), key, selector, ends=False), None


def main() -> None:
    """Run the agent until its channel is over."""
    parser = argparse.ArgumentParser(prog="guest.agent")
    parser.add_argument("--channel", choices=("serial", "vsock", "fd", "listen"), default="serial")
    parser.add_argument("--port-name", default="agentiso.0")
    parser.add_argument("--fd", type=int, help="of a connection (fd) or of a listening socket (listen)")
    parser.add_argument("--key-file", required=True)
    parser.add_argument("--dry-identity", action="store_true", help="for tests: leave the system's identity alone")
    chosen = parser.parse_args()
    memory = None if chosen.dry_identity else Memory()
    if memory:
        # An earlier agent may have ended while it was held.
        filesystem.thaw()
    remembered = memory.recall() if memory else None
    key, nonce, generation = remembered or (_first_key(chosen.key_file), None, 0)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    selector = selectors.DefaultSelector()
    link, listener = _channel(chosen, key, selector)
    print("agentiso-agent: ready", flush=True)
    # What exists now lives as long as the agent: collecting it would only touch, and so copy, its memory.
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
    Agent(link, key, selector, nonce=nonce, generation=generation, listener=listener, memory=memory).run()


if __name__ == "__main__":
    main()
