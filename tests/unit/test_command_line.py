"""QEMU's arguments: what a checkpoint needs of them, and what no machine may exceed."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path
from typing import Any

import attrs
import pytest

from actors.machine.channel.choice import channels
from actors.machine.channel.protocol import Channel
from actors.machine.channel.serial import Serial
from actors.machine.network.choice import networks
from actors.machine.network.protocol import Link, Network, Policy
from actors.machine.network.user import UserNetwork
from actors.machine.qemu.command_line import MachineSpec, build, machine_arguments
from actors.model.image import BootImage
from actors.model.info import Shape

MAX_DEVICES = 8
"""virtio-mmio slots of a microvm without ACPI; with it there are 24."""
IMAGE = BootImage(
    "image", "digest", kernel=Path("kernel"), initrd=Path("initrd"), layer=Path("layer"), root=Path("root"), acpi=True
)
SPEC = MachineSpec(
    qemu="qemu", uuid="12345678-0", shape=Shape(), accelerator="tcg", cpu_model="max", tsc_khz=1, image=IMAGE,
    ram=Path("ram"), ram_read_only=False, disk=Path("disk"), network=UserNetwork(), policy=Policy(), mac="mac",
    channel=Serial().open(Path("machine")), directory=Path("machine"),
)  # fmt: skip
KINDS = list(product(networks(), channels()))


@pytest.mark.parametrize(("network", "channel"), KINDS)
def test_no_machine_has_more_devices_than_there_are_slots(network: Network, channel: Channel) -> None:
    link = Link(arguments=network.devices("mac"))
    words = build(attrs.evolve(SPEC, link=link, channel=channel.open(Path())), restoring=False)
    assert words.count("-device") <= MAX_DEVICES


def test_a_cold_boot_and_a_restore_have_the_same_devices_in_the_same_order() -> None:
    def devices(words: tuple[str, ...]) -> list[str]:
        return [value for option, value in pairwise(words) if option == "-device"]

    assert devices(build(SPEC, restoring=False)) == devices(build(SPEC, restoring=True))


def test_the_memory_image_is_opened_for_reading_only_where_qemu_can() -> None:
    def memory(spec: MachineSpec) -> str:
        words = build(spec, restoring=True)
        return words[words.index("-object") + 1]

    assert memory(attrs.evolve(SPEC, ram_read_only=True)).endswith(",share=off,readonly=on,rom=off")
    assert "readonly" not in memory(SPEC)


def test_each_kind_of_machine_has_arguments_of_its_own_and_no_path_changes_them() -> None:
    kinds = {machine_arguments(attrs.evolve(IMAGE, acpi=acpi), *kind) for acpi in (True, False) for kind in KINDS}
    assert len(kinds) == 2 * len(KINDS)
    elsewhere = attrs.evolve(IMAGE, kernel=Path("elsewhere"), layer=Path("elsewhere"))
    assert machine_arguments(elsewhere, UserNetwork(), Serial()) == machine_arguments(IMAGE, UserNetwork(), Serial())


def test_another_device_makes_other_arguments(monkeypatch: Any) -> None:
    before = machine_arguments(IMAGE, UserNetwork(), Serial())
    monkeypatch.setattr(
        UserNetwork, "devices", lambda _self, mac, **_options: ("-device", "virtio-net-device,netdev=net0,mq=on")
    )
    assert machine_arguments(IMAGE, UserNetwork(), Serial()) != before
