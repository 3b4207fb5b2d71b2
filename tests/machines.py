"""Real machines: an image built once and kept, a state directory per test with a short path."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

import agentiso
import imagebuild

ARGV = [sys.executable, "-m", "agentiso.cli"]


def cache_dir() -> Path:
    """Where what the tests build or fetch is kept from run to run."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentiso"


@pytest.fixture(scope="session")
def images_dir() -> Path:
    """The images, rebuilt when the guest's code or the builder has changed."""
    directory = cache_dir() / "test-images" / imagebuild.source_digest()
    for name, kind in (("base", "debian"), ("busybox", "busybox")):
        if not (directory / "names" / name).is_symlink():
            trio.run(lambda n=name, k=kind: imagebuild.build_image(n, directory, progress=print, root_kind=k))  # type: ignore[misc]
    return directory


@pytest.fixture
def state_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="ai-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def template_state(images_dir: Path) -> Iterator[Path]:
    """A state directory that keeps its templates, so that each test need not boot one."""
    path = Path(tempfile.mkdtemp(prefix="ai-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def system(images_dir: Path, template_state: Path) -> AsyncIterator[agentiso.System]:
    settings = agentiso.Settings(state_dir=template_state, images_dir=images_dir)
    async with agentiso.open_system(settings) as opened:
        yield opened


@pytest.fixture
async def environment(images_dir: Path, template_state: Path) -> AsyncIterator[dict[str, str]]:
    link = template_state / "images"
    if not link.is_symlink():
        link.symlink_to(images_dir)
    variables = {**os.environ, "AGENTISO_STATE_DIR": str(template_state)}
    yield variables
    await trio.run_process([*ARGV, "daemon", "stop"], env=variables, capture_stdout=True)
