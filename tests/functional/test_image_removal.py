"""At the command line: an image stays while workspaces stand on it, and what is damaged is told and comes back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from tests.machines import ARGV

pytestmark = pytest.mark.functional
LIMIT_S = 300


@attrs.frozen
class CommandLine:
    state_dir: Path
    digest: str

    @property
    def image(self) -> Path:
        return self.state_dir / "images" / self.digest

    async def run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        variables = {**os.environ, "AGENTISO_STATE_DIR": str(self.state_dir)}
        return await trio.run_process(
            [*ARGV, *arguments], env=variables, check=False, capture_stdout=True, capture_stderr=True
        )

    async def done(self, *arguments: str) -> str:
        """Run a command that has to succeed and return what it said."""
        result = await self.run(*arguments)
        assert result.returncode == 0, result
        return result.stdout.decode()

    async def told(self, *arguments: str) -> tuple[int, Any]:
        """Return a command's status and its JSON."""
        result = await self.run(*arguments, "--json")
        return result.returncode, json.loads(result.stdout)


@pytest.fixture
async def cli(images_dir: Path, state_dir: Path) -> AsyncIterator[CommandLine]:
    """The command line of a state directory with a workspace, and images of its own: the same files by other names."""
    digest = (images_dir / "names" / "busybox").readlink().name
    images = state_dir / "images"
    shutil.copytree(images_dir / digest, images / digest, copy_function=os.link)
    (images / "names").mkdir()
    (images / "names" / "busybox").symlink_to(f"../{digest}")
    command_line = CommandLine(state_dir, digest)
    with trio.fail_after(LIMIT_S):
        await command_line.done("create", "demo", "--image", "busybox", "--vcpus", "1", "--memory-mb", "256")
        yield command_line
        await command_line.run("destroy", "demo")
        await command_line.done("daemon", "stop")


async def test_an_image_outlives_its_name_until_nothing_stands_on_it(cli: CommandLine) -> None:
    await cli.done("exec", "demo", "--", "sh", "-c", "echo kept > /f && sync")
    await cli.done("suspend", "demo")
    refusal = await cli.run("image", "remove", "busybox")
    assert (refusal.returncode, b"workspace demo (suspended)" in refusal.stderr) == (1, True)
    assert sorted(path.name for path in cli.image.iterdir()) == [
        "initrd", "kernel", "layer.img", "manifest.json", "root.img",
    ]  # fmt: skip
    await cli.done("resume", "demo")
    assert "its files stay" in await cli.done("image", "remove", "busybox", "--force")
    _, (listed,) = await cli.told("image", "list")
    assert (listed["names"], listed["digest"], listed["used_by"][0]) == ([], cli.digest, "workspace demo (running)")
    await cli.done("stop", "demo")
    await cli.done("start", "demo")
    assert await cli.done("exec", "demo", "--", "cat", "/f") == "kept\n"
    await cli.done("destroy", "demo")
    status, gone = await cli.told("image", "remove", cli.digest[:8])
    assert (status, gone["files_removed"], len(gone["dropped"])) == (0, True, 1)
    assert not cli.image.exists()
    assert await cli.told("image", "list") == (0, [])


async def test_what_is_damaged_is_told_and_comes_back_when_it_is_mended(cli: CommandLine) -> None:
    status, found = await cli.told("doctor")
    assert (status, found["healthy"]) == (0, True)
    await cli.done("daemon", "stop")
    (record,) = (cli.state_dir / "workspaces").glob("*/record.json")
    whole = record.read_bytes()
    record.write_bytes(b"{")
    listed = await cli.run("list")
    assert (b"demo" in listed.stdout, b"agentiso doctor" in listed.stderr) == (False, True)
    status, found = await cli.told("doctor")
    assert (status, next(trouble["path"] for trouble in found["damaged"])) == (1, str(record.parent))
    refusal = await cli.run("image", "remove", "busybox")
    assert (refusal.returncode, b"cannot be read" in refusal.stderr) == (1, True)
    assert (await cli.told("gc"))[0] == 1
    record.write_bytes(whole)
    assert (await cli.told("doctor"))[0] == 0
    assert await cli.done("exec", "demo", "--", "echo", "on") == "on\n"
    status, kept = await cli.told("gc", "--dry-run")
    assert status == 0
    assert any("workspace demo" in piece["kept_by"] for piece in kept["pieces"])
