"""On a full disk what makes room is done, and written down; everything else is refused, and doctor says why.

The actors, records, store and checkpoints are the real ones, over simulated machines (see `simulated`), on a tmpfs of
their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from actors.model import files
from actors.model.errors import NoCapacity
from actors.registry import messages as r
from actors.workspace import messages as w
from tests.disks import small_tmpfs
from tests.stateful.supervised import Site

SIZE_KB = 32 * 1024


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    with small_tmpfs(tmp_path / "small", SIZE_KB) as root:
        yield Site(root, monkeypatch)


def fill(site: Site) -> Path:
    """Take what is free, as a guest that writes does; return the file that has it."""
    ballast = site.state_dir.with_name("ballast")
    with ballast.open("ab", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return ballast


async def test_what_makes_room_is_done_on_a_full_disk_however_fast_others_take_that(site: Site) -> None:
    async with site.supervisor():
        one, two = await site.create("one"), await site.create("two")
        for name in ("first", "second", "third"):
            await site.tell("one", w.CreateSnapshot(name))
        await site.tell("two", w.Suspend())
        # Until what a full disk would keep from being flushed is written down for good.
        await site.world.store.flush()
        fill(site)
        with pytest.raises(NoCapacity, match="disk is full"):
            await site.create("three")
        with pytest.raises(NoCapacity, match="disk is full"):
            await site.tell("one", w.CreateSnapshot("fourth"))
        (told,) = (await site.diagnosis()).host
        assert (told.path, "snapshot delete" in told.remedy) == (str(site.state_dir), True)
        for left in (("second", "third"), ("third",), ()):
            name = next(each.name for each in (await site.infos())["one"].snapshots)
            await site.tell("one", w.DeleteSnapshot(name))
            fill(site)
            assert tuple(each.name for each in site.record(one).snapshots) == left
        await site.tell("two", w.Stop())
        fill(site)
        await site.tell("one", w.Stop())
        ballast = fill(site)
        assert [site.record(info).state for info in (one, two)] == ["stopped", "stopped"]
        await site.registry.ask(r.DestroyWorkspace("two"))
        ballast.unlink()
        await site.tell("one", w.Start(None))
        files.keep_reserve(site.state_dir / "reserve")
        assert (site.state_dir / "reserve").stat().st_size == files.RESERVE_BYTES
        assert (await site.diagnosis(again=True)).healthy


async def test_a_record_takes_the_room_that_was_kept_for_it_and_gives_back_the_rest(site: Site) -> None:
    site.state_dir.mkdir()
    record, reserve = site.state_dir / "record.json", site.state_dir / "reserve"
    files.replace_json(record, {"number": 0})
    files.keep_reserve(reserve)
    fill(site)
    with pytest.raises(NoCapacity):
        files.replace_json(record, {"number": 1})
    for number in range(20):
        files.replace_json(record, {"number": number, "long": "x" * 9000}, reserve=reserve)
        assert files.read_json(record)["number"] == number
        fill(site)
    reserve.unlink()
    fill(site)
    with pytest.raises(NoCapacity):
        files.replace_json(record, {"number": 1}, reserve=reserve)
    assert files.read_json(record)["number"] == 19
