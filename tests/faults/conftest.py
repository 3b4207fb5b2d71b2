"""State directories that begin with a template, and after which nothing may be left of what a test broke."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

import agentiso
from tests.faults.helpers import LIMIT_S, SHAPE, CommandLine, processes
from tests.machines import images_dir, state_dir
from tests.templates import give

__all__ = ["cli", "images_dir", "settings", "state_dir", "system"]


@pytest.fixture
def settings(state_dir: Path, images_dir: Path) -> Iterator[agentiso.Settings]:
    """Settings with a state directory of the test's own, template included; no process may be left in it."""
    yield give(agentiso.Settings(state_dir=state_dir, images_dir=images_dir, shape=SHAPE, network="none"))
    assert processes(state_dir) == set()


@pytest.fixture
async def system(settings: agentiso.Settings) -> AsyncIterator[agentiso.System]:
    async with agentiso.open_system(settings) as opened:
        yield opened


@pytest.fixture
async def cli(settings: agentiso.Settings, tmp_path: Path) -> AsyncIterator[CommandLine]:
    """The command line on the test's state directory; at the end its workspaces are destroyed, its daemon stopped."""
    config = tmp_path / "config.toml"
    config.write_text(
        f'state_dir = "{settings.state_dir}"\nimages_dir = "{settings.images_dir}"\nnetwork = "none"\n'
        f"[shape]\nvcpus = {SHAPE.vcpus}\nmemory_mb = {SHAPE.memory_mb}\ndisk_gb = {SHAPE.disk_gb}\n"
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("AGENTISO_")}
    command = CommandLine(settings, {**inherited, "AGENTISO_CONFIG": str(config), "TMPDIR": str(scratch)})
    yield command
    with trio.fail_after(LIMIT_S):
        for info in await command.json("list"):
            await command.run("destroy", info["workspace_id"])
        await command.run("daemon", "stop")
