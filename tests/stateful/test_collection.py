"""What nobody needs any more goes by itself, without a later operation; what cannot be read keeps everything.

The actors, records, store and checkpoints are the real ones, over simulated machines (see `simulated`).
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from actors.model.errors import AgentisoError
from actors.registry import actor as registry
from actors.registry import messages as r
from actors.workspace import messages as w
from tests.stateful.supervised import READING, SOON_S, Site, leave_unswept, unreadable


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    found = Site(tmp_path, monkeypatch)
    leave_unswept(monkeypatch)
    return found


async def test_the_checkpoint_of_a_fork_goes_by_itself_once_its_child_has_failed_and_was_started(site: Site) -> None:
    async with site.supervisor():
        await site.create("parent")
        report = (await site.registry.ask(r.ForkWorkspace("parent", names=("child",)))).report
        site.qemu((await site.infos())["child"]).dead.set()
        await site.wait_for_state("child", "failed")
        assert report.checkpoint_id in site.stored()
        await site.tell("child", w.Start(None))
        await site.wait_collected(report.checkpoint_id)


async def test_the_checkpoint_of_a_fork_goes_by_itself_once_its_child_was_suspended(site: Site) -> None:
    async with site.supervisor():
        await site.create("parent")
        report = (await site.registry.ask(r.ForkWorkspace("parent", names=("child",)))).report
        await site.tell("parent", w.Suspend())
        assert report.checkpoint_id in site.stored()
        await site.tell("child", w.Suspend())
        await site.wait_collected(report.checkpoint_id)
        await site.tell("child", w.Resume())
        await site.tell("parent", w.Resume())


async def test_the_checkpoint_of_a_fork_without_children_goes_by_itself(site: Site) -> None:
    async with site.supervisor():
        await site.create("parent")
        before = site.stored()
        site.world.plan_start_failure()
        report = (await site.registry.ask(r.ForkWorkspace("parent", names=("child",)))).report
        (child,) = report.children
        assert child.error
        await site.wait_collected(report.checkpoint_id)
        assert before <= site.stored()


@pytest.mark.parametrize("error", READING)
async def test_a_checkpoint_whose_record_cannot_be_read_keeps_everything_until_it_can(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    monkeypatch.setattr(registry, "COLLECT_AGAIN_S", SOON_S)
    async with site.supervisor():
        info = await site.create("one")
        await site.write("one", "before")
        await site.tell("one", w.CreateSnapshot("kept"))
        await site.tell("one", w.CreateSnapshot("gone"))
        kept, gone = (each.checkpoint for each in site.record(info).snapshots)
        before = site.stored()
        with unreadable(error, site.world.store.checkpoint(kept) / "checkpoint.json"):
            await site.tell("one", w.DeleteSnapshot("gone"))
            while not (told := (await site.diagnosis()).collection):
                await site.collected.wait()
            assert site.stored() == before
            assert kept in told[0].why
            with pytest.raises(AgentisoError):
                await site.tell("one", w.RestoreSnapshot("kept"))
        await site.wait_collected(gone)
        await site.tell("one", w.RestoreSnapshot("kept"))
        assert await site.read("one") == ("before", "before")
        assert (await site.diagnosis()).healthy


async def test_a_layer_that_cannot_be_removed_is_told_and_removed_later(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "COLLECT_AGAIN_S", SOON_S)
    unlink, broken = Path.unlink, [True]

    def fail(path: Path, *arguments: Any, **options: Any) -> None:
        if path.suffix == ".qcow2" and broken[0]:
            raise OSError(errno.EIO, "an error of the disk", str(path))
        unlink(path, *arguments, **options)

    async with site.supervisor():
        info = await site.create("one")
        layer = site.record(info).layer
        assert layer is not None
        monkeypatch.setattr(Path, "unlink", fail)
        await site.registry.ask(r.DestroyWorkspace("one"))
        assert layer in site.stored()
        (told,) = (await site.diagnosis()).collection
        assert "an error of the disk" in told.why
        broken[0] = False
        await site.wait_collected(layer)
        assert (await site.diagnosis()).healthy


@pytest.mark.parametrize("error", READING)
async def test_a_workspace_whose_disk_cannot_be_measured_is_described_without_that(site: Site, error: int) -> None:
    async with site.supervisor():
        info = await site.create("one")
        assert (await site.tell("one", w.Describe(measured=True))).disk_used_bytes > 0
        layer = site.record(info).layer
        assert layer is not None
        with unreadable(error, site.world.store.layer(layer)):
            found = await site.tell("one", w.Describe(measured=True))
        assert (found.state, found.disk_used_bytes) == ("running", None)
        site.world.store.layer(layer).rename(site.state_dir / "away")
        with pytest.raises(AgentisoError, match="missing"):
            await site.tell("one", w.CreateSnapshot("point"))
        (site.state_dir / "away").rename(site.world.store.layer(layer))
        await site.tell("one", w.CreateSnapshot("point"))
