"""A journal tells what was intended and not finished, whatever interrupted whoever wrote it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.model import journal as journals
from actors.model.errors import HostFailed, NoCapacity
from actors.model.journal import DamagedJournal, Intent, Journal, Kind
from tests.stateful.supervised import READING, unreadable

LAYER = Intent(Kind.LAYER, "one", {"over": "none"})


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path)
    made.will(Kind.LAYER, "one", over="none")
    return made


def test_what_is_intended_is_told_in_order_until_it_is_made_or_gone(journal: Journal) -> None:
    journal.will(Kind.LAYER, "two", over="one")
    journal.will(Kind.EXPORT, "one", path="/somewhere")
    assert [(intent.kind, intent.name) for intent in journal.intents()] == [
        (Kind.LAYER, "one"), (Kind.LAYER, "two"), (Kind.EXPORT, "one"),
    ]  # fmt: skip
    journal.made(Kind.LAYER, "one")
    journal.gone(Kind.EXPORT, "one")
    assert journal.intents() == (Intent(Kind.LAYER, "two", {"over": "one"}),)


def test_what_is_intended_again_counts_from_then_on(journal: Journal) -> None:
    journal.will(Kind.LAYER, "two")
    journal.will(Kind.LAYER, "one", over="two")
    assert [intent.name for intent in journal.intents()] == ["two", "one"]
    assert journal.intents()[1].facts == {"over": "two"}


def test_where_there_is_no_journal_nothing_is_intended(tmp_path: Path) -> None:
    assert Journal(tmp_path).intents() == ()
    Journal(tmp_path / "missing").tidy()


@pytest.mark.parametrize("tail", [b'{"do": "wi', b"\0" * 100, b'{"do": "will", "kind": "layer", "name": "x"}', b"{}"])
def test_a_last_line_that_was_cut_off_does_not_count_and_the_next_one_takes_its_place(
    journal: Journal, tail: bytes
) -> None:
    with journal.path.open("ab") as file:
        file.write(tail)
    assert journal.intents() == (LAYER,)
    journal.made(Kind.LAYER, "one")
    assert journal.intents() == ()
    assert tail not in journal.path.read_bytes().splitlines()


@given(st.data())
def test_a_journal_that_is_cut_anywhere_tells_what_was_written_whole(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    journal = Journal(tmp_path_factory.mktemp("journal"))
    names = ["a", "b", "c"]
    for name in names:
        journal.will(Kind.LAYER, name)
    whole = journal.path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    journal.path.write_bytes(whole[:cut] + b"\0" * data.draw(st.integers(0, 9)))
    left = names[: whole[:cut].count(b"\n")]
    assert [intent.name for intent in journal.intents()] == left
    journal.will(Kind.LAYER, "d")
    assert [intent.name for intent in journal.intents()] == [*left, "d"]


@pytest.mark.parametrize(
    "line",
    [
        b"nothing of ours", b"\0\0\0", b"[]", b"5", b'{"do": "will"}', b'{"do": "undo", "kind": "layer", "name": "x"}',
        b'{"do": "will", "kind": "dream", "name": "x"}', b"[" * 5000, b"\xff\xfe", b"",
    ],
)  # fmt: skip
def test_a_line_in_the_middle_that_is_none_of_ours_is_damage(journal: Journal, line: bytes) -> None:
    with journal.path.open("ab") as file:
        file.write(line + b"\n")
    journal.will(Kind.DESTROY, "all")
    with pytest.raises(DamagedJournal, match="none of a journal's"):
        journal.intents()


def test_a_journal_that_is_too_long_to_be_ours_is_damage(journal: Journal) -> None:
    os.truncate(journal.path, journals.MAX_BYTES + 1)
    with pytest.raises(DamagedJournal, match="more than"):
        journal.intents()


@pytest.mark.parametrize("error", READING)
def test_a_journal_that_cannot_be_read_does_not_say_that_nothing_is_intended(journal: Journal, error: int) -> None:
    with unreadable(error, journal.path), pytest.raises(DamagedJournal, match="cannot be read"):
        journal.intents()
    assert journal.intents() == (LAYER,)


def test_a_disk_that_fills_up_in_the_middle_of_a_line_leaves_none_of_it(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, write = journal.path.read_bytes(), os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda fd, data: write(fd, data[:10]))
        with pytest.raises(NoCapacity):
            journal.made(Kind.LAYER, "one")
    assert journal.path.read_bytes() == before
    journal.made(Kind.LAYER, "one")
    assert journal.intents() == ()


@pytest.mark.parametrize(("error", "kind"), [(errno.ENOSPC, NoCapacity), (errno.EIO, HostFailed)])
def test_what_cannot_be_written_down_is_refused(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, error: int, kind: type[Exception]
) -> None:
    def fail(*_arguments: object) -> int:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as broken:
        broken.setattr(os, "write", fail)
        with pytest.raises(kind):
            journal.made(Kind.LAYER, "one")
    assert journal.intents() == (LAYER,)


async def test_a_journal_is_on_stable_storage_once_it_was_flushed_and_its_name_too(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(Path(f"/proc/self/fd/{fd}").readlink()))
    await journal.flush()
    assert flushed == [journal.path, journal.path.parent]


def test_a_long_journal_begins_anew_once_nothing_is_intended(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "FRESH_BYTES", 10)
    journal.tidy()
    assert journal.intents() == (LAYER,)
    journal.made(Kind.LAYER, "one")
    journal.tidy()
    assert not journal.path.exists()
    monkeypatch.undo()
    journal.will(Kind.LAYER, "two")
    journal.made(Kind.LAYER, "two")
    journal.tidy()
    assert journal.path.exists()


def test_a_damaged_journal_is_not_begun_anew(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "FRESH_BYTES", 10)
    journal.path.write_bytes(b"damaged lines\n" * 2)
    with pytest.raises(DamagedJournal):
        journal.tidy()
    assert journal.path.exists()
