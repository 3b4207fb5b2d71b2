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

from actors.machine.qemu import boot_timer, logs, tsc
from actors.model.image import BootImage
from actors.model.info import Shape

QMP_FD: Final = 3
CHANNEL_FD: Final = 4
STATE_FD: Final = 5
CONSOLE_FD: Final = 6
"""Numbers under which QEMU inherits its listening sockets, the device state to load and the console's log."""
CONSOLE_MARK: Final = f"fd={CONSOLE_FD},set=1,opaque="
"""Before the path of the console's log, which QEMU does not open: it tells whose machine a process is."""

PORT_NAME: Final = "agentiso.0"
"""Name of the guest agent's virtio-serial port."""
PORT_ID: Final = "agent"
"""By which QEMU's VSERPORT_CHANGE events name that port."""
KEY_FILE: Final = "opt/agentiso.key"
"""fw_cfg item with the channel's first key; the ``opt/`` prefix is QEMU's for users (docs/specs/fw_cfg.txt)."""
VSOCK_PORT: Final = 5000
ROOT_DEVICE: Final = "root"

KERNEL_ARGUMENTS: Final = "console=ttyS0 reboot=t panic=-1 loglevel=5"
"""``reboot=t`` (triple fault) with ``-no-reboot`` makes a guest's reboot or panic end the process.  Warnings are shown,
of which `boot_timer` needs one."""
EMULATED_ARGUMENTS: Final = "mitigations=off norandmaps psi=0 noautogroup lsm=landlock,yama"
"""Emulation speculates nothing, so that defences against that only cost.  QEMU translates a program's code anew for
each address at which it is loaded, so that random ones would make every command several times as slow.  And what a
kernel does beside its work at every start of a process has to be translated as well."""
SANDBOX: Final = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@attrs.frozen(kw_only=True)
class MachinePlace:
    """Where a machine is, and how it is reached: all that is needed of one that runs already."""

    uuid: str
    ram: Path
    """RAM image, mapped privately; never written."""
    network: str
    mac: str
    channel: str
    vsock_cid: int | None
    directory: Path
    """The machine's own directory: logs, and the key of a cold boot."""
    keeps_logs: bool = True
    """Whether its logs are kept for its workspace when it has ended."""

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
    allow_internet: bool


def build(spec: MachineSpec, *, restoring: bool) -> tuple[str, ...]:
    """Return QEMU's arguments for a cold boot, or for loading device state from `STATE_FD`."""
    return (
        spec.qemu,
        *_machine(spec),
        *_boot(spec, restoring=restoring),
        *_disks(spec),
        *_network(spec),
        *_channel(spec),
    )


def machine_arguments(image: BootImage, network: str, channel: str) -> str:
    """Return a digest of what the arguments make of a machine: its type, and its devices in their order.

    Device state loads only into an equal one.  The kernel's arguments are in the guest's memory, and matter to no load.
    """
    nowhere = Path()
    spec = MachineSpec(
        qemu="", uuid="", shape=Shape(), accelerator="", cpu_model="", tsc_khz=None, image=image, ram=nowhere,
        ram_read_only=False, disk=nowhere, network=network, allow_internet=False, mac="", channel=channel,
        vsock_cid=None, directory=nowhere,
    )  # fmt: skip
    words = pairwise(build(spec, restoring=True))
    made = [value for option, value in words if option in ("-machine", "-device", "-serial", "-global")]
    return hashlib.sha256("\n".join(made).encode()).hexdigest()[:16]


def kernel_arguments(accelerator: str, tsc_khz: int | None) -> str:
    """Return the arguments that every kernel gets under an accelerator; ``tsc_khz`` is the host's."""
    if accelerator != "tcg":
        return KERNEL_ARGUMENTS
    return f"{KERNEL_ARGUMENTS} {EMULATED_ARGUMENTS} {boot_timer.ARGUMENT} {tsc.kernel_arguments(tsc_khz)}".rstrip()


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
        *("-chardev", f"socket,id=qmp,fd={QMP_FD},server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-device", "virtio-rng-device"),
    )


def _boot(spec: MachineSpec, *, restoring: bool) -> tuple[str, ...]:
    if restoring:
        # The saved state has no configuration section.  Nobody announces the guest's address, which is still another's.
        quiet = ("-global", "migration.send-configuration=off", "-global", "migration.announce-rounds=0")
        return ("-incoming", f"fd:{STATE_FD}", *quiet)
    general = kernel_arguments(spec.accelerator, spec.tsc_khz)
    arguments = f"{general} agentiso.channel={spec.channel} {spec.image.cmdline}".rstrip()
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


def _network(spec: MachineSpec) -> tuple[str, ...]:
    if spec.network == "none":
        return ()
    restrict = "off" if spec.allow_internet else "on"
    return (
        *("-netdev", f"user,id=net0,ipv6=off,restrict={restrict}"),
        *("-device", f"virtio-net-device,netdev=net0,mac={spec.mac}"),
    )


def _channel(spec: MachineSpec) -> tuple[str, ...]:
    if spec.channel == "vsock":
        return ("-device", f"vhost-vsock-device,guest-cid={spec.vsock_cid}")
    return (
        *("-chardev", f"socket,id=channel,fd={CHANNEL_FD},server=on,wait=off"),
        *("-device", "virtio-serial-device"),
        *("-device", f"virtserialport,chardev=channel,name={PORT_NAME},id={PORT_ID}"),
    )


def _escape(path: Path) -> str:
    """Double the commas of a path inside an option list (QEMU's own rule)."""
    return str(path).replace(",", ",,")
