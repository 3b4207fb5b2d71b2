"""What a benchmark found: samples and their percentiles, and a row with its floor."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import attrs


@attrs.frozen
class Found:
    """What one round of a row found: any number of figures of agentiso, of the floor and of a peer."""

    ours: Sequence[float]
    floor: Sequence[float] = ()
    peer: Sequence[float] = ()

    @classmethod
    def pair(cls, ours: float, floor: float) -> Found:
        """One figure of each."""
        return cls((ours,), (floor,))


@attrs.frozen
class Stat:
    """The percentiles of one series of samples."""

    samples: int
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Stat:
        """Summarise samples; the percentiles are interpolated (inclusive)."""
        if len(values) == 1:
            return cls(1, *[round(values[0], 3)] * 3)
        cuts = statistics.quantiles(values, n=100, method="inclusive")
        return cls(len(values), *(round(cuts[percent - 1], 3) for percent in (50, 95, 99)))


@attrs.frozen
class Aim:
    """What a row promises; of several bounds each has to be kept."""

    max_ratio: float | None = None
    min_ratio: float | None = None
    max_p50: float | None = None
    max_p99: float | None = None
    beats_peer: bool = False
    """Where the peer is installed."""

    def met(self, ours: Stat, ratio: float | None, peer: Stat | None) -> bool | None:
        """Tell whether a run kept the promise; ``None`` where none is made, or nothing to hold it against."""
        kept = []
        if ratio is not None:
            kept += [ratio <= self.max_ratio] if self.max_ratio is not None else []
            kept += [ratio >= self.min_ratio] if self.min_ratio is not None else []
        kept += [ours.p50 <= self.max_p50] if self.max_p50 is not None else []
        kept += [ours.p99 <= self.max_p99] if self.max_p99 is not None else []
        kept += [ours.p50 < peer.p50] if self.beats_peer and peer else []
        return all(kept) if kept else None

    def text(self, unit: str) -> str:
        """Return the promise in words."""
        parts = [f"ratio ≤ {self.max_ratio:g}"] if self.max_ratio is not None else []
        parts += [f"ratio ≥ {self.min_ratio:g}"] if self.min_ratio is not None else []
        parts += [f"p50 ≤ {self.max_p50:g} {unit}"] if self.max_p50 is not None else []
        parts += [f"p99 ≤ {self.max_p99:g} {unit}"] if self.max_p99 is not None else []
        parts += ["less than the peer"] if self.beats_peer else []
        return ", ".join(parts) or "measured"


@attrs.frozen
class Row:
    """One benchmark: agentiso's figures, the floor's and a peer's from the same run."""

    name: str
    unit: str
    ours: Stat
    floor: Stat | None
    peer: Stat | None
    aim: Aim

    @classmethod
    def of(cls, name: str, unit: str, aim: Aim, rounds: Sequence[Found]) -> Row:
        """Put the rounds of a row together."""
        ours, floor, peer = (
            [figure for found in rounds for figure in getattr(found, kind)] for kind in ("ours", "floor", "peer")
        )
        return cls(name, unit, Stat.of(ours), Stat.of(floor) if floor else None, Stat.of(peer) if peer else None, aim)

    @property
    def ratio(self) -> float | None:
        """Median over the floor's median."""
        return round(self.ours.p50 / self.floor.p50, 3) if self.floor and self.floor.p50 else None

    @property
    def met(self) -> bool | None:
        """Whether this run kept the promise; ``None`` where none is made."""
        return self.aim.met(self.ours, self.ratio, self.peer)

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return {
            "name": self.name,
            "unit": self.unit,
            **attrs.asdict(self.ours),
            "floor": attrs.asdict(self.floor) if self.floor else None,
            "peer": attrs.asdict(self.peer) if self.peer else None,
            "ratio": self.ratio,
            "aim": self.aim.text(self.unit),
            "met": self.met,
        }
