"""Bundles: a checkpoint as one stream, to be carried to another host.

A bundle is a tar archive whose members come in a fixed order, so that it is written and read in one pass and constant
memory: ``manifest.json``, the disk's layers from the bottom, the memory's data without its holes, the device state,
and last ``digests.json`` with the SHA-256 of all the others.  It is read by these functions alone: a member has to be
the one that is expected, by name, kind and size, and no name in it ever becomes a path.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import attrs
import cattrs

from actors.machine.storage import extents
from actors.model.errors import AgentisoError, RemoteProtocolError
from actors.model.info import Shape
from actors.model.machine import Fingerprint
from guest.untrusted import MALFORMED, parse

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
DIGESTS: Final = "digests.json"
RAM: Final = "ram"
DEVICES: Final = "devices"
BLOCK: Final = tarfile.BLOCKSIZE
PIECE_BYTES: Final = 1024 * 1024
MAX_JSON_BYTES: Final = 16 * 1024 * 1024
MAX_LAYERS: Final = 1000

Tick = Callable[[int], None]
"""Called with the number of bytes since the last call; raises to give up."""


class BadBundle(AgentisoError):
    """A file is not a bundle, is damaged, or asks for what no bundle may have."""

    code = "bad_bundle"
    usual_remedy = "Export it once more; this file is damaged, or is none of agentiso's."


@attrs.frozen
class Memory:
    """The memory of a bundle."""

    fingerprint: Fingerprint
    key: str = attrs.field(repr=False)
    nonce: str
    processes_held: bool
    ram_bytes: int
    extents: tuple[tuple[int, int], ...]
    devices_bytes: int

    @property
    def data_bytes(self) -> int:
        """How much of the memory is data."""
        return sum(length for _, length in self.extents)


@attrs.frozen
class Manifest:
    """What a bundle holds."""

    format: int
    name: str
    """Of the workspace it was made of."""
    image: str
    image_digest: str
    shape: Shape
    network: str
    channel: str
    created_at: float
    disk_bytes: int
    layers: tuple[int, ...]
    """Sizes of the disk's layers, from the bottom, in bytes."""
    memory: Memory | None

    @property
    def total_bytes(self) -> int:
        """How much data there is beside the manifest."""
        memory = self.memory.data_bytes + self.memory.devices_bytes if self.memory else 0
        return sum(self.layers) + memory


_converter = cattrs.Converter(forbid_extra_keys=True)


def layer_name(number: int) -> str:
    """Return the member's name of a layer."""
    return f"layers/{number}.qcow2"


class BundleWriter:
    """Writes members one after the other."""

    def __init__(self, write: Callable[[bytes], Any], tick: Tick) -> None:
        self._write = write
        self._tick = tick
        self._digests: dict[str, str] = {}

    def add(self, name: str, size_bytes: int, pieces: Iterable[bytes]) -> None:
        """Write a member of exactly that size."""
        header = tarfile.TarInfo(name)
        header.size, header.mode = size_bytes, 0o600
        self._write(header.tobuf(tarfile.GNU_FORMAT))
        digest, written = hashlib.sha256(), 0
        for piece in pieces:
            self._write(piece)
            digest.update(piece)
            written += len(piece)
            self._tick(len(piece))
        if written != size_bytes:
            raise BadBundle(f"{name} has {written} bytes and not the {size_bytes} that it had a moment ago.")
        self._write(bytes(-size_bytes % BLOCK))
        self._digests[name] = digest.hexdigest()

    def add_manifest(self, manifest: Manifest) -> None:
        """Write the first member."""
        text = json.dumps(_converter.unstructure(manifest)).encode()
        if len(text) > MAX_JSON_BYTES:
            raise BadBundle("The memory is too scattered to be described.", remedy="Export the disk alone.")
        self.add(MANIFEST, len(text), [text])

    def finish(self) -> None:
        """Write the digests and the end of the archive."""
        text = json.dumps(self._digests).encode()
        self.add(DIGESTS, len(text), [text])
        self._write(bytes(2 * BLOCK))


class BundleReader:
    """Reads members in the order in which they have to come."""

    def __init__(self, read: Callable[[int], bytes | None], tick: Tick) -> None:
        self._read = read
        self._tick = tick
        self._digests: dict[str, str] = {}

    def manifest(self) -> Manifest:
        """Read the first member.

        Raises:
            BadBundle: this is no bundle, or one of another format.

        """
        raw = self._json(MANIFEST)
        if raw.get("format") != FORMAT:
            raise BadBundle(f"The bundle has format {raw.get('format')!r}; this agentiso reads {FORMAT}.")
        try:
            manifest = _converter.structure(raw, Manifest)
            if manifest.memory:
                extents.check(manifest.memory.extents, manifest.memory.ram_bytes)
                bytes.fromhex(manifest.memory.key + manifest.memory.nonce)
        except (*MALFORMED, cattrs.BaseValidationError, RemoteProtocolError) as error:
            raise BadBundle(f"The bundle's manifest is malformed: {error}.") from error
        if not 0 < len(manifest.layers) <= MAX_LAYERS or min(manifest.layers) < 0:
            raise BadBundle(f"The bundle has {len(manifest.layers)} disk layers; 1 to {MAX_LAYERS} are allowed.")
        return manifest

    def member(self, name: str, size_bytes: int) -> Iterator[bytes]:
        """Yield the pieces of the next member, which has to be this one.

        Raises:
            BadBundle: it is another, or the file ends within it.

        """
        if self._header(name) != size_bytes:
            raise BadBundle(f"{name} has not the size that the bundle's manifest says.")
        return self._pieces(name, size_bytes)

    def finish(self) -> None:
        """Compare the digests of everything that was read; raise `BadBundle` unless all are right."""
        found = dict(self._digests)
        promised = self._json(DIGESTS)
        if promised != found:
            wrong = sorted(name for name in found.keys() | promised.keys() if found.get(name) != promised.get(name))
            raise BadBundle(
                f"The bundle is damaged: {', '.join(wrong)[:500]} is not what was written.",
                remedy="Copy or export it again.",
            )

    def _json(self, name: str) -> dict[str, Any]:
        size_bytes = self._header(name)
        if size_bytes > MAX_JSON_BYTES:
            raise BadBundle(f"{name} is larger than {MAX_JSON_BYTES} bytes.")
        try:
            value = parse(b"".join(self._pieces(name, size_bytes)))
        except ValueError as error:
            raise BadBundle(f"{name} is not JSON.") from error
        if not isinstance(value, dict):
            raise BadBundle(f"{name} is not a JSON object.")
        return value

    def _header(self, name: str) -> int:
        try:
            header = tarfile.TarInfo.frombuf(self._exactly(BLOCK, name), "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise BadBundle(f"This is no bundle, or it is damaged before {name}: {error}.") from error
        if header.name != name or header.type != tarfile.REGTYPE or header.size < 0:
            raise BadBundle(f"The bundle has {header.name[:100]!r} where {name} has to be.")
        return header.size

    def _pieces(self, name: str, size_bytes: int) -> Iterator[bytes]:
        digest, left = hashlib.sha256(), size_bytes
        while left:
            piece = self._exactly(min(PIECE_BYTES, left), name)
            digest.update(piece)
            left -= len(piece)
            self._tick(len(piece))
            yield piece
        self._exactly(-size_bytes % BLOCK, name)
        self._digests[name] = digest.hexdigest()

    def _exactly(self, count: int, name: str) -> bytes:
        data = bytearray()
        while len(data) < count:
            more = self._read(count - len(data))
            if not more:
                raise BadBundle(f"The bundle ends within {name}.", remedy="Copy or export it again.")
            data += more
        return bytes(data)
