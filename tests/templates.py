"""Templates that are booted once for all who run tests now, whichever worker and suite they belong to."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

import trio

import agentiso

DIRECTORY: Final = "TESTS_TEMPLATES"
"""The environment variable that names where they are, for workers and for the suites that follow."""
BOOT_LIMIT_S: Final = 300


def give(settings: agentiso.Settings) -> agentiso.Settings:
    """Put the template of what these settings create into their state directory, which is new, and return them."""
    shared = Path(os.environ[DIRECTORY])
    made_for = repr((settings.images, settings.image, settings.shape, settings.network, settings.channel))
    source = shared / hashlib.sha256(made_for.encode()).hexdigest()[:8]
    with source.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not source.exists():
            staging = Path(tempfile.mkdtemp(dir=shared))
            trio.run(_boot, agentiso.Settings(
                state_dir=staging, images_dir=settings.images, image=settings.image, shape=settings.shape,
                network=settings.network, channel=settings.channel, boot_timeout_s=BOOT_LIMIT_S,
            ))  # fmt: skip
            staging.rename(source)
    linked_copy(source, settings.state_dir)
    return settings


async def _boot(settings: agentiso.Settings) -> None:
    with trio.fail_after(BOOT_LIMIT_S):
        async with agentiso.open_system(settings) as system:
            await system.templates.warm()


def linked_copy(source: Path, target: Path) -> None:
    """Give a new state directory the templates of another; its files are immutable, so links do."""
    for part in ("accelerators", "templates", "checkpoints", "layers"):
        shutil.copytree(source / part, target / part, copy_function=os.link, dirs_exist_ok=True)
