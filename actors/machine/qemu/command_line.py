"""QEMU's argument list, built here and nowhere else.

The list is a pure function of a `MachineSpec`.  The devices and their order are the same for a cold boot and for a
restore: saved device state loads only into the machine that wrote it.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Final

import attrs

from actors.machine import descriptors
from actors.machine.accelerator.choice import ACCELERATORS
from actors.machine.channel.protocol import Channel, Endpoint
from actors.machine.limits.none import NoLimits
from actors.machine.limits.protocol import Bounds, Limits, Placement
from actors.machine.network.protocol import Link, Network, Policy, Wanted
from actors.machine.qemu import logs
from actors.model.image import BootImage
from actors.model.info import Shape

CONSOLE_MARK: Final = f"fd={descriptors.CONSOLE},set=1,opaque="
"""Before the path of the console's log, which QEMU does not open: it tells whose machine a process is."""
KEY_FILE: Final = "opt/agentiso.key"
"""fw_cfg item with the channel's first key; the ``opt/`` prefix is QEMU's for users (docs/specs/fw_cfg.txt)."""
ROOT_DEVICE: Final = "root"
SANDBOX: Final = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@attrs.frozen(kw_only=True)
class MachinePlace:
    """Where a machine is, and how it is reached: all that is needed of one that runs already."""

    uuid: str
    ram: Path
    """RAM image, mapped privately; never written."""
    network: Network
    policy: Policy
    mac: str
    channel: Endpoint
    directory: Path
    """The machine's own directory: logs, and the key of a cold boot."""
    limits: Limits = attrs.field(factory=NoLimits)
    link: Link = attrs.field(factory=Link)
    """What its network has made for it, once that has."""
    placement: Placement = attrs.field(factory=Placement)
    """What its limits have made for it, once they have."""
    keeps_logs: bool = True
    """Whether its logs are kept for its workspace when it has ended."""
    announces: bool = False
    """Whether its device state is of a guest that can announce its address; see `Network.devices`."""

    @property
    def console_log(self) -> Path:
        """What the guest wrote to its serial console."""
        return self.directory / logs.CONSOLE

    @property
    def qemu_log(self) -> Path:
        """QEMU's own standard output and error."""
        return self.directory / logs.QEMU

    @property
    def key_file(self) -> Path:
        """The channel key that a cold boot hands to the guest."""
        return self.directory / "key"

    @property
    def wanted_link(self) -> Wanted:
        """What is asked of its network."""
        return Wanted(self.uuid, self.mac, self.policy, self.announces)


@attrs.frozen(kw_only=True)
class MachineSpec(MachinePlace):
    """All that distinguishes one machine's command line from another's."""

    qemu: str
    shape: Shape
    accelerator: str
    cpu_model: str
    tsc_khz: int | None
    """Rate of the time-stamp counter that an emulated guest is told."""
    image: BootImage
    ram_read_only: bool
    """Whether this QEMU can open the RAM image for reading only (8.2 and later)."""
    disk: Path
    """The active disk layer."""

    @property
    def bounds(self) -> Bounds:
        """What is asked of its limits."""
        return Bounds(self.uuid, self.shape)


def build(spec: MachineSpec, *, restoring: bool) -> tuple[str, ...]:
    """Return what starts QEMU in its place, for a cold boot or for loading the device state."""
    return spec.placement.wrap(
        (
            spec.qemu,
            *_machine(spec),
            *_boot(spec, restoring=restoring),
            *_disks(spec),
            *spec.link.arguments,
            *spec.channel.arguments,
        )
    )


def machine_arguments(image: BootImage, network: Network, channel: Channel, *, announces: bool = False) -> str:
    """Return a digest of what the arguments make of a machine: its type, and its devices in their order.

    Device state loads only into an equal one.  The kernel's arguments are in the guest's memory, and matter to no load.
    """
    nowhere = Path()
    spec = MachineSpec(
        qemu="", uuid="", shape=Shape(), accelerator="", cpu_model="", tsc_khz=None, image=image, ram=nowhere,
        ram_read_only=False, disk=nowhere, network=network, policy=Policy(), mac="",
        channel=channel.adopt(nowhere, cid=None), directory=nowhere,
        link=Link(arguments=network.devices(mac="", announces=announces)),
    )  # fmt: skip
    words = pairwise(build(spec, restoring=True))
    made = [value for option, value in words if option in ("-machine", "-device", "-serial", "-global")]
    return hashlib.sha256("\n".join(made).encode()).hexdigest()[:16]


def _machine(spec: MachineSpec) -> tuple[str, ...]:
    size = f"{spec.shape.memory_mb}M"
    memory = f"memory-backend-file,id=m0,size={size},mem-path={_escape(spec.ram)},share=off"
    if spec.ram_read_only:
        memory += ",readonly=on,rom=off"
    machine = "microvm,memory-backend=m0,suppress-vmdesc=on"
    if not spec.image.acpi:
        machine += ",acpi=off"
    return (
        *("-name", f"agentiso-{spec.uuid[:8]}", "-uuid", spec.uuid),
        *("-machine", machine, "-object", memory, "-m", size),
        *("-accel", spec.accelerator, "-cpu", spec.cpu_model, "-smp", str(spec.shape.vcpus)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-sandbox", SANDBOX),
        *("-add-fd", f"{CONSOLE_MARK}{_escape(spec.console_log)}"),
        *("-chardev", "file,id=console,path=/dev/fdset/1,append=on"),
        *("-serial", "chardev:console"),
        *("-chardev", f"socket,id=qmp,fd={descriptors.QMP},server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-device", "virtio-rng-device"),
    )


def _boot(spec: MachineSpec, *, restoring: bool) -> tuple[str, ...]:
    if restoring:
        # The saved state has no configuration section.  Nobody announces the guest's address, which is still another's.
        quiet = ("-global", "migration.send-configuration=off", "-global", "migration.announce-rounds=0")
        return ("-incoming", f"fd:{descriptors.STATE}", *quiet)
    general = ACCELERATORS.named(spec.accelerator).kernel_arguments(spec.tsc_khz)
    arguments = f"{general} agentiso.channel={spec.channel.name} {spec.image.cmdline}".rstrip()
    return (
        *("-kernel", str(spec.image.kernel), "-initrd", str(spec.image.initrd), "-append", arguments),
        *("-fw_cfg", f"name={KEY_FILE},file={_escape(spec.key_file)}"),
    )


def _disks(spec: MachineSpec) -> tuple[str, ...]:
    root = f"if=none,id={ROOT_DEVICE},format=qcow2,discard=unmap,file={_escape(spec.disk)}"
    layer = f"if=none,id=layer,format=raw,readonly=on,file={_escape(spec.image.layer)}"
    return (
        *("-drive", root, "-device", f"virtio-blk-device,drive={ROOT_DEVICE},serial=root"),
        *("-drive", layer, "-device", "virtio-blk-device,drive=layer,serial=layer"),
    )


def _escape(path: Path) -> str:
    """Double the commas of a path inside an option list (QEMU's own rule)."""
    return str(path).replace(",", ",,")
