"""The table of a campaign: operations by faults, how many points were tried, what was left out, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Final

import cattrs
import pytest

from tests.stateful.campaign import Cell, grouped

EXAMPLES: Final = 2
TABLE: Final = pytest.StashKey[list[str]]()
"""What a run of tests prints at its end."""


def table(cells: Sequence[Cell]) -> Iterator[str]:
    """Give the lines of the table."""
    faults = list(dict.fromkeys(cell.fault for cell in cells))
    operations = list(dict.fromkeys(cell.operation for cell in cells))
    found = {(cell.operation, cell.fault): cell for cell in cells}
    yield "Points tried, of each operation (rows) with each fault (columns); ! where something did not hold."
    yield from (f"  {letter}  {fault}" for letter, fault in zip(ascii_uppercase, faults, strict=False))
    width = max(len(name) for name in operations) + 2
    yield " " * width + "".join(f"{letter:>6}" for letter, _ in zip(ascii_uppercase, faults, strict=False))
    for operation in operations:
        row = [found[operation, fault] for fault in faults]
        yield f"{operation:{width}}" + "".join(f"{cell.tried:>5}{'!' if cell.violations else ' '}" for cell in row)
    yield from _sums(cells)


def _sums(cells: Sequence[Cell]) -> Iterator[str]:
    points, tried = sum(cell.points for cell in cells), sum(cell.tried for cell in cells)
    idle = sum(cell.idle for cell in cells)
    yield f"{tried} trials, of {points}; {points - tried} were left out, since only a sample was asked for."
    yield f"In {idle} of them the fault had nothing to befall: no such machine or actor, or the answer was given."
    yield "An error is not tried where the system call cannot give it (see POSSIBLE in tests/stateful/file_work.py)."
    yield f"{sum(bool(cell.violations) for cell in cells)} of {len(cells)} cells have violations."


def violations(cells: Sequence[Cell]) -> Iterator[str]:
    """Give what did not hold, with the first trials that show it."""
    for what, examples in grouped(cells):
        yield f"{len(examples):5}  {what}"
        yield from (f"         {example}" for example in examples[:EXAMPLES])


def save(cells: Sequence[Cell], path: Path) -> None:
    """Write everything as JSON."""
    path.write_text(json.dumps(cattrs.unstructure(list(cells)), indent=1))
