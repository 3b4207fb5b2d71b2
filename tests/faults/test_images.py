"""Images whose guest never answers, speaks another version, are for another machine, or are damaged."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import attrs
import pytest
import trio

import agentiso
import imagebuild
from actors.model.errors import GuestBroken, MachineFailed
from guest.wire import PROTOCOL_VERSION
from imagebuild import ImageError
from imagebuild.cpio import Entry, write_archive
from tests.faults.helpers import LIMIT_S, files, flawed_image, processes, write_program

pytestmark = pytest.mark.faults
BOOT = Path(imagebuild.__file__).parent / "boot"


async def refused(settings: agentiso.Settings, error: type[agentiso.AgentisoError]) -> agentiso.AgentisoError:
    """Return the error of a create, after which everything is as it was before."""
    async with agentiso.open_system(settings) as system:
        before = files(settings.state_dir)
        with pytest.raises(error) as caught:
            await system.create("unborn")
        assert await system.list() == ()
        assert files(settings.state_dir) == before
        assert processes(settings.state_dir) == set()
    return caught.value


async def test_a_guest_that_never_answers_is_ended_and_its_console_shown(
    settings: agentiso.Settings, images_dir: Path, tmp_path: Path
) -> None:
    # The kernel unpacks the archives one over the other: this init takes the place of the real one.
    init = (BOOT / "init").read_text().replace("exec $B switch_root", "say stuck on purpose; exec $B sleep 100000; #")
    write_archive(tmp_path / "over", [Entry("init", init.encode())])
    initrd = (images_dir / "names" / "base" / "initrd").read_bytes() + (tmp_path / "over").read_bytes()
    images = flawed_image(images_dir, tmp_path / "images", files={"initrd": initrd})
    with trio.fail_after(LIMIT_S):
        error = await refused(attrs.evolve(settings, images_dir=images, boot_timeout_s=30), MachineFailed)
    assert "within 30 s" in error.message
    assert "stuck on purpose" in error.message
    assert "stuck on purpose" in error.facts["console_tail"]


async def test_a_guest_of_another_protocol_version_is_refused_with_both_versions(
    settings: agentiso.Settings, images_dir: Path, tmp_path: Path
) -> None:
    layer, wire = tmp_path / "layer.img", tmp_path / "wire.py"
    shutil.copyfile(images_dir / "names" / "base" / "layer.img", layer)
    source = (Path(imagebuild.__file__).parent.parent / "guest" / "wire.py").read_text()
    wire.write_text(source.replace(f"PROTOCOL_VERSION: Final = {PROTOCOL_VERSION}", "PROTOCOL_VERSION: Final = 999"))
    edit_layer(layer, f"cd /opt/agentiso/guest\nrm wire.py\nwrite {wire} wire.py\nrm __pycache__/wire.cpython-*.pyc\n")
    images = flawed_image(images_dir, tmp_path / "images", files={"layer.img": layer.read_bytes()})
    with trio.fail_after(LIMIT_S):
        error = await refused(attrs.evolve(settings, images_dir=images), GuestBroken)
    assert f"version 999, this host {PROTOCOL_VERSION}" in error.message
    assert "agentiso image build" in error.remedy


def edit_layer(layer: Path, script: str) -> None:
    """Run debugfs on a guest layer; a ``*`` stands for the Python version of its cached modules."""
    debugfs = shutil.which("debugfs", path="/usr/sbin:/sbin:/usr/bin")
    assert debugfs is not None
    listing = subprocess.run(
        [debugfs, "-R", "ls -p /opt/agentiso/guest/__pycache__", layer], capture_output=True, text=True, check=True
    ).stdout
    cached = next(name for name in listing.split("/") if name.startswith("wire.cpython-"))
    commands = script.replace("wire.cpython-*.pyc", cached)
    subprocess.run([debugfs, "-w", "-f", "-", layer], input=commands, capture_output=True, text=True, check=True)


async def test_an_image_of_another_architecture_is_refused_before_anything_starts(
    settings: agentiso.Settings, images_dir: Path, tmp_path: Path
) -> None:
    images = flawed_image(images_dir, tmp_path / "images", arch="aarch64")
    started = tmp_path / "started"
    # Asking it for its version starts nothing.
    qemu = write_program(tmp_path / "qemu", f'#!/bin/sh\n[ "$1" = --version ] || echo "$@" >> {started}\nexit 1\n')
    with trio.fail_after(LIMIT_S):
        error = await refused(attrs.evolve(settings, images_dir=images, qemu_binary=qemu), ImageError)
    assert "'base' is for aarch64" in error.message
    assert not started.exists()


async def test_a_flipped_byte_is_found_by_verify_and_a_changed_size_at_each_use(
    settings: agentiso.Settings, images_dir: Path, tmp_path: Path
) -> None:
    images = flawed_image(images_dir, tmp_path / "images")
    image = imagebuild.load_image(images, "base")
    imagebuild.verify_image(image)
    kernel = bytearray(image.file("kernel").read_bytes())
    kernel[len(kernel) // 2] ^= 1
    image.file("kernel").unlink()
    image.file("kernel").write_bytes(kernel)
    with pytest.raises(ImageError, match=r"kernel is damaged: its digest.*agentiso image build base"):
        imagebuild.verify_image(imagebuild.load_image(images, "base"))
    image.file("kernel").write_bytes(kernel[:-1])
    with trio.fail_after(LIMIT_S):
        error = await refused(attrs.evolve(settings, images_dir=images), ImageError)
    assert "has changed size" in error.message
