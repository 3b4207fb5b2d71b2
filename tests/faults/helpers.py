"""What the fault tests share: commands against a daemon, images with a flaw, and a look at all that could be left."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import trio

import agentiso
from actors.registry.places import MARK
from imagebuild.image import MANIFEST, NAMES, FileFacts, Manifest

LIMIT_S = 300
"""Far beyond what any step here takes: software emulation on a host that others use too."""
SHAPE = agentiso.Shape(vcpus=1, memory_mb=256, disk_gb=1)
PARTS = ("workspaces", "layers", "checkpoints", "templates")


async def until(condition: Callable[[], Any]) -> Any:
    """Wait until a condition holds and return what it returned; the caller bounds the wait."""
    while not (value := condition()):
        await trio.sleep(0.01)
    return value


async def output(ws: agentiso.Workspace, command: str) -> str:
    result = await ws.exec(command)
    assert result.exit_code == 0, result
    return result.stdout.decode().strip()


def files(state_dir: Path) -> dict[str, set[str]]:
    """Return what is in the directories of a state directory that hold one entry per thing."""
    return {part: {path.name for path in (state_dir / part).glob("*")} - {MARK} for part in PARTS}


def processes(directory: Path) -> set[int]:
    """Return the living processes, ours apart, whose arguments name something in a directory."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"{directory}/".encode() in path.read_bytes():
                found.add(int(path.parent.name))
        except OSError:
            continue
    return found - {os.getpid()}


def record_of(state_dir: Path, name: str) -> dict[str, Any]:
    """Return the record of the workspace with a name."""
    for path in (state_dir / "workspaces").glob("*/record.json"):
        record: dict[str, Any] = json.loads(path.read_bytes())
        if record["name"] == name:
            return record
    raise AssertionError(f"no workspace {name} has a record")


def qemu_pid(state_dir: Path, name: str) -> int:
    """Return the process id of a workspace's QEMU, from its record."""
    return int(record_of(state_dir, name)["machine"]["process"]["pid"])


def write_program(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def flawed_image(images_dir: Path, target: Path, *, files: dict[str, bytes] | None = None, **manifest: Any) -> Path:
    """Make a directory of images whose ``base`` differs from the real one in some files or manifest fields."""
    files = files or {}
    source = (images_dir / NAMES / "base").resolve()
    stated = json.loads((source / MANIFEST).read_bytes())
    for name, content in files.items():
        stated["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    stated |= manifest
    facts = {name: FileFacts(**values) for name, values in stated["files"].items()}
    digest = Manifest(**{**stated, "files": facts}).digest
    directory = target / digest
    directory.mkdir(parents=True)
    for name in stated["files"]:
        if name in files:
            (directory / name).write_bytes(files[name])
        else:
            (directory / name).symlink_to(source / name)
    (directory / MANIFEST).write_text(json.dumps(stated))
    (target / NAMES).mkdir()
    (target / NAMES / "base").symlink_to(Path("..") / digest)
    return target


@attrs.frozen
class CommandLine:
    """The `agentiso` command against one state directory, whose daemon it starts on demand."""

    settings: agentiso.Settings
    environment: dict[str, str]

    @property
    def state_dir(self) -> Path:
        return self.settings.state_dir

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command; the caller waits for its end."""
        return subprocess.Popen(
            self._argv(arguments),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    async def run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return await trio.run_process(
            self._argv(arguments), env=self.environment, check=False, capture_stdout=True, capture_stderr=True
        )

    async def json(self, *arguments: str) -> Any:
        """Run a command that must succeed and return what it printed."""
        done = await self.run(arguments[0], "--json", *arguments[1:])
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return json.loads(done.stdout)

    def daemon_pid(self) -> int:
        return int((self.state_dir / "lock").read_text())

    async def kill_daemon(self) -> None:
        """Kill -9 the daemon and wait until it has let go of the state directory."""
        pid = self.daemon_pid()
        fd = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            await trio.lowlevel.wait_readable(fd)
        finally:
            os.close(fd)

    def _argv(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "agentiso.cli", *arguments]


async def ended(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    """Wait for a command's end and return its status, stdout and stderr."""
    out, err = await trio.to_thread.run_sync(process.communicate, abandon_on_cancel=True)
    return process.returncode, out.decode(), err.decode()
