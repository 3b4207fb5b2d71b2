"""What every workspace of one supervisor shares: settings, files, images, the limit on starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio

from actors.machine.accelerator.verdict import AcceleratorVerdict, probe_accelerators
from actors.machine.channel.choice import channels
from actors.machine.limits.choice import best_limits
from actors.machine.limits.memory import MemoryLedger, available_memory_mb
from actors.machine.network.choice import networks
from actors.machine.network.protocol import Policy
from actors.machine.qemu.command_line import MachinePlace, MachineSpec, machine_arguments
from actors.machine.qemu_build import QemuBuild, probe_qemu
from actors.machine.storage.checkpoint import Checkpoint
from actors.machine.storage.store import Store
from actors.model.image import BootImage
from actors.model.info import Shape
from actors.model.machine import Fingerprint, MachineRecord
from actors.model.names import new_id, short
from actors.model.record import WorkspaceRecord
from actors.model.settings import Settings
from actors.workspace.changes import Changes
from actors.workspace.image_uses import ImageShelf, ImageUses, LoadImage

READ_ONLY_RAM_SINCE = (8, 2)
"""QEMU can map a RAM file privately while opening it for reading only from this version on."""

CONCURRENT_LOOKS = 2
"""Comparisons of nodes under way at the same time, of two helper machines each at most; the rest wait."""


class Host:
    """Shared by the registry and its workspaces; holds no state of any one of them."""

    def __init__(
        self, settings: Settings, store: Store, load_image: LoadImage, shelf: ImageShelf | None = None
    ) -> None:
        self.settings = settings
        self.store = store
        self.load_image = load_image
        self.image_uses = ImageUses(load_image)
        self.shelf = shelf
        """Where images can be listed and removed; whoever has only a function that loads them has none."""
        self.starts = trio.CapacityLimiter(settings.limits.concurrent_starts)
        self.looks = trio.CapacityLimiter(CONCURRENT_LOOKS)
        self.changes = Changes()
        self.expired: Callable[[str], None] = lambda _workspace_id: None
        """Called with the id of a workspace whose time is over; set by the registry."""
        self.gave_up: Callable[[WorkspaceRecord, BaseException], None] = lambda _record, _failure: None
        """Called with the record of a workspace whose actor was given up, and why; set by the registry."""
        self.unpooled: Callable[[str], None] = lambda _workspace_id: None
        """Called with the id of a workspace whose machine ended while it waited in the pool; set by the pool."""
        self.forwarded: dict[int, str] = {}
        """Host ports that are forwarded, or will be once their workspace runs again, and the id of that workspace."""
        self.networks = networks()
        self.channels = channels()
        self.limits = best_limits()
        # Asked for anew each time, so that a test may say what there is.
        self.memory = MemoryLedger(settings.limits.memory_reserve_mb, lambda: available_memory_mb())
        self._qemu: QemuBuild | None = None
        self._verdicts: dict[str, AcceleratorVerdict] = {}
        self._probing = trio.Lock()

    @property
    def state_dir(self) -> Path:
        """The supervisor's directory."""
        return self.settings.state_dir

    @property
    def reserve(self) -> Path:
        """The file in whose room a workspace's record is written where the disk is full."""
        return self.state_dir / "reserve"

    async def qemu(self) -> QemuBuild:
        """Return the QEMU in use, looked at once."""
        if self._qemu is None:
            self._qemu = await trio.to_thread.run_sync(probe_qemu, self.settings.qemu_binary)
        return self._qemu

    async def accelerator(self, image: BootImage) -> AcceleratorVerdict:
        """Return the accelerator that really boots this image's kernel here."""
        async with self._probing:
            if image.digest not in self._verdicts:
                self._verdicts[image.digest] = await probe_accelerators(
                    await self.qemu(),
                    image.kernel,
                    image.initrd,
                    self.state_dir / "accelerators",
                    override=self.settings.accelerator,
                )
            return self._verdicts[image.digest]

    async def fingerprint(
        self, image: BootImage, shape: Shape, network: str, channel: str, *, like: Fingerprint | None = None
    ) -> Fingerprint:
        """Return what a machine of this image and shape is made of on this host.

        It has the devices of an earlier release if it is to be ``like`` one that has them.
        """
        arguments = self._arguments(image, network, channel, announces=False)
        earlier = self._arguments(image, network, channel, announces=True)
        qemu, verdict = await self.qemu(), await self.accelerator(image)
        return Fingerprint(
            qemu=qemu.fingerprint,
            accelerator=verdict.chosen,
            cpu_model=verdict.cpu_model,
            vcpus=shape.vcpus,
            memory_mb=shape.memory_mb,
            image=image.digest,
            network=network,
            channel=channel,
            machine_arguments=earlier if like and like.machine_arguments == earlier else arguments,
            tsc_khz=verdict.tsc_khz,
        )

    def _arguments(self, image: BootImage, network: str, channel: str, *, announces: bool) -> str:
        return machine_arguments(image, self.networks.named(network), self.channels.named(channel), announces=announces)

    def adopted_place(self, record: WorkspaceRecord, machine: MachineRecord) -> MachinePlace:
        """Describe where a machine is that an earlier supervisor started; nothing is looked at for that."""
        directory = Path(machine.directory)
        return MachinePlace(
            uuid=machine.process.uuid,
            ram=Path(machine.ram),
            network=self.networks.named(record.network),
            policy=Policy(record.allow_internet),
            mac=record.mac,
            channel=self.channels.named(record.channel).adopt(directory, machine.vsock_cid),
            directory=directory,
            limits=self.limits,
        )

    async def machine_spec(
        self,
        image: BootImage,
        fingerprint: Fingerprint,
        *,
        workspace_dir: Path,
        layer: str,
        checkpoint: Checkpoint | None,
        allow_internet: bool,
        mac: str,
    ) -> MachineSpec:
        """Describe a machine about to be started, in a fresh directory of its own."""
        qemu = await self.qemu()
        uuid = new_id()
        directory = workspace_dir / "machines" / short(uuid)
        ram = directory / "ram"
        shares = checkpoint is not None and checkpoint.has_memory and self.settings.memory_sharing == "family"
        if checkpoint and shares:
            ram = self.store.checkpoint(checkpoint.id) / "ram"
        return MachineSpec(
            qemu=str(qemu.path),
            uuid=uuid,
            shape=Shape(vcpus=fingerprint.vcpus, memory_mb=fingerprint.memory_mb),
            accelerator=fingerprint.accelerator,
            cpu_model=fingerprint.cpu_model,
            tsc_khz=fingerprint.tsc_khz,
            image=image,
            ram=ram,
            ram_read_only=shares and qemu.version[:2] >= READ_ONLY_RAM_SINCE,
            disk=self.store.layer(layer),
            network=self.networks.named(fingerprint.network),
            policy=Policy(allow_internet),
            mac=mac,
            channel=self.channels.named(fingerprint.channel).open(directory),
            directory=directory,
            limits=self.limits,
            announces=fingerprint.machine_arguments
            == self._arguments(image, fingerprint.network, fingerprint.channel, announces=True),
        )
