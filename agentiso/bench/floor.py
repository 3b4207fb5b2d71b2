"""The floor: a bare script that drives the same QEMU, kernel, image and channel with nothing in the way.

Blocking sockets, no actors, no records, no identity, no evidence: what is left is what QEMU and the guest themselves
take.  It is not a way to run anything.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import time
from pathlib import Path
from typing import IO, Any, Final

from actors.machine import descriptors
from actors.machine.qemu import command_line
from actors.machine.qemu.command_line import ROOT_DEVICE, MachineSpec
from actors.machine.qemu.process import QemuProcess
from actors.machine.storage import ram_image
from actors.machine.storage.checkpoint import Checkpoint
from actors.machine.storage.qcow2 import create_overlay
from actors.runtime import unix_sockets
from guest.handshake import NONCE_BYTES, EchoScanner, proof, token
from guest.wire import DATA_CHUNK_BYTES, FILE_STREAM, PROTOCOL_VERSION, Codec, Data, Message, encode

LIMIT_S: Final = 120.0
RECEIVE_BYTES: Final = 256 * 1024


class BareMachine:
    """One QEMU, driven by hand."""

    def __init__(self, spec: MachineSpec, key: bytes, state: Path | None) -> None:
        self.spec = spec
        self._key = key
        self._codec = Codec()
        self._lines = b""
        self._request_id = 0
        self._qmp: socket.socket | None = None
        spec.directory.mkdir(parents=True)
        paths = [spec.directory / name for name in (unix_sockets.QMP, unix_sockets.CHANNEL)]
        listeners = [unix_sockets.listen(path) for path in paths]
        self._streams = [unix_sockets.connect(path) for path in paths]
        for stream in self._streams:
            stream.settimeout(LIMIT_S)
        console, state_file = spec.console_log.open("ab"), state.open("rb") if state else None
        files: dict[int, socket.socket | IO[bytes]] = {
            descriptors.QMP: listeners[0],
            descriptors.CHANNEL: listeners[1],
            descriptors.CONSOLE: console,
            **({descriptors.STATE: state_file} if state_file else {}),
        }
        handed = {number: file.fileno() for number, file in files.items()}
        if not state_file:
            spec.key_file.write_bytes(key)
            ram_image.create_zero(spec.ram, spec.shape.memory_mb * 2**20)
        argv = command_line.build(spec, restoring=state is not None)
        self.process = QemuProcess.spawn(argv, uuid=spec.uuid, log=spec.qemu_log, descriptors=handed)
        for file in files.values():
            file.close()

    def exec_true(self) -> None:
        """Run ``true`` and wait for its end; the first time the channel is opened."""
        if not self._request_id:
            self._open_channel()
        self._call({"op": "exec", "command": "true", "timeout_s": 60})

    def exec(self, command: str) -> None:
        """Run a command and wait for its end."""
        self._call({"op": "exec", "command": command, "timeout_s": 60})

    def write_file(self, path: str, content: bytes) -> None:
        """Write a file with the frames that agentiso uses."""
        self._request_id += 1
        body = {"op": "file_write", "path": path, "mode": 0o644, "id": self._request_id}
        self._streams[1].sendall(encode(Message(body)))
        for start in range(0, len(content), DATA_CHUNK_BYTES):
            self._send_data(content[start : start + DATA_CHUNK_BYTES])
        self._send_data(b"")
        self._answer()

    def read_file(self, path: str) -> None:
        """Read a file and drop it."""
        self._call({"op": "file_read", "path": path, "offset": 0, "limit": None})

    def _send_data(self, payload: bytes) -> None:
        self._streams[1].sendall(encode(Data(self._request_id, FILE_STREAM, payload)))

    def _open_channel(self) -> None:
        stream, nonce = self._streams[1], secrets.token_bytes(NONCE_BYTES)
        stream.sendall(token(self._key) + nonce)
        scanner = EchoScanner(nonce)
        while (found := scanner.feed(self._receive(stream))) is None:
            pass
        self._codec.receive_data(found[1])
        shown = proof(self._key, b"host", nonce, found[0])
        self._call({"op": "hello", "version": PROTOCOL_VERSION, "proof": shown})
        # What was restored stands still until then.
        self._call({"op": "release", "time_ns": time.time_ns()})

    def _call(self, body: dict[str, Any]) -> None:
        self._request_id += 1
        self._streams[1].sendall(encode(Message({**body, "id": self._request_id})))
        self._answer()

    def _answer(self) -> None:
        while True:
            while (event := self._codec.next_event()) is None:
                self._codec.receive_data(self._receive(self._streams[1]))
            if isinstance(event, Message) and event.body.get("id") == self._request_id:
                if "error" in event.body:
                    raise RuntimeError(f"The bare machine refused: {event.body['error']}")
                return

    def _receive(self, stream: socket.socket) -> bytes:
        data = stream.recv(RECEIVE_BYTES)
        if not data:
            raise RuntimeError(f"The bare machine ended: {self.spec.qemu_log.read_text()}")
        return data

    def qmp(self, command: str, **arguments: Any) -> None:
        """Run a QMP command; the first time QEMU's greeting is answered."""
        if self._qmp is None:
            self._qmp = self._streams[0]
            self._qmp_line()
            self.qmp("qmp_capabilities")
        self._qmp.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while not {"return", "error"} & (answer := self._qmp_line()).keys():
            pass
        if "error" in answer:
            raise RuntimeError(f"{command}: {answer['error']}")

    def _qmp_line(self) -> dict[str, Any]:
        while b"\n" not in self._lines:
            self._lines += self._receive(self._streams[0])
        line, _, self._lines = self._lines.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def checkpoint(self, directory: Path, next_layer: Path, disk_bytes: int) -> float:
        """Save memory and devices to ``directory`` and put the disk on a new layer; return the pause in seconds."""
        directory.mkdir(parents=True)
        ram_image.copy_sparse(self.spec.ram, directory / "ram")
        create_overlay(next_layer, backing=self.spec.disk, backing_format="qcow2", virtual_size_bytes=disk_bytes)
        with (directory / "ram").open("r+b") as target:
            memory = ram_image.ChangedMemory(self.process.pid, self.spec.ram, target.fileno())
            began = time.perf_counter()
            self.qmp("stop")
            self.qmp("xen-save-devices-state", filename=str(directory / "devices"), live=False)
            memory.read()
            arguments = {"device": ROOT_DEVICE, "snapshot-file": str(next_layer), "format": "qcow2"}
            self.qmp("blockdev-snapshot-sync", **arguments, mode="existing")
            self.qmp("cont")
            seconds = time.perf_counter() - began
            memory.write()
            memory.__exit__()
            return seconds

    def end(self) -> None:
        """Kill it and remove its directory."""
        self.process.kill()
        os.waitpid(self.process.pid, 0)
        self.process.release()
        for stream in self._streams:
            stream.close()
        shutil.rmtree(self.spec.directory)


def restore(spec: MachineSpec, checkpoint: Checkpoint, layer: Path, state: Path) -> BareMachine:
    """Start a machine from a checkpoint on a new layer over ``layer``."""
    create_overlay(spec.disk, backing=layer, backing_format="qcow2", virtual_size_bytes=checkpoint.disk_bytes)
    return BareMachine(spec, bytes.fromhex(checkpoint.key), state)


def boot(spec: MachineSpec, disk_bytes: int) -> BareMachine:
    """Boot a machine cold on a new layer over the image's root disk."""
    create_overlay(spec.disk, backing=spec.image.root, backing_format="raw", virtual_size_bytes=disk_bytes)
    return BareMachine(spec, secrets.token_bytes(32), None)
