"""A search in the guest's files, as a program of its own: a slow pattern or a huge tree holds nothing else up.

Its one argument is a JSON object; what it finds goes to its standard output, one JSON object a line, and last one
with ``done``.  Whoever started it bounds its time.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

MAX_LINE_CHARS: Final = 500
MAX_FILE_BYTES: Final = 64 * 1024 * 1024
BINARY_LOOK_BYTES: Final = 8192
"""A file with a zero byte in its beginning is binary, as grep and git have it."""
FILE_SYSTEMS_LEFT_OUT: Final = ("/proc", "/sys", "/dev", "/run/agentiso")
DIRECTORIES_LEFT_OUT: Final = (".git", ".hg", ".svn")


def search(asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return what matches, and last what was gone through."""
    matches = _matcher(asked["pattern"], fixed=asked["fixed"], ignore_case=asked["ignore_case"])
    found = files = 0
    for path in _files(asked["path"], asked.get("glob")):
        files += 1
        for number, line in _lines(path):
            if matches(line):
                if found == asked["max_results"]:
                    yield {"done": True, "files": files, "truncated": True}
                    return
                found += 1
                shown = path.encode("utf-8", "replace").decode()
                yield {"path": shown, "line": number, "text": line.rstrip("\r\n")[:MAX_LINE_CHARS]}
    yield {"done": True, "files": files, "truncated": False}


def _matcher(pattern: str, *, fixed: bool, ignore_case: bool) -> Callable[[str], object]:
    compiled = re.compile(re.escape(pattern) if fixed else pattern, re.IGNORECASE if ignore_case else 0)
    return compiled.search


def _files(root: str, glob: str | None) -> Iterator[str]:
    if os.path.isfile(root):
        yield root
        return
    if not os.path.isdir(root):
        raise FileNotFoundError(2, "No such file or directory", root)
    for here, directories, names in os.walk(root):
        directories[:] = sorted(
            name
            for name in directories
            if name not in DIRECTORIES_LEFT_OUT and os.path.join(here, name) not in FILE_SYSTEMS_LEFT_OUT
        )
        for name in sorted(names):
            within = os.path.relpath(os.path.join(here, name), root)
            if glob is None or fnmatch.fnmatchcase(name, glob) or fnmatch.fnmatchcase(within, glob):
                yield os.path.join(here, name)


def _lines(path: str) -> Iterator[tuple[int, str]]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_FILE_BYTES:
                return
            if b"\0" in file.read(BINARY_LOOK_BYTES):
                return
            file.seek(0)
            for number, line in enumerate(file, 1):
                yield number, line.decode("utf-8", "replace")
    except OSError:
        # What cannot be read is not searched.
        return


def main() -> None:
    """Search, and write down what is found."""
    try:
        for line in search(json.loads(sys.argv[1])):
            sys.stdout.write(json.dumps(line) + "\n")
    except (OSError, re.error, RecursionError, OverflowError) as error:
        sys.stdout.write(json.dumps({"error": str(error)}) + "\n")


if __name__ == "__main__":
    main()
