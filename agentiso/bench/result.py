"""What a benchmark found: samples and their percentiles, a row with its floor, and the table for people."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import attrs
from rich.table import Table

BAR_WIDTH = 24
BAR_RATIO = 2.0
"""The ratio that fills a bar."""


@attrs.frozen
class Stat:
    """The percentiles of one series of samples."""

    samples: int
    p50: float
    p95: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Stat:
        """Summarise samples; the 95th percentile is interpolated (inclusive)."""
        if len(values) == 1:
            return cls(1, round(values[0], 3), round(values[0], 3))
        cuts = statistics.quantiles(values, n=20, method="inclusive")
        return cls(len(values), round(statistics.median(values), 3), round(cuts[18], 3))


@attrs.frozen
class Row:
    """One benchmark: agentiso's figures, the floor's from the same run, and their ratio (of the medians)."""

    name: str
    unit: str
    ours: Stat
    floor: Stat | None
    aim: str
    """What is promised, as docs/SPECIFICATION.md has it."""
    met: bool | None
    """Whether this run kept the promise; ``None`` where none is made."""

    @property
    def ratio(self) -> float | None:
        """Median over the floor's median."""
        return round(self.ours.p50 / self.floor.p50, 3) if self.floor and self.floor.p50 else None

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return {
            "name": self.name,
            "unit": self.unit,
            **attrs.asdict(self.ours),
            "floor": attrs.asdict(self.floor) if self.floor else None,
            "ratio": self.ratio,
            "aim": self.aim,
            "met": self.met,
        }


def table(rows: Sequence[Row]) -> Table:
    """Lay rows out for people, with a bar for each ratio to the floor."""
    laid = Table(box=None, pad_edge=False)
    for heading in ("row", "unit", "p50", "p95", "floor p50", "ratio", "", "aim"):
        laid.add_column(heading, no_wrap=True)
    for row in rows:
        ratio = row.ratio
        filled = min(BAR_WIDTH, round(BAR_WIDTH * (ratio or 0) / BAR_RATIO))
        mark = {True: "ok", False: "MISSED", None: ""}[row.met]
        laid.add_row(
            row.name,
            row.unit,
            f"{row.ours.p50:.2f}",
            f"{row.ours.p95:.2f}",
            f"{row.floor.p50:.2f}" if row.floor else "-",
            f"{ratio:.2f}" if ratio else "-",
            "█" * filled + "·" * (BAR_WIDTH - filled) if ratio else "",
            f"{row.aim} {mark}",
        )
    return laid
