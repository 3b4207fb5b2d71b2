"""Real machines: an image built once and kept, a state directory per test with a short path."""

from __future__ import annotations

import fcntl
import json
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
from tests.templates import give

ARGV = [sys.executable, "-m", "agentiso.cli"]
LIMIT_S = 60


def cache_dir() -> Path:
    """Where what the tests build or fetch is kept from run to run."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentiso"


@pytest.fixture(scope="session")
def images_dir() -> Path:
    """The images, rebuilt when the guest's code or the builder has changed."""
    directory = cache_dir() / "test-images" / imagebuild.source_digest()
    directory.mkdir(parents=True, exist_ok=True)
    with directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # State directories of earlier tests: images of here are never removed.
        shutil.rmtree(directory / imagebuild.USERS, ignore_errors=True)
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
    """A state directory that begins with a template and keeps those that tests add, so that each need not boot one."""
    path = Path(tempfile.mkdtemp(prefix="ai-", dir="/tmp"))
    give(agentiso.Settings(state_dir=path, images_dir=images_dir))
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
    left = await destroy_all(variables) if any(template_state.glob("workspaces/[!.]*")) else []
    await trio.run_process([*ARGV, "daemon", "stop"], env=variables, capture_stdout=True)
    assert not left, f"workspaces outlive the test: {left}"


async def destroy_all(variables: dict[str, str]) -> list[str]:
    """Destroy the workspaces that a test left, so that the next one begins with none; return their names."""
    with trio.fail_after(LIMIT_S):
        listed = await trio.run_process([*ARGV, "list", "--json"], env=variables, capture_stdout=True)
        names = [info["name"] for info in json.loads(listed.stdout)]
        if names:
            await trio.run_process([*ARGV, "destroy", *names], env=variables, capture_stdout=True)
    return names
