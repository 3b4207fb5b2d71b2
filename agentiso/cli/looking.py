"""Commands that look at a workspace's files without copying them."""

from __future__ import annotations

import base64
import sys
import time
from typing import Any, Final

from agentiso.cli.common import Commands, call_tool, columns, show
from agentiso.cli.files import split
from agentiso.cli.output import write_all
from agentiso.cli.parser import Misuse
from agentiso.display.units import size

PIECE_BYTES: Final = 256 * 1024
"""The most that one call reads."""
LS_EXAMPLES: Final = """\
  agentiso ls demo:/root
"""
CAT_EXAMPLES: Final = """\
  agentiso cat demo:/etc/os-release
"""
SEARCH_EXAMPLES: Final = """\
  agentiso search demo:/srv 'TODO|FIXME' --glob '*.py'
"""


def register(commands: Commands) -> None:
    """Add these commands."""
    made = commands.add("ls", _ls, "list a directory of a workspace", LS_EXAMPLES)
    made.add_argument("place", metavar="WORKSPACE:PATH", help="the directory, with an absolute path")
    made = commands.add("cat", _cat, "print a file of a workspace", CAT_EXAMPLES)
    made.add_argument("place", metavar="WORKSPACE:PATH", help="the file, with an absolute path")
    made = commands.add("search", _search, "print the lines of a workspace's text files that match", SEARCH_EXAMPLES)
    made.add_argument("place", metavar="WORKSPACE:PATH", help="the file or directory, with an absolute path")
    made.add_argument("pattern", help="a Python regular expression")
    made.add_argument("--fixed", action="store_true", help="the pattern is plain text")
    made.add_argument("--ignore-case", action="store_true", help="upper and lower case are the same")
    made.add_argument("--glob", metavar="PATTERN", help="only files of such a name or path")
    made.add_argument("-n", "--lines", type=int, default=1000, metavar="COUNT", help="at most; 1000 if left out")


def _place(a: Any) -> dict[str, str]:
    """Return the workspace and the path that were named."""
    found = split(a.place)
    if found is None:
        raise Misuse(f"{a.place!r} is no place in a workspace.", remedy="Write it as WORKSPACE:PATH, from / on.")
    return {"workspace_id": found[0], "path": found[1]}


def _ls(a: Any) -> int:
    found: list[dict[str, Any]] = []
    while True:
        piece = call_tool(a, "file_list", **_place(a), offset=len(found))
        found += piece["entries"]
        if not piece["note"]:
            break
    rows = [("MODE", "SIZE", "MODIFIED", "NAME")]
    rows += [
        (e["permissions"], size(e["size"]), time.strftime("%Y-%m-%d %H:%M", time.localtime(e["modified"])),
         e["name"] + ("/" if e["kind"] == "dir" else ""))
        for e in found
    ]  # fmt: skip
    return show(a, found, columns(rows))


def _cat(a: Any) -> int:
    place, offset, kept = _place(a), 0, bytearray()
    while True:
        piece = call_tool(a, "file_read", **place, offset=offset, limit=PIECE_BYTES)
        data = base64.b64decode(piece["content"]) if piece["encoding"] == "base64" else piece["content"].encode()
        if a.json:
            kept += data
        else:
            write_all(sys.stdout.fileno(), data)
        offset += len(data)
        if not data or offset >= piece["size_bytes"]:
            break
    if a.json:
        return show(a, {"content": kept.decode(errors="replace"), "size_bytes": offset}, "")
    return 0


def _search(a: Any) -> int:
    found = call_tool(a, "file_search", **_place(a), pattern=a.pattern, fixed=a.fixed, ignore_case=a.ignore_case,
                      glob=a.glob, max_results=a.lines)  # fmt: skip
    if found["truncated"]:
        print("there is more, or time ran out", file=sys.stderr)
    lines = "\n".join(f"{m['path']}:{m['line']}:{m['text']}" for m in found["matches"])
    if lines or a.json:
        show(a, found, lines)
    return 0 if found["matches"] else 1
