"""What differs between two states of a file system: the comparison alone, without any machine.

Two looks at the same file system are compared, so a file with the same inode, size, mode and times is the same file.
One whose times or inode differ but whose size does not is *doubtful*: its content decides.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from actors.model.guest import FileChange, FileFacts

MAX_TEXT_BYTES: Final = 128 * 1024
"""A file larger than this is not shown as text."""
MAX_TEXT_LINES: Final = 2000
"""Nor is one with more lines: the time that a comparison of lines takes grows with their square."""


@attrs.frozen
class Entry:
    """One path as a walk found it."""

    kind: str
    size_bytes: int
    mode: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    target: str | None = None

    @property
    def facts(self) -> FileFacts:
        """What callers are told of it."""
        return FileFacts(self.kind, self.size_bytes if self.kind == "file" else 0, self.mode)


Walk = Mapping[str, Entry]
"""Paths and what is there."""


def compare(before: Walk, after: Walk) -> tuple[list[FileChange], list[str]]:
    """Return the changes that are certain, and the paths of files whose content must decide; both sorted."""
    changes, doubtful = [], []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old is None and new is not None:
            changes.append(FileChange(path, "added", None, new.facts))
        elif old is not None and new is None:
            changes.append(FileChange(path, "removed", old.facts, None))
        elif old is not None and new is not None:
            if old.facts != new.facts or old.target != new.target:
                changes.append(FileChange(path, "changed", old.facts, new.facts))
            elif old.kind == "file" and old != new:
                doubtful.append(path)
    return changes, doubtful


def decide(
    doubtful: Iterable[str],
    before: Walk,
    after: Walk,
    digests: tuple[Mapping[str, str | None], Mapping[str, str | None]],
) -> list[FileChange]:
    """Return the doubtful files whose digests differ, or of which one could not be read."""
    old, new = digests
    return [
        FileChange(path, "changed", before[path].facts, after[path].facts)
        for path in doubtful
        if old.get(path) is None or old.get(path) != new.get(path)
    ]


def unified(path: str, before: bytes, after: bytes) -> str:
    """Return the difference of two texts, empty if one is no text, or too large to be compared."""
    sides = []
    for content in (before, after):
        if len(content) > MAX_TEXT_BYTES or b"\0" in content:
            return ""
        try:
            sides.append(content.decode().splitlines())
        except UnicodeDecodeError:
            return ""
    if max(len(side) for side in sides) > MAX_TEXT_LINES:
        return ""
    lines = difflib.unified_diff(sides[0], sides[1], f"a{path}", f"b{path}", lineterm="")
    return "".join(f"{line}\n" for line in lines)
