"""Bad input on a real machine: refused with a next step, and the machine, its agent and its workspace serve on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.model.errors import ConsumerFailed, GuestRefused, InvalidArgument
from agentiso import System, Workspace
from agentiso.access.gate import Gate
from tests.standins import Caller, caller

pytestmark = pytest.mark.functional
LIMIT_S = 600
MIB = 2**20


@pytest.fixture
async def user(system: System) -> AsyncIterator[Caller]:
    async with caller(system, Gate(system.settings), "cli") as made:
        yield made


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host whose disk holds a megabyte."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    path = tmp_path / "full"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


async def is_well(ws: Workspace) -> None:
    """Check that a workspace works, and that its guest agent is still the one that it was."""
    assert (await ws.exec("echo well")).stdout == b"well\n"
    assert not (await ws.jobs.list()).began_anew
    assert (await ws.info()).state == "running"


async def test_numbers_and_commands_that_cannot_be_harm_nobody(system: System, user: Caller) -> None:
    def fail(_stream: int, _data: bytes) -> None:
        raise ZeroDivisionError

    with trio.fail_after(LIMIT_S):
        ws = await system.create("hard")
        here = {"workspace_id": "hard"}
        await ws.files.write("/root/f", b"text")
        for offset in (2**63, 10**30, -1):
            error = await user.refused("file_read", **here, path="/root/f", offset=offset)
            assert (error["code"], error["remedy"] != "") == ("invalid_argument", True)
            with pytest.raises(InvalidArgument):
                await ws.files.read("/root/f", offset=offset)
        assert (await user("file_read", **here, path="/root/f", offset=2**62))["content"] == ""
        await is_well(ws)

        # What JSON may spell 2.0 is a whole number.
        assert (await user("exec", **here, command="echo a", max_output_bytes=1000.0))["stdout"] == "a\n"
        assert (await user("file_read", **here, path="/root/f", limit=2.0))["content"] == "te"
        assert (await user("port_forward", **here, guest_port=8080.0))["guest_port"] == 8080
        await user("workspace_logs", **here, max_lines=10.0)
        with pytest.raises(ConsumerFailed, match="ZeroDivisionError"):
            await ws.exec("echo a", on_output=fail)
        await is_well(ws)

        missing = await user("exec", **here, command="no-such-program")
        assert missing["exit_code"] == 127
        with pytest.raises(GuestRefused, match="no-such-program") as caught:
            await ws.exec(["no-such-program"])
        assert "Install it" in caught.value.remedy
        assert "file_write" in (await user.refused("exec", **here, command="x" * 200_000))["remedy"]
        assert (await user("exec", **here, command=f": {'x' * 130_000}"))["exit_code"] == 0
        many = {f"V{number}": "x" * 1000 for number in range(2000)}
        assert "file_write" in (await user.refused("exec", **here, command="true", env=many))["remedy"]
        await is_well(ws)


async def test_files_that_are_none_and_disks_that_are_full_are_refused(
    system: System, user: Caller, tmp_path: Path, full_disk: Path
) -> None:
    with trio.fail_after(LIMIT_S):
        ws = await system.create("odd")
        here: dict[str, Any] = {"workspace_id": "odd"}
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        for path in ("/dev/zero", str(pipe)):
            error = await user.refused("file_upload", **here, host_path=path, guest_path="/root/x")
            assert "neither a file nor a directory" in error["message"]
        for path in ("/dev/zero", "/root"):
            assert (await user.refused("file_read", **here, path=path))["remedy"]

        await ws.exec(f"mkdir /root/d; head -c {4 * MIB} /dev/urandom | tee /root/big > /root/d/big")
        for path in ("/root/big", "/root/d"):
            error = await user.refused("file_download", **here, guest_path=path, host_path=f"{full_disk}/x")
            assert (error["code"], error["remedy"]) == ("no_capacity", "Make room on it.")
        assert not [each for each in full_disk.rglob("*") if each.is_file()]

        await ws.exec("touch /root/d/$(printf '\\377')")
        assert len((await user("file_list", **here, path="/root/d"))["entries"]) == 2
        await is_well(ws)
