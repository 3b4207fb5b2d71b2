"""A workspace goes to a file and comes to life from it elsewhere; what is wrong with a file leaves nothing behind."""

from __future__ import annotations

import io
import json
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import agentiso
from actors.model.errors import InvalidArgument, NotFound
from actors.registry.bundle import BadBundle, BundleReader, BundleWriter, Manifest, layer_name
from actors.registry.transfer import TransferFailed
from agentiso import Settings, System, Workspace
from tests.machines import ARGV
from tests.templates import give

pytestmark = pytest.mark.functional
LIMIT_S = 600
SHAPE = agentiso.Shape(vcpus=1, memory_mb=256, disk_gb=2)


@pytest.fixture
def settings(images_dir: Path, state_dir: Path) -> Settings:
    return give(Settings(state_dir=state_dir, images_dir=images_dir, image="busybox", shape=SHAPE))


@pytest.fixture
def elsewhere(settings: Settings) -> Iterator[Settings]:
    """Another state directory, which knows nothing of the first."""
    path = Path(tempfile.mkdtemp(prefix="ai-", dir="/tmp"))
    yield attrs.evolve(settings, state_dir=path)
    shutil.rmtree(path)


async def output(workspace: Workspace, command: str) -> str:
    result = await workspace.exec(command)
    assert result.exit_code == 0, result
    return result.stdout.decode().strip()


def left(settings: Settings) -> dict[str, set[str]]:
    parts = ("workspaces", "layers", "checkpoints", "imports")
    return {part: {path.name for path in (settings.state_dir / part).glob("*")} for part in parts}


def rewritten(bundle: Path, **changes: Any) -> io.BytesIO:
    """Return a bundle with another fingerprint, which is as whole as the first."""
    target = io.BytesIO()
    with bundle.open("rb") as source:
        reader, writer = BundleReader(source.read, lambda _: None), BundleWriter(target.write, lambda _: None)
        old: Manifest = reader.manifest()
        assert old.memory is not None
        memory = attrs.evolve(old.memory, fingerprint=attrs.evolve(old.memory.fingerprint, **changes))
        writer.add_manifest(attrs.evolve(old, memory=memory))
        sizes = {layer_name(number): size for number, size in enumerate(old.layers)}
        for name, size in {**sizes, "ram": memory.data_bytes, "devices": memory.devices_bytes}.items():
            writer.add(name, size, reader.member(name, size))
        writer.finish()
    target.seek(0)
    return target


async def exported(system: System, target: Path) -> Workspace:
    """Make a workspace with a process, a file in memory and one on its disk, and export it."""
    workspace = await system.create("traveller")
    await output(workspace, "echo memory > /dev/shm/f; echo first > /f; sleep 1000 > /dev/null 2>&1 &")
    await workspace.snapshots.create("first")
    await output(workspace, "echo second > /f")
    said: list[str] = []
    report = await workspace.export(target, on_progress=said.append)
    assert report.has_memory
    assert report.size_bytes == target.stat().st_size
    assert "MiB" in said[-1]
    return workspace


async def test_a_workspace_goes_on_elsewhere_with_its_memory_and_its_disk(
    settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    bundle, snapshot = tmp_path / "traveller.agentiso", tmp_path / "first.agentiso"
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(settings) as system:
            workspace = await exported(system, bundle)
            assert stat.S_IMODE(bundle.stat().st_mode) == 0o600
            # The holes of the memory are not in it.
            assert bundle.stat().st_size < SHAPE.memory_mb * 2**20
            await workspace.export(str(snapshot), snapshot="first")
            assert await output(workspace, "pidof sleep; cat /dev/shm/f /f")
            before = left(settings)
            with pytest.raises(InvalidArgument, match="something already"):
                await workspace.export(bundle)
            with pytest.raises(InvalidArgument, match="directory"):
                await workspace.export(tmp_path / "absent" / "f")
            closed = io.BytesIO()
            closed.close()
            with pytest.raises(TransferFailed):
                await workspace.export(closed)
            reached = trio.Event()
            async with trio.open_nursery() as nursery:
                target = tmp_path / "given-up"
                nursery.start_soon(lambda: workspace.export(target, on_progress=lambda _: reached.set()))
                await reached.wait()
                nursery.cancel_scope.cancel(reason="the caller has gone")
            assert {path.name for path in tmp_path.iterdir()} == {bundle.name, snapshot.name}
            assert left(settings)["checkpoints"] == before["checkpoints"]
        async with agentiso.open_system(elsewhere) as system:
            made = await system.import_workspace(bundle)
            assert (made.report.memory_kept, made.report.note) == (True, "")
            info = await made.workspace.info()
            assert (info.name, info.started_by, info.shape) == ("traveller", "restore", SHAPE)
            assert info.workspace_id != workspace.id
            assert info.evidence is not None
            assert info.evidence.nonce_matched
            assert await output(made.workspace, "cat /dev/shm/f /f; pidof sleep | wc -w") == "memory\nsecond\n1"
            assert await output(made.workspace, "cat /etc/machine-id") == info.workspace_id.replace("-", "")
            ram = next(elsewhere.state_dir.glob("checkpoints/*/ram"))
            assert ram.stat().st_blocks * 512 < SHAPE.memory_mb * 2**20
            # It is a workspace like any other, and the file can be used again.
            child = (await made.workspace.fork(1))[0]
            assert await output(child, "cat /dev/shm/f") == "memory"
            with snapshot.open("rb") as stream:
                again = await system.import_workspace(stream, "again")
            assert await output(again.workspace, "cat /dev/shm/f /f") == "memory\nfirst"
            await made.workspace.stop()
            await made.workspace.start()
            assert await output(made.workspace, "cat /f") == "second"
            assert (await system.import_workspace(bundle)).workspace.name.startswith("traveller-")


async def test_memory_of_another_host_is_left_and_what_is_damaged_refused(
    settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    bundle = tmp_path / "traveller.agentiso"
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(settings) as system:
            await exported(system, bundle)
        async with agentiso.open_system(elsewhere) as system:
            empty = left(elsewhere)
            whole = bundle.read_bytes()
            for bad in (whole[: len(whole) // 2], b"", b"nonsense" * 1000):
                with pytest.raises(BadBundle):
                    await system.import_workspace(io.BytesIO(bad))
            for place in (0.1, 0.5, 0.9):
                at = int(len(whole) * place)
                bad = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
                with pytest.raises(BadBundle):
                    await system.import_workspace(io.BytesIO(bad))
            with pytest.raises(InvalidArgument, match="No such file"):
                await system.import_workspace(tmp_path / "absent")
            assert await system.list() == ()
            assert left(elsewhere) == empty

            made = await system.import_workspace(rewritten(bundle, qemu="another one", cpu_model="z80"), "foreign")
            assert not made.report.memory_kept
            assert "here, another one there" in made.report.note
            assert "here, z80 there" in made.report.note
            assert (await made.workspace.info()).started_by == "cold_boot"
            assert await output(made.workspace, "cat /f; ls /dev/shm") == "second"
            await made.workspace.destroy()
            assert left(elsewhere) == empty
        bare = attrs.evolve(elsewhere, images_dir=tmp_path / "no-images")
        async with agentiso.open_system(bare) as system:
            with pytest.raises(NotFound, match=r"image busybox .* not here"):
                await system.import_workspace(bundle)
            assert left(elsewhere) == empty


async def test_workspaces_are_exported_and_imported_by_command(settings: Settings, tmp_path: Path) -> None:
    config = settings.state_dir / "config.toml"
    config.write_text(
        f'images_dir = "{settings.images}"\nimage = "busybox"\n[shape]\nvcpus = 1\nmemory_mb = 256\ndisk_gb = 2\n'
    )
    environment = {
        "AGENTISO_STATE_DIR": str(settings.state_dir),
        "AGENTISO_CONFIG": str(config),
        "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
    }

    async def run(*arguments: str) -> bytes:
        done = await trio.run_process([*ARGV, *arguments], env=environment, capture_stdout=True)
        return bytes(done.stdout)

    with trio.fail_after(LIMIT_S):
        try:
            await run("create", "one")
            await run("exec", "one", "--", "sh", "-c", "echo kept > /dev/shm/f")
            await run("snapshot", "create", "one", "point")
            made = json.loads(await run("export", "one@point", str(tmp_path / "file"), "--json"))
            assert made["size_bytes"] == (tmp_path / "file").stat().st_size
            (tmp_path / "stream").write_bytes(await run("export", "one", "-"))
            for name in ("file", "stream"):
                back = json.loads(await run("import", str(tmp_path / name), name, "--json"))
                assert (back["name"], back["memory_kept"], back["started_by"]) == (name, True, "restore")
                assert await run("exec", name, "--", "cat", "/dev/shm/f") == b"kept\n"
            await run("destroy", "one", "file", "stream")
        finally:
            await run("daemon", "stop")
