"""Templates: checkpoints of freshly booted, ready guests, made on first use and kept.

One per fingerprint and disk size.  Whoever needs one that is being made waits for it instead of making another.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import attrs
import cattrs
import trio

from actors.errors import AgentisoError
from actors.host import Host
from actors.machine import checkpoint as checkpoints
from actors.machine import machine as machines
from actors.machine.checkpoint import Checkpoint, Fingerprint
from actors.machine.files import read_json, replace_json
from actors.machine.image import BootImage
from actors.machine.machine import Persona
from actors.model import Shape
from actors.names import new_id

TEMPLATE_MAC = "52:54:00:00:00:01"
"""Of the guest that boots; every restore gets its own before its link comes up."""


@attrs.frozen
class _TemplateRecord:
    fingerprint: Fingerprint
    disk_bytes: int
    checkpoint: str


class Templates:
    """The templates of one supervisor."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._directory = host.state_dir / "templates"
        self._locks: dict[str, trio.Lock] = {}

    def hold_known(self) -> None:
        """Hold the checkpoints of all templates on disk; forget those that are damaged."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for directory in self._directory.glob("boot-*"):
            shutil.rmtree(directory, ignore_errors=True)
        for path in self._directory.glob("*.json"):
            try:
                record = cattrs.structure(read_json(path), _TemplateRecord)
                checkpoints.load(self._host.store, record.checkpoint)
            except (OSError, ValueError, AgentisoError, cattrs.BaseValidationError):
                path.unlink()
                continue
            self._host.store.hold(f"template:{path.stem}", {record.checkpoint})

    async def get(
        self,
        nursery: trio.Nursery,
        image: BootImage,
        shape: Shape,
        network: str,
        channel: str,
        report: Callable[[str], None],
    ) -> Checkpoint:
        """Return the template for a shape, booting it if there is none yet."""
        fingerprint = await self._host.fingerprint(image, shape, network, channel)
        disk_bytes = shape.disk_gb * 2**30
        key = hashlib.sha256(f"{fingerprint} {disk_bytes}".encode()).hexdigest()[:32]
        async with self._locks.setdefault(key, trio.Lock()):
            path = self._directory / f"{key}.json"
            if path.exists() and (known := await self._known(path)) is not None:
                return known
            report("booting the template of this shape, once")
            owner = f"template:{key}"
            try:
                made = await self._make(nursery, image, fingerprint, disk_bytes, owner)
                replace_json(path, cattrs.unstructure(_TemplateRecord(fingerprint, disk_bytes, made.id)))
            except BaseException:
                self._host.store.release(owner)
                raise
            finally:
                # The boot's last layer, or all of a boot that failed.
                with trio.CancelScope(shield=True):
                    await self._host.store.sweep()
            return made

    async def _known(self, path: Path) -> Checkpoint | None:
        """Return the checkpoint of a template's record, or forget one that is not what was saved."""
        store = self._host.store
        try:
            record = cattrs.structure(read_json(path), _TemplateRecord)
            checkpoint = checkpoints.load(store, record.checkpoint)
            await trio.to_thread.run_sync(checkpoints.verify, store, checkpoint)
        except (OSError, ValueError, AgentisoError, cattrs.BaseValidationError):
            store.release(f"template:{path.stem}")
            path.unlink(missing_ok=True)
            return None
        return checkpoint

    async def _make(
        self, nursery: trio.Nursery, image: BootImage, fingerprint: Fingerprint, disk_bytes: int, owner: str
    ) -> Checkpoint:
        store, layer, workspace_id = self._host.store, new_id(), new_id()
        directory = self._directory / f"boot-{workspace_id[:8]}"
        with store.held(layer):
            store.new_overlay(layer, backing=image.root, backing_format="raw", size_bytes=disk_bytes)
            spec = await self._host.machine_spec(
                image, fingerprint, workspace_dir=directory, layer=layer, checkpoint=None, allow_internet=False,
                mac=TEMPLATE_MAC,
            )  # fmt: skip
            try:
                machine = await machines.start(
                    nursery, spec, Persona(workspace_id, "template"), fingerprint,
                    layer=layer, disk_bytes=disk_bytes, checkpoint=None, state=None,
                    limit_s=self._host.settings.boot_timeout_s,
                )  # fmt: skip
                try:
                    await machine.client.grow_root()
                    await _warm(machine)
                    taken = await checkpoints.take(machine, store, with_memory=True, durable=True)
                    await checkpoints.add_digest(store, taken.checkpoint)
                    store.hold(owner, {taken.checkpoint.id})
                finally:
                    await machine.end()
            finally:
                _remove(directory)
        return taken.checkpoint


async def _warm(machine: machines.Machine) -> None:
    """Run what every user's first command runs, so that its pages are in the template; then leave nothing dirty."""
    await machine.client.exec("true")
    await machine.client.sync_disks()


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
