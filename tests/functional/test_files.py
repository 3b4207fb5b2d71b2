"""Files and trees between this host and a real guest: through the library, the tools and the command line."""

from __future__ import annotations

import hashlib
import json
import os
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from mcp import Client, StdioServerParameters, stdio_client

from actors.model.errors import AgentisoError, GuestRefused, InvalidArgument
from agentiso import System, Workspace
from agentiso.library.copying import CopyFailed
from tests.machines import ARGV

pytestmark = pytest.mark.functional
LIMIT_S = 600
BIG_BYTES = 1024 * 1024 * 1024
"""Twice the guest's memory."""
BIG_LIMIT_S = 900
"""The channel carries some 20 MiB/s under software emulation, less on a busy host."""


async def output(workspace: Workspace, command: str) -> str:
    result = await workspace.exec(command)
    assert result.exit_code == 0, result
    return result.stdout.decode().strip()


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def test_files_beyond_any_memory_go_both_ways_unchanged(system: System) -> None:
    piece = os.urandom(1024 * 1024)
    digest = hashlib.sha256()

    async def content() -> AsyncIterator[bytes]:
        for _ in range(BIG_BYTES // len(piece)):
            digest.update(piece)
            yield piece

    with trio.fail_after(BIG_LIMIT_S):
        ws = await system.create("large", disk_gb=4)
        before = peak_kib()
        agent = "for p in /proc/[0-9]*; do grep -qs guest.agent $p/cmdline && grep -s VmHWM $p/status; done; true"
        assert await ws.files.write("/root/big", content()) == BIG_BYTES
        received = hashlib.sha256()
        async with ws.files.open_read("/root/big") as pieces:
            async for each in pieces:
                received.update(each)
        assert received.digest() == digest.digest()
        assert peak_kib() - before < 80 * 1024
        assert max(int(line.split()[1]) for line in (await output(ws, agent)).splitlines()) < 100 * 1024
        # Who has read enough leaves; the guest goes on serving.
        async with ws.files.open_read("/root/big", offset=BIG_BYTES - 10) as pieces:
            assert b"".join([each async for each in pieces]) == piece[-10:]
        async with ws.files.open_read("/root/big") as pieces:
            assert len(await anext(pieces)) > 0
        assert await output(ws, "echo there") == "there"


async def test_edits_searches_and_paths_that_cannot_be_meant(system: System, tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_S):
        ws = await system.create("editing")
        files = ws.files
        await files.write("/srv/code/a.py", "x = 1\ny = 1\n", mode=0o750)
        with pytest.raises(GuestRefused, match="occurs 2 times"):
            await files.edit("/srv/code/a.py", " = 1", " = 2")
        with pytest.raises(GuestRefused, match="does not occur"):
            await files.edit("/srv/code/a.py", "z", "q")
        assert (await files.edit("/srv/code/a.py", "x = 1", "x = é")).replacements == 1
        assert (await files.edit("/srv/code/a.py", " = ", "=", replace_all=True)).replacements == 2
        assert (await files.read("/srv/code/a.py")).content.decode() == "x=é\ny=1\n"
        assert (await files.stat("/srv/code/a.py")).mode == 0o750

        await files.write("/srv/code/sub/b.txt", "needle\n" * 30 + "Needle (1)\n")
        await files.write("/srv/code/binary", b"needle\0\n")
        await files.write("/srv/code/.git/x", "needle")
        found = await files.search("needle", "/srv/code", max_results=10)
        assert (len(found.matches), found.truncated, found.matches[0].line) == (10, True, 1)
        found = await files.search("NEEDLE (1)", "/srv", fixed=True, ignore_case=True, glob="*.txt")
        assert [(m.path, m.line, m.text) for m in found.matches] == [("/srv/code/sub/b.txt", 31, "Needle (1)")]
        assert (await files.search(r"^x=.$", "/srv")).matches[0].path == "/srv/code/a.py"
        await files.write("/srv/code/slow", "a" * 40 + "!")
        with pytest.raises(InvalidArgument, match="within 2 s"):
            await files.search("(a+)+$", "/srv/code/slow", timeout_s=2)
        for pattern, path in (("(", "/srv"), ("x", "/none")):
            with pytest.raises(InvalidArgument):
                await files.search(pattern, path)

        await output(ws, "mkfifo /srv/pipe; mount -t tmpfs -o size=1m small /mnt; ln -s /srv/code/a.py /srv/link")
        refused: list[tuple[type[AgentisoError], Any]] = [
            (GuestRefused, lambda: files.read("/srv")),
            (GuestRefused, lambda: files.read("/dev/zero")),
            (GuestRefused, lambda: files.read("/srv/pipe")),
            (GuestRefused, lambda: files.read("/none")),
            (GuestRefused, lambda: files.write("/srv", b"x")),
            (GuestRefused, lambda: files.write("/dev/null", b"x")),
            (GuestRefused, lambda: files.write("/mnt/full", bytes(5_000_000))),
            (GuestRefused, lambda: files.list("/srv/code/a.py")),
            (GuestRefused, lambda: files.download("/srv/pipe", tmp_path / "x")),
            (InvalidArgument, lambda: files.read("relative")),
            (InvalidArgument, lambda: files.read("/x\0y")),
            (InvalidArgument, lambda: files.read("/\ud800")),
            (InvalidArgument, lambda: files.read("/" + "x" * 5000)),
            (InvalidArgument, lambda: files.read("/srv/link", offset=-1)),
            (InvalidArgument, lambda: files.edit("/srv/link", "", "x")),
        ]
        for error, call in refused:
            with pytest.raises(error):
                await call()
        assert await output(ws, "ls -A /mnt") == ""
        assert (await files.read("/srv/../srv/link")).content.startswith(b"x=")
        assert b"processor" in (await files.read("/proc/cpuinfo")).content
        # A file that grows while it is read comes to an end.
        await output(ws, "(while :; do echo more >> /root/grows; done) > /dev/null 2>&1 & sleep 0.2")
        assert (await files.read("/root/grows")).content

        async def broken() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError("no more")

        with pytest.raises(CopyFailed, match="no more"):
            await files.write("/srv/link", broken())
        assert (await files.read("/srv/link")).content.startswith(b"x=")
        assert ".agentiso" not in await output(ws, "ls -A /srv /srv/code")


async def test_trees_go_both_ways_and_a_hostile_guest_writes_nothing_outside(system: System, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "src" / "deep").mkdir(parents=True)
    for number in range(500):
        (source / "src" / f"{number}.txt").write_text(str(number))
    (source / "src" / "run").write_text("#!/bin/sh\n")
    (source / "src" / "run").chmod(0o755)
    (source / "src" / "deep" / "blob").write_bytes(os.urandom(3_000_000))
    (source / "link").symlink_to("src/run")
    (source / "absolute").symlink_to("/etc/hostname")
    (source / "node_modules").mkdir()
    (source / "node_modules" / "x").write_text("x")
    with trio.fail_after(LIMIT_S):
        ws = await system.create("trees")
        sent = await ws.files.upload_tree(source, "/workspace", exclude=["node_modules"])
        assert (sent.entries, sent.skipped_count) == (2 + 500 + 2 + 2, 0)
        assert await output(ws, "cd /workspace; ls; stat -c %a src/run; readlink link absolute; ls src | wc -l") == (
            "absolute\nlink\nsrc\n755\nsrc/run\n/etc/hostname\n502"
        )
        await output(
            ws, "cd /workspace; ln -s ../../etc up; mkfifo pipe; chmod 4777 src/run; mkdir 'a b'; ln -s . 'a b/c'"
        )
        back = await ws.files.download_tree("/workspace", tmp_path / "back", exclude=["0.txt"])
        assert sorted(line.partition(":")[0] for line in back.skipped) == ["absolute", "pipe", "up"]
        assert (tmp_path / "back" / "src" / "deep" / "blob").read_bytes() == (source / "src/deep/blob").read_bytes()
        assert (tmp_path / "back" / "src" / "run").stat().st_mode & 0o7777 == 0o755
        assert not (tmp_path / "back" / "src" / "0.txt").exists()
        assert (tmp_path / "back" / "link").resolve() == tmp_path / "back" / "src" / "run"

        one = await ws.files.upload(source / "src" / "run", "/root/run")
        assert (one.entries, one.size_bytes) == (1, 10)
        await ws.files.download("/root/run", tmp_path / "run")
        assert (tmp_path / "run").stat().st_mode & 0o777 == 0o755
        await output(ws, "mount -t tmpfs -o size=1m small /mnt")
        with pytest.raises(GuestRefused, match="No space left"):
            await ws.files.upload_tree(source, "/mnt/full")
        assert await output(ws, "echo there") == "there"


async def test_tools_move_files_only_within_the_roots_and_people_everywhere(
    environment: dict[str, str], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "data").write_bytes(b"\0\xff" * 1000)
    (tmp_path / "secret").write_text("outside")
    (root / "leak").symlink_to(tmp_path / "secret")
    config = tmp_path / "config.toml"
    config.write_text(f'transfer_roots = ["{root}"]\n')
    named = {**environment, "AGENTISO_CONFIG": str(config)}
    parameters = StdioServerParameters(command=ARGV[0], args=[*ARGV[1:], "serve"], env=named)
    with trio.fail_after(LIMIT_S):
        async with Client(stdio_client(parameters)) as client:

            async def call(tool: str, **arguments: Any) -> Any:
                result = await client.call_tool(tool, {"workspace_id": "mover", **arguments})
                return result.content[0].text if result.is_error else result.structured_content  # type: ignore[union-attr]

            made = await client.call_tool("workspace_create", {"name": "mover"})
            assert not made.is_error, made.content
            sent = await call("file_upload", host_path=str(root / "data"), guest_path="/root/data")
            assert sent["size_bytes"] == 2000
            back = await call("file_download", host_path=str(root / "out"), guest_path="/root")
            assert (back["skipped_count"], (root / "out" / "data").read_bytes()) == (0, b"\0\xff" * 1000)
            for path in (root / "leak", tmp_path / "secret", root / ".." / "secret"):
                refused = await call("file_upload", host_path=str(path), guest_path="/root/x")
                assert refused.startswith("path_refused"), refused
            refused = await call("file_download", host_path=str(tmp_path / "new"), guest_path="/root/data")
            assert refused.startswith("path_refused")
            assert not (tmp_path / "new").exists()
            await call("file_write", path="/root/t", content="one two two")
            assert "occurs 2 times" in await call("file_edit", path="/root/t", old_string="two", new_string="2")
            edited = await call("file_edit", path="/root/t", old_string="two", new_string="2", replace_all=True)
            assert edited == {"replacements": 2, "size_bytes": 7}
            found = await call("file_search", pattern="one", path="/root")
            assert [(m["path"], m["line"]) for m in found["matches"]] == [("/root/t", 1)]
            assert "no tool" in await call("file_stat", path="/root")

        async def cp(*words: str) -> Any:
            done = await trio.run_process([*ARGV, "cp", *words, "--json"], env=named, capture_stdout=True, check=False)
            return done.returncode, json.loads(done.stdout)

        # The user may do here what the user may do anyway.
        assert (await cp(str(tmp_path / "secret"), "mover:/root/"))[0] == 0
        status, shown = await cp("mover:/root/secret", str(tmp_path / "copy"))
        assert (status, shown["size_bytes"], (tmp_path / "copy").read_text()) == (0, 7, "outside")
        (tmp_path / "into").mkdir()
        assert (await cp("mover:/root", str(tmp_path / "into"), "--exclude", "data"))[0] == 0
        assert (tmp_path / "into" / "root" / "secret").exists()
        assert not (tmp_path / "into" / "root" / "data").exists()
        status, shown = await cp(str(root), "mover:/srv")
        assert (status, shown["skipped_count"]) == (0, 0)
        assert shown["entries"] == len(list(root.rglob("*")))
        status, shown = await cp("a", "b")
        assert (status, shown["error"]["code"]) == (1, "invalid_argument")
        await trio.run_process([*ARGV, "destroy", "mover"], env=named, capture_stdout=True)
