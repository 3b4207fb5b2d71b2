"""Files of the real guest agent, run as a process of this host, and the host's end of what is asked of them."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from actors.model.errors import AgentisoError, GuestRefused, NoCapacity
from guest import tree
from tests.unit.test_guest_agent import connected

MOST = 10**9


async def test_a_slow_reader_holds_the_guest_up_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(20_000_000))
    received = bytearray()
    started = trio.Event()
    go_on = trio.Event()

    async def take(piece: bytes) -> None:
        received.extend(piece)
        started.set()
        await go_on.wait()

    async with connected(tmp_path) as client, trio.open_nursery() as nursery:

        async def read() -> None:
            found = await client.files.stream(str(tmp_path / "big"), take, max_bytes=MOST)
            assert found.size_bytes == 20_000_000

        nursery.start_soon(read)
        await started.wait()
        for _ in range(20):
            await client.ping()
        assert len(received) < 2_000_000
        go_on.set()
    assert received == (tmp_path / "big").read_bytes()


async def test_a_reader_who_fails_or_has_enough_ends_only_its_own_stream(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(20_000_000))

    async def fail(_piece: bytes) -> None:
        raise NoCapacity("enough")

    async with connected(tmp_path) as client:
        with pytest.raises(NoCapacity, match="enough"):
            await client.files.stream(str(tmp_path / "big"), fail, max_bytes=MOST)
        with pytest.raises(NoCapacity, match="more than 100000 bytes"):
            await client.files.stream(str(tmp_path / "big"), _ignore, max_bytes=100_000)
        with trio.move_on_after(0.05):
            await client.files.stream(str(tmp_path / "big"), _for_ever, max_bytes=MOST)
        assert (await client.files.read(str(tmp_path / "big"), limit=5)).content == bytes(5)


async def _ignore(_piece: bytes) -> None:
    await trio.lowlevel.checkpoint()


async def _for_ever(_piece: bytes) -> None:
    await trio.sleep_forever()


async def test_a_write_that_is_given_up_refused_or_cancelled_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "t" / "file"
    target.parent.mkdir()
    target.write_text("before")

    async def half() -> AsyncIterator[bytes]:
        yield b"x" * 300_000
        raise NoCapacity("no more")

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(100_000)

    async with connected(tmp_path) as client:
        with pytest.raises(NoCapacity, match="no more"):
            await client.files.write(str(target), half(), max_bytes=MOST)
        with pytest.raises(NoCapacity, match="more than"):
            await client.files.write(str(target), endless(), max_bytes=1_000_000)
        with trio.move_on_after(0.1):
            await client.files.write(str(target), endless(), max_bytes=10**15)
        # It is refused at once, and nothing more is sent.
        with pytest.raises(GuestRefused):
            await client.files.write(str(tmp_path / "t"), endless(), max_bytes=10**15)
        await client.ping()
    assert target.read_text() == "before"
    assert [path.name for path in target.parent.iterdir()] == ["file"]


async def test_an_edit_says_how_often_an_ambiguous_text_occurs(tmp_path: Path) -> None:
    path = tmp_path / "code"
    path.write_text("a b b")
    path.chmod(0o640)
    async with connected(tmp_path) as client:
        for old, said in (("b", "occurs 2 times"), ("c", "does not occur")):
            with pytest.raises(GuestRefused, match=said):
                await client.files.edit(str(path), old, "x", replace_all=False)
        assert (await client.files.edit(str(path), "b", "ü", replace_all=True)).replacements == 2
        assert (await client.files.edit(str(path), "a", "", replace_all=False)).size_bytes == 6
    assert path.read_text() == " ü ü"
    assert path.stat().st_mode & 0o777 == 0o640


async def test_a_tree_goes_to_the_guest_and_comes_back(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "deep" / "er" / "data").write_bytes(os.urandom(3_000_000))
    (source / "link").symlink_to("/anywhere")
    for number in range(300):
        (source / "deep" / str(number)).write_text(str(number))

    async def records() -> AsyncIterator[bytes]:
        for record in tree.read(str(source), (), tree.Notes()):
            yield record

    back: list[bytes] = []

    async def take(record: bytes) -> None:
        back.append(record)

    async with connected(tmp_path) as client:
        target = str(tmp_path / "target")
        sent = await client.files.write_tree(target, records(), max_bytes=MOST, max_entries=1000)
        assert (sent.entries, sent.skipped_count) == (304, 0)
        report = await client.files.read_tree(target, take, exclude=["er"], max_bytes=MOST)
        assert report.skipped_count == 0
        with pytest.raises(GuestRefused, match="more than 5 entries"):
            await client.files.write_tree(target, records(), max_bytes=MOST, max_entries=5)
        with pytest.raises(AgentisoError):
            await client.files.read_tree(str(source / "link"), take, exclude=[], max_bytes=MOST)
        await client.ping()
    names = {json.loads(record[1:])["path"] for record in back if record[:1] == tree.ENTRY}
    assert names == {"deep", "link", *(f"deep/{number}" for number in range(300))}
    assert (tmp_path / "target" / "deep" / "er" / "data").read_bytes() == (source / "deep/er/data").read_bytes()


async def test_a_helper_of_the_guest_searches(tmp_path: Path) -> None:
    (tmp_path / "found").write_text("one\nneedle here\n")
    (tmp_path / "binary").write_bytes(b"needle\0")
    async with connected(tmp_path) as client:
        helper = await client.files.helper("search")
        with pytest.raises(GuestRefused, match="no helper"):
            await client.files.helper("agent")
        asked = {"pattern": "n.*e", "path": str(tmp_path), "glob": None, "fixed": False, "ignore_case": False}
        done = await trio.run_process(
            [*helper.argv, json.dumps({**asked, "max_results": 5})], capture_stdout=True, cwd=helper.workdir
        )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"path": str(tmp_path / "found"), "line": 2, "text": "needle here"} in lines
    assert lines[-1]["done"]
    assert not any(line.get("path", "").endswith("binary") for line in lines)
