"""Real machines: an image built once and kept, a state directory per test with a short path."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

import agentiso
import imagebuild


@pytest.fixture(scope="session")
def images_dir() -> Path:
    """The images, rebuilt when the guest's code or the builder has changed."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentiso" / "test-images"
    stamp = imagebuild.source_digest()
    directory = base / stamp
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
