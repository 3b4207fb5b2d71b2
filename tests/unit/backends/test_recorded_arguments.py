"""QEMU's arguments and their digests, word for word as they were when templates and snapshots were made with them."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import attrs
import pytest

from actors.machine.accelerator.choice import ACCELERATORS
from actors.machine.channel.choice import channels
from actors.machine.network.choice import networks
from actors.machine.network.protocol import Policy
from actors.machine.qemu.command_line import MachineSpec, build, machine_arguments
from actors.model.image import BootImage
from actors.model.info import Shape

RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("recorded_arguments.json").read_text())
IMAGE = BootImage(
    "image", "digest", kernel=Path("kernel"), initrd=Path("initrd"), layer=Path("la,yer"), root=Path("root"),
    cmdline="quiet",
)  # fmt: skip
CID = 77


def test_every_machine_of_before_is_described() -> None:
    kinds = product(("user", "none"), ("serial", "vsock"), ("kvm", "tcg"), ("internet", "closed"), ("boot", "restore"))
    assert RECORDED["arguments"].keys() == {" ".join(kind) for kind in kinds}


@pytest.mark.parametrize("kind", RECORDED["arguments"])
async def test_the_words_that_start_qemu_are_those_that_were_recorded(kind: str) -> None:
    network, channel, accelerator, internet, start = kind.split()
    found = ACCELERATORS.named(accelerator)
    directory = Path("machine")
    spec = MachineSpec(
        qemu="qemu", uuid="12345678-0", shape=Shape(), accelerator=found.name, cpu_model=found.cpu_model, tsc_khz=None,
        image=IMAGE, ram=Path("ram"), ram_read_only=False, disk=Path("disk"), network=networks().named(network),
        policy=Policy(allow_internet=internet == "internet"), mac="52:54:00:00:00:01",
        channel=channels().named(channel).adopt(directory, CID), directory=directory, announces=True,
    )  # fmt: skip
    spec = attrs.evolve(spec, link=await spec.network.plan(spec.wanted_link))
    assert list(build(spec, restoring=start == "restore")) == RECORDED["arguments"][kind]


@pytest.mark.parametrize("kind", RECORDED["digests"])
def test_the_digest_in_a_fingerprint_is_the_one_that_was_recorded(kind: str) -> None:
    network, channel, acpi = kind.split()
    image = attrs.evolve(IMAGE, acpi=acpi == "acpi")
    found = machine_arguments(image, networks().named(network), channels().named(channel), announces=True)
    assert found == RECORDED["digests"][kind]


def test_machines_of_today_are_told_from_those_whose_guests_can_announce_their_address() -> None:
    for network in networks().names:
        found = [
            machine_arguments(IMAGE, networks().named(network), channels().named("serial"), announces=announces)
            for announces in (True, False)
        ]
        assert (found[0] != found[1]) is networks().named(network).wired
