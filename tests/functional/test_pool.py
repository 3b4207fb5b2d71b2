"""A claimed machine of the pool is in every way like a fresh one, and one that is not claimed belongs to nobody."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import agentiso
from actors.machine import proof, start
from actors.machine.qemu.process import find_machines
from agentiso import Lifetime, Pool, Settings, System, Workspace
from tests.machines import ARGV
from tests.templates import give

pytestmark = pytest.mark.functional
LIMIT_S = 600
SHAPE = agentiso.Shape(vcpus=1, memory_mb=256, disk_gb=2)


@pytest.fixture
def settings(images_dir: Path, state_dir: Path) -> Settings:
    return give(Settings(state_dir=state_dir, images_dir=images_dir, image="busybox", shape=SHAPE, pool=Pool(size=2)))


async def filled(system: System) -> None:
    while (info := await system.pool()).ready < info.size:
        await trio.sleep(0.05)


async def output(workspace: Workspace, command: str) -> str:
    result = await workspace.exec(command)
    assert result.exit_code == 0, result
    return result.stdout.decode().strip()


def running(settings: Settings) -> int:
    return len(list(find_machines(settings.state_dir)))


async def assert_like_a_fresh_one(workspace: Workspace, name: str) -> None:
    info = await workspace.info()
    assert (info.name, info.state, info.shape) == (name, "running", SHAPE)
    evidence = info.evidence
    assert evidence is not None
    assert evidence.nonce_matched
    assert evidence.rng_reseeded
    assert evidence.processes_held
    assert (evidence.hostname, evidence.generation) == (name, 1)
    began = time.time()
    seen = await output(
        workspace,
        "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id /sys/class/net/eth0/address; date +%s",
    )
    hostname, machine_id, boot_id, mac, now = seen.split()
    assert (hostname, machine_id, boot_id) == (name, workspace.id.replace("-", ""), evidence.epoch)
    assert mac == info.network.mac
    assert began - 5 < int(now) < time.time() + 5
    assert int((await output(workspace, "df -k / | tail -1")).split()[1]) > 0.9 * 2 * 2**20
    assert "login" not in await workspace.console()


async def test_claimed_machines_are_like_fresh_ones_and_others_are_restored_anew(settings: Settings) -> None:
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(settings, keep=True) as system:
            await filled(system)
            assert await system.list() == ()
            one = await system.create("one", lifetime=Lifetime(ttl_s=3600))
            two = await system.create("two")
            for workspace, name in ((one, "one"), (two, "two")):
                assert (await workspace.info()).started_by == "pool"
                await assert_like_a_fresh_one(workspace, name)
            first, second = (await one.info(), await two.info())
            assert first.evidence is not None
            assert second.evidence is not None
            assert first.evidence.epoch != second.evidence.epoch
            assert first.expires_at is not None
            assert second.expires_at is None
            assert [info.name for info in await system.list()] == ["one", "two"]
            assert await output(one, "head -c 8 /dev/urandom | od -x") != await output(
                two, "head -c 8 /dev/urandom | od -x"
            )
            # What they can do, and what is done for others meanwhile.
            await output(one, "echo kept > /dev/shm/f")
            await one.snapshots.create("kept")
            child = (await one.fork(1))[0]
            assert await output(child, "cat /dev/shm/f") == "kept"
            await one.suspend()
            assert (await one.resume()).started_by == "restore"
            await one.snapshots.restore("kept")
            assert await output(one, "cat /dev/shm/f") == "kept"
            for different in ({"disk_gb": 3}, {"memory_mb": 300}, {"network": "none"}, {"allow_internet": True}):
                other = await system.create(**different)
                assert (await other.info()).started_by == "restore"
                await other.destroy()
            await child.destroy()
            await filled(system)
            assert running(settings) == 4
        # Those that nobody claimed ended with their supervisor.
        assert running(settings) == 2
        async with agentiso.open_system(attrs.evolve(settings, pool=Pool())) as system:
            for name in ("one", "two"):
                workspace = await system.get(name)
                assert await output(workspace, "hostname") == name
                await workspace.destroy()
            assert not list((settings.state_dir / "workspaces").glob("[!.]*"))
    assert running(settings) == 0


async def test_a_claim_that_fails_or_is_given_up_leaves_nothing_and_a_fresh_machine_takes_its_place(
    settings: Settings, monkeypatch: Any
) -> None:
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(settings) as system:
            await filled(system)
            for identity, _directory in find_machines(settings.state_dir):
                os.kill(identity.pid, signal.SIGKILL)
            one = await system.create("one")
            assert (await one.info()).started_by == "restore"
            await one.destroy()

            await system.create("drain")
            await filled(system)
            honest, lies = proof.faults, ["a lie"]
            monkeypatch.setattr(proof, "faults", lambda *proof: [lies.pop()] if lies else honest(*proof))
            two = await system.create("two")
            assert (await two.info()).started_by == "restore"
            assert await output(two, "hostname") == "two"

            await filled(system)
            before = {path.name for path in (settings.state_dir / "workspaces").iterdir()}
            reached, prove = trio.Event(), start.prove

            async def never(*_arguments: Any, **_options: Any) -> None:
                reached.set()
                await trio.sleep_forever()

            async def stuck(machine: Any, *arguments: Any, **options: Any) -> None:
                monkeypatch.setattr(start, "prove", prove)
                try:
                    await never()
                except BaseException:
                    await machine.end()
                    raise

            monkeypatch.setattr(start, "prove", stuck)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(system.create, "given-up")
                await reached.wait()
                nursery.cancel_scope.cancel(reason="the caller has gone")
            assert [info.name for info in await system.list()] == ["drain", "two"]
            gone = before - {path.name for path in (settings.state_dir / "workspaces").iterdir()}
            assert len(gone) == 1
            assert (await (await system.create("given-up")).info()).started_by == "pool"
    assert running(settings) == 0


async def test_a_killed_supervisor_leaves_no_machine_without_owner(settings: Settings) -> None:
    config = settings.state_dir / "config.toml"
    config.write_text(
        f'images_dir = "{settings.images}"\nimage = "busybox"\n'
        "[shape]\nvcpus = 1\nmemory_mb = 256\ndisk_gb = 2\n[pool]\nsize = 1\n"
    )
    environment = {
        "AGENTISO_STATE_DIR": str(settings.state_dir),
        "AGENTISO_CONFIG": str(config),
        "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
    }

    async def run(*arguments: str) -> bytes:
        done = await trio.run_process([*ARGV, *arguments], env=environment, capture_stdout=True)
        return bytes(done.stdout)

    async def pool_is_full() -> None:
        # A machine that runs may not be ready yet.
        async with agentiso.open_system(settings, attach=True) as attached:
            await filled(attached)

    with trio.fail_after(LIMIT_S):
        try:
            await run("create", "first")
            await pool_is_full()
            assert b"pool" in await run("create", "second")
            await pool_is_full()
            pid = int((settings.state_dir / "lock").read_text())
            fd = os.pidfd_open(pid)
            os.kill(pid, signal.SIGKILL)
            await trio.lowlevel.wait_readable(fd)
            os.close(fd)
            before = {identity.pid for identity, _ in find_machines(settings.state_dir)}
            assert len(before) == 3
            assert b"second" in await run("exec", "second", "--", "hostname")
            await pool_is_full()
            after = {identity.pid for identity, _ in find_machines(settings.state_dir)}
            assert len(before & after) == 2
            assert (await run("list")).count(b"running") == 2
        finally:
            await run("destroy", "first", "second")
            await run("daemon", "stop")
        while running(settings):
            await trio.sleep(0.05)
