"""A run's rows for people: aligned columns, as many of them as the terminal has room for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agentiso.bench.result import Row, Stat

BAR_WIDTH: Final = 24
BAR_RATIO: Final = 2.0
"""The ratio that fills a bar."""
GAP: Final = "  "
LEFT: Final = frozenset({"row", "unit", "kept", "aim", "bar"})
"""Columns of words; figures are aligned at their end."""
LAYOUTS: Final = (
    ("row", "unit", "p50", "p95", "floor", "peer", "ratio", "kept", "aim", "bar"),
    ("row", "unit", "p50", "p95", "floor", "peer", "ratio", "kept", "aim"),
    ("row", "unit", "p50", "p95", "floor", "peer", "ratio", "kept", "bar"),
    ("row", "unit", "p50", "p95", "floor", "peer", "ratio", "kept"),
    ("row", "unit", "p50", "floor", "ratio", "kept"),
)
"""Which columns there are, the widest choice first; the last one is taken in any case, since nothing is ever cut."""


def table(rows: Sequence[Row], width: int | None = None) -> str:
    """Lay rows out with their floor's and a peer's medians, within ``width`` characters where that can be done."""
    cells = {name: [name, *texts] for name, texts in _columns(rows).items()}
    widths = {name: max(map(len, texts)) for name, texts in cells.items()}
    layouts = [[name for name in layout if name in cells] for layout in LAYOUTS]
    layout = next((each for each in layouts if width is None or _width(each, widths) <= width), layouts[-1])
    return "\n".join(
        GAP.join(
            cells[name][line].ljust(widths[name]) if name in LEFT else cells[name][line].rjust(widths[name])
            for name in layout
        ).rstrip()
        for line in range(len(rows) + 1)
    )


def _width(layout: Sequence[str], widths: dict[str, int]) -> int:
    return sum(widths[name] for name in layout) + len(GAP) * (len(layout) - 1)


def _columns(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return the texts of each column; there is none for a peer that is not installed."""
    mark = {True: "ok", False: "MISSED", None: ""}
    columns = {
        "row": [row.name for row in rows],
        "unit": [row.unit for row in rows],
        "p50": [_figure(row.ours.p50) for row in rows],
        "p95": [_figure(row.ours.p95) for row in rows],
        "floor": [_median(row.floor) for row in rows],
        "peer": [_median(row.peer) for row in rows],
        "ratio": ["-" if row.ratio is None else _figure(row.ratio) for row in rows],
        "kept": [mark[row.met] for row in rows],
        "aim": [row.aim.text(row.unit) for row in rows],
        "bar": [_bar(row.ratio) for row in rows],
    }
    if not any(row.peer for row in rows):
        del columns["peer"]
    return columns


def _figure(value: float) -> str:
    return f"{value:.2f}"


def _median(stat: Stat | None) -> str:
    return _figure(stat.p50) if stat else "-"


def _bar(ratio: float | None) -> str:
    """Draw a ratio to the floor."""
    if ratio is None:
        return ""
    filled = min(BAR_WIDTH, round(BAR_WIDTH * ratio / BAR_RATIO))
    return "█" * filled + "·" * (BAR_WIDTH - filled)
