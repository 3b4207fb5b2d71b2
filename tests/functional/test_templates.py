"""Templates: one serves disks of every size, is made ahead, and goes when it is of no use any more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

import agentiso
from agentiso import Settings, System, Workspace
from tests.machines import ARGV

pytestmark = pytest.mark.functional
LIMIT_S = 600
GB = 2**30


@pytest.fixture
def settings(images_dir: Path, state_dir: Path) -> Settings:
    """A state directory of its own with links to the images, so that one can be removed."""
    images = state_dir / "images"
    (images / "names").mkdir(parents=True)
    digest = (images_dir / "names" / "busybox").readlink().name
    (images / digest).symlink_to(images_dir / digest)
    (images / "names" / "busybox").symlink_to(f"../{digest}")
    return Settings(state_dir=state_dir, image="busybox", shape=agentiso.Shape(vcpus=1, memory_mb=256, disk_gb=2))


async def disk_bytes(workspace: Workspace) -> int:
    shown = await workspace.exec("df -k / | tail -1")
    return int(shown.stdout.split()[1]) * 1024


async def test_a_larger_disk_is_there_without_a_reboot_and_one_template_serves_them_all(settings: Settings) -> None:
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(settings) as system:
            await system.templates.warm(disk_gb=1)
            await system.templates.warm()
            for wanted in (1, 2, 3, 6):
                workspace = await system.create(disk_gb=wanted)
                assert 0.9 < await disk_bytes(workspace) / (wanted * GB) <= 1
                info = await workspace.info()
                assert (info.started_by, info.shape.disk_gb) == ("restore", wanted)
            assert sorted(made.shape.disk_gb for made in await system.templates.list()) == [1, 2]
            # It is a disk like any other: more than its template's fits on it, forks and cold boots have it too.
            filled = await workspace.exec(
                "fallocate -l 4000000000 /big && echo end | dd of=/big bs=1 seek=3999999996 conv=fsync,notrunc && sync"
            )
            assert filled.exit_code == 0, filled
            child = (await workspace.fork(1))[0]
            assert await disk_bytes(child) > 5 * GB
            assert (await child.exec("tail -c 4 /big")).stdout == b"end\n"
            await child.stop()
            assert (await child.start()).started_by == "cold_boot"
            assert await disk_bytes(child) > 5 * GB


async def opened(settings: Settings) -> list[agentiso.TemplateInfo]:
    async with agentiso.open_system(settings) as system:
        return list(await system.templates.list())


async def test_a_stale_template_goes_and_takes_its_files_with_it(settings: Settings) -> None:
    def files() -> int:
        parts = (settings.state_dir / part for part in ("templates", "checkpoints", "layers"))
        return sum(len(list(part.glob("[!.]*"))) for part in parts)

    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(settings) as system:
            made = await system.templates.warm()
            assert await system.templates.warm() == made
            assert await system.templates.drop() == ()
        assert await opened(settings) == [made]
        record = settings.state_dir / "templates" / f"{made.id}.json"
        record.write_text(record.read_text().replace('"qemu": "', '"qemu": "another '))
        assert await opened(settings) == []
        assert files() == 0
        async with agentiso.open_system(settings) as system:
            await system.templates.warm()
            workspace = await system.create("living")
            images = settings.images
            # Where there is no image at all their disk may not be mounted.
            (images / ("0" * 32)).mkdir()
            (images / "names" / "busybox").unlink()
            next(path for path in images.iterdir() if path.is_symlink()).unlink()
            (stale,) = await system.templates.list()
            assert stale.stale == "its image busybox is not there"
            assert [info.id for info in await system.templates.drop()] == [stale.id]
            assert (await workspace.exec("echo on")).stdout == b"on\n"
            await workspace.destroy()
            assert files() == 0


async def test_templates_are_made_listed_and_removed_by_command(settings: Settings, images_dir: Path) -> None:
    environment = {"AGENTISO_STATE_DIR": str(settings.state_dir), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}

    async def run(*arguments: str) -> Any:
        done = await trio.run_process([*ARGV, *arguments, "--json"], env=environment, capture_stdout=True)
        return json.loads(done.stdout)

    with trio.fail_after(LIMIT_S):
        try:
            made = await run("image", "warm", "busybox", "--vcpus", "1", "--memory-mb", "256")
            assert (made["base_image"], made["vcpus"], made["memory_mb"]) == ("busybox", 1, 256)
            assert await run("templates") == [made]
            assert await run("templates", "remove") == []
            assert [gone["id"] for gone in await run("templates", "remove", made["id"][:8])] == [made["id"]]
            assert await run("templates") == []
        finally:
            await trio.run_process([*ARGV, "daemon", "stop"], env=environment, capture_stdout=True)


async def test_a_disk_that_the_guest_does_not_grow_fails_the_start(system: System, monkeypatch: Any) -> None:
    from actors.machine import proof

    with trio.fail_after(LIMIT_S):
        await system.templates.warm(disk_gb=1)
        monkeypatch.setattr(proof, "MIN_FILE_SYSTEM_SHARE", 1.5)
        with pytest.raises(agentiso.AgentisoError, match="its file system has"):
            await system.create("short", disk_gb=3)
        assert await system.list() == ()
