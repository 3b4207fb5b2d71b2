"""Templates: checkpoints of freshly booted, ready guests, made on first use or ahead, and kept.

One per fingerprint: image, processors, memory, network, channel and QEMU build.  A workspace's disk may be larger than
its template's and is grown at its start, which under software emulation takes a tenth of a second.  So there is a
second template with the configured disk, for workspaces that have at least that, and a small one for the others.
Whoever needs one that is being made waits for it instead of making another.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import cattrs
import trio

from actors.machine import checkpoint as checkpoints
from actors.machine import proof, start
from actors.machine.proof import Persona
from actors.machine.storage import integrity
from actors.machine.storage.checkpoint import Checkpoint, layer_of
from actors.machine.storage.layers import Base
from actors.model.errors import AgentisoError, CheckpointUnusable, InvalidArgument, NotFound
from actors.model.files import read_json, replace_json, sweep_temporaries, temporary_of
from actors.model.image import BootImage
from actors.model.info import Shape, TemplateInfo, Trouble
from actors.model.machine import Fingerprint
from actors.model.names import new_id
from actors.model.text import shown
from actors.registry.troubles import Troubles
from actors.workspace.host import Host

TEMPLATE_MAC: Final = "52:54:00:00:00:01"
"""Of the guest that boots; every restore gets its own before its link comes up."""
GIB: Final = 2**30
UNREADABLE: Final = (OSError, ValueError, AgentisoError, cattrs.BaseValidationError)
"""What reading a template's record, or what that names, may raise."""
log = logging.getLogger("agentiso.registry")
REHEARSALS: Final = 10
"""More than CPython 3.11 needs before it has specialised code that runs again and again."""


@attrs.frozen
class _TemplateRecord:
    image: str
    """The name it was made under."""
    fingerprint: Fingerprint
    disk_bytes: int
    checkpoint: str


@attrs.frozen
class Wanted:
    """What a template is made for."""

    image: BootImage
    shape: Shape
    network: str
    channel: str


class Templates:
    """The templates of one supervisor."""

    def __init__(self, host: Host, troubles: Troubles) -> None:
        self._host = host
        self._troubles = troubles
        self._directory = host.state_dir / "templates"
        self._locks: dict[str, trio.Lock] = {}
        self._booting: set[Path] = set()
        """The directories of boots that are under way."""

    async def take_up(self) -> None:
        """Hold the checkpoints of all templates on disk, and forget those that are stale.

        What cannot be read is left alone, and told; a template whose checkpoint is not there is none.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            paths = sorted(self._directory.iterdir())
        except OSError as error:
            remedy = "Mend its disk or its rights; it is read again, and templates are made anew where they are needed."
            trouble = Trouble("the templates", str(self._directory), f"They cannot be listed: {error}.", remedy)
            self._troubles.add(trouble, self.take_up)
            return
        if not self._locks:
            # Nobody writes one yet.
            sweep_temporaries(self._directory)
        for path in paths:
            if path.name.startswith("boot-") and path not in self._booting:
                # Of a boot that its supervisor did not live to end; its machine was ended before.
                self._host.store.discard(path)
            if path.suffix == ".json":
                try:
                    await self._take_up_again(path)
                except OSError as error:
                    self._doubt(path, f"It cannot be taken up: {error}.")

    async def _take_up(self, path: Path) -> None:
        try:
            record = _read(path)
            if layer_of(self._host.store.checkpoint(record.checkpoint)) is None:
                self._forget(path)
                return
        except FileNotFoundError:
            # It was removed, or is made anew.
            self._forget(path)
            return
        except UNREADABLE as error:
            self._doubt(path, f"It cannot be read: {error}.")
            return
        self._host.store.hold(_owner(path), {record.checkpoint})
        if await self._is_outdated(record):
            self._forget(path)

    def _doubt(self, path: Path, why: str) -> None:
        """Leave a template alone, tell of it, and take it up, or forget it, when that can be done."""
        remedy = "Mend its disk or its rights; or remove that file: a template is made anew when it is needed."
        self._troubles.add(
            Trouble(f"template {path.stem[:8]}", str(path), why, remedy), partial(self._take_up_again, path)
        )

    async def _take_up_again(self, path: Path) -> None:
        async with self._locks.setdefault(path.stem, trio.Lock()):
            temporary_of(path).unlink(missing_ok=True)
            await self._take_up(path)

    # -- one for a workspace

    async def get(self, nursery: trio.Nursery, wanted: Wanted, report: Callable[[str], None]) -> Checkpoint:
        """Return the template for a workspace, booting it if there is none yet; the caller holds it at once.

        Raises:
            InvalidArgument: the disk asked for is too small for the image.

        """
        return (await self._get(nursery, wanted, report))[2]

    async def warm(self, nursery: trio.Nursery, wanted: Wanted, report: Callable[[str], None]) -> TemplateInfo:
        """Make sure that there is a template for such workspaces, and describe it."""
        return await self._describe(*await self._get(nursery, wanted, report))

    async def _get(
        self, nursery: trio.Nursery, wanted: Wanted, report: Callable[[str], None]
    ) -> tuple[str, _TemplateRecord, Checkpoint]:
        fingerprint = await self._host.fingerprint(wanted.image, wanted.shape, wanted.network, wanted.channel)
        disk_bytes = GIB * template_disk_gb(
            wanted.shape.disk_gb, default_gb=self._host.settings.shape.disk_gb, root_bytes=_size(wanted.image)
        )
        path = self._directory / f"{_key(fingerprint, disk_bytes)}.json"
        async with self._locks.setdefault(path.stem, trio.Lock()):
            if path.exists() and (known := await self._known(path)) is not None:
                return path.stem, *known
            report("booting the template of this shape, once")
            try:
                made = await self._make(nursery, wanted.image, fingerprint, disk_bytes, _owner(path))
                record = _TemplateRecord(wanted.image.name, fingerprint, disk_bytes, made.id)
                plain = cattrs.unstructure(record)
                await trio.to_thread.run_sync(lambda: replace_json(path, plain, flushed=True))
            except BaseException:
                try:
                    self._forget(path)
                    temporary_of(path).unlink(missing_ok=True)
                except OSError as error:
                    self._doubt(path, f"It could not be made, and what there is of it not be removed: {error}.")
                raise
            finally:
                # The boot's last layer, or all of a boot that failed.
                with trio.CancelScope(shield=True):
                    await self._host.store.collect()
            return path.stem, record, made

    async def _known(self, path: Path) -> tuple[_TemplateRecord, Checkpoint] | None:
        """Return a template's record and its checkpoint, or forget one that is not what was saved.

        Raises:
            HostFailed, NoCapacity: it cannot be read, and so is left.

        """
        store = self._host.store
        try:
            record = _read(path)
            checkpoint = store.load(record.checkpoint)
            await trio.to_thread.run_sync(integrity.verify, store, checkpoint)
        except (FileNotFoundError, ValueError, CheckpointUnusable, cattrs.BaseValidationError):
            self._forget(path)
            return None
        return record, checkpoint

    async def _make(
        self, nursery: trio.Nursery, image: BootImage, fingerprint: Fingerprint, disk_bytes: int, owner: str
    ) -> Checkpoint:
        store, layer, workspace_id = self._host.store, new_id(), new_id()
        directory = self._directory / f"boot-{workspace_id[:8]}"
        self._booting.add(directory)
        with store.held(layer):
            store.layers.create(layer, over=Base(image.root), size_bytes=disk_bytes)
            spec = await self._host.machine_spec(
                image, fingerprint, workspace_dir=directory, layer=layer, checkpoint=None, allow_internet=False,
                mac=TEMPLATE_MAC,
            )  # fmt: skip
            try:
                limit_s = self._host.settings.boot_timeout_s
                machine = await start.prepare(
                    nursery, spec, fingerprint, layer=layer, disk_bytes=disk_bytes, checkpoint=None, state=None,
                    limit_s=limit_s,
                )  # fmt: skip
                await start.prove(machine, Persona(workspace_id, "template"), None, grows=True, limit_s=limit_s)
                try:
                    await proof.rehearse(machine, REHEARSALS)
                    await machine.client.sync_disks()
                    taken = await checkpoints.take(machine, store, with_memory=True, durable=True)
                    store.hold(owner, {taken.checkpoint.id})
                    await integrity.add_digest(store, taken.checkpoint)
                finally:
                    await machine.end()
            finally:
                store.discard(directory)
                self._booting.discard(directory)
        return taken.checkpoint

    # -- all of them

    async def list(self) -> tuple[TemplateInfo, ...]:
        """Describe all templates that can be read, oldest first."""
        found: list[TemplateInfo] = []
        for path in self._directory.glob("*.json"):
            try:
                record = _read(path)
                found.append(await self._describe(path.stem, record, self._host.store.load(record.checkpoint)))
            except UNREADABLE as error:
                log.warning("template %s cannot be described: %s", path.stem, error)
        return tuple(sorted(found, key=lambda info: info.created_at))

    async def drop(self, ids: tuple[str, ...] | None) -> tuple[TemplateInfo, ...]:
        """Forget templates by id or by a prefix of it, or with ``None`` the stale ones; return what went.

        Raises:
            NotFound: there is none with such an id.

        """
        known = await self.list()
        chosen = [info for info in known if info.stale] if ids is None else [_find(known, text) for text in ids]
        for info in chosen:
            self._forget(self._directory / f"{info.id}.json")
        await self._host.store.collect()
        return tuple(chosen)

    async def drop_of(self, image_digest: str) -> tuple[str, ...]:
        """Forget all templates of an image, and return their ids."""
        chosen = [path for path, digest in images_of_templates(self._directory) if digest == image_digest]
        for path in chosen:
            self._forget(path)
        await self._host.store.collect()
        return tuple(path.stem for path in chosen)

    def _forget(self, path: Path) -> None:
        """Let go of a template; the next sweep removes what no workspace stands on."""
        path.unlink(missing_ok=True)
        self._host.store.release(_owner(path))

    async def _describe(self, key: str, record: _TemplateRecord, checkpoint: Checkpoint) -> TemplateInfo:
        made = record.fingerprint
        return TemplateInfo(
            id=key,
            image=record.image,
            image_digest=made.image,
            shape=Shape(made.vcpus, made.memory_mb, record.disk_bytes // GIB),
            network=made.network,
            channel=made.channel,
            qemu=made.qemu,
            created_at=checkpoint.created_at,
            size_bytes=checkpoint.size_bytes + self._host.store.layers.usage_bytes([checkpoint.layer]),
            stale=await self._staleness(record),
        )

    async def _is_outdated(self, record: _TemplateRecord) -> bool:
        """Tell whether it is proven that no machine of this host can be made from a template any more."""
        try:
            await self._host.load_image(record.fingerprint.image)
        except (AgentisoError, OSError):
            # The images may be back soon: their directory may be mistyped, or not be mounted.
            return False
        return await self._staleness(record) is not None

    async def _lacks(self, digest: str) -> bool:
        """Tell whether it is known that an image is not there: others are, so that it is not their directory."""
        if self._host.shelf is None:
            return False
        try:
            there = await self._host.shelf.list()
        except (AgentisoError, OSError):
            return False
        return bool(there) and all(image.digest != digest for image in there)

    async def _staleness(self, record: _TemplateRecord) -> str | None:
        """Say why no workspace can be made from a template any more, if that is so."""
        try:
            qemu = await self._host.qemu()
        except AgentisoError:
            # Without QEMU nothing can be made from any; it may be back soon.
            return None
        if record.fingerprint.qemu != qemu.fingerprint:
            return f"it was made by QEMU {record.fingerprint.qemu}; this host has {qemu.fingerprint}"
        try:
            image = await self._host.load_image(record.fingerprint.image)
        except (AgentisoError, OSError):
            # One that cannot be read may be readable soon.
            return f"its image {record.image} is not there" if await self._lacks(record.fingerprint.image) else None
        made = record.fingerprint
        shape = Shape(made.vcpus, made.memory_mb)
        try:
            here = await self._host.fingerprint(image, shape, made.network, made.channel)
        except AgentisoError:
            return None
        if differences := made.differences(here):
            return f"it fits no machine of this host any more: {'; '.join(differences)}"
        return None


def template_disk_gb(wanted_gb: int, *, default_gb: int, root_bytes: int) -> int:
    """Return how large a template's disk is for a workspace that wants ``wanted_gb``.

    Raises:
        InvalidArgument: that is too small for the image's root disk.

    """
    least_gb = max(1, -(-root_bytes // GIB))
    if wanted_gb < least_gb:
        raise InvalidArgument(
            f"disk_gb is {wanted_gb}; the image's root disk needs {least_gb}.", remedy="Choose a larger disk_gb."
        )
    return default_gb if wanted_gb >= default_gb >= least_gb else least_gb


def images_of_templates(directory: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield the record of each template and the digest of its image; ``None`` if it cannot be read.

    Raises:
        OSError: the directory cannot be listed.

    """
    for path in sorted(path for path in directory.iterdir() if path.suffix == ".json"):
        try:
            yield path, _read(path).fingerprint.image
        except FileNotFoundError:
            continue
        except UNREADABLE:
            yield path, None


def _read(path: Path) -> _TemplateRecord:
    return cattrs.structure(read_json(path), _TemplateRecord)


def _owner(path: Path) -> str:
    return f"template:{path.stem}"


def _key(fingerprint: Fingerprint, disk_bytes: int) -> str:
    return hashlib.sha256(f"{fingerprint} {disk_bytes}".encode()).hexdigest()[:32]


def _size(image: BootImage) -> int:
    return image.root.stat().st_size


def _find(known: tuple[TemplateInfo, ...], text: str) -> TemplateInfo:
    matching = [info for info in known if info.id.startswith(text)]
    if len(matching) != 1 or not text:
        raise NotFound(
            f"Of the templates that can be read, {len(matching)} have an id that begins with {shown(text)}.",
            remedy="List them; `agentiso doctor` tells which cannot be read.",
        )
    return matching[0]
