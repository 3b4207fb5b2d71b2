"""A campaign: all operations, all faults, all points - or some of them, chosen by a seed - and what came of it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby, islice, product
from pathlib import Path
from typing import Final, TypeVar

import attrs
import cattrs

from tests.stateful.faults import FAULTS, LOSSES, Fault
from tests.stateful.operations import OPERATIONS, Operation
from tests.stateful.points import Point
from tests.stateful.trial import REPORTED, Trial, conduct

T = TypeVar("T", Operation, Fault)

SHARED_MEMORY: Final = Path("/dev/shm")
"""Flushing files to it costs nothing."""
STAGE: Final = Path("/proc/self/cwd/stage")
"""The same name for all processes: the order of sets of paths, and so that of some work, depends on it."""


@attrs.frozen
class Violation:
    """Something that did not hold, and the trial that shows it."""

    what: str
    operation: str
    fault: str
    point: Point
    answer: str
    """Whether the operation was reported, refused, or neither."""

    def __str__(self) -> str:
        where = f"{self.point.kind} {self.point.number}, {self.point.what}"
        return f"{self.operation!r}, {self.fault!r} at {where}; {self.answer}"


@attrs.frozen
class Cell:
    """One operation with one fault."""

    operation: str
    fault: str
    points: int
    """At so many it may come."""
    tried: int
    idle: int
    """Of those tried, at which there was nothing that it could befall."""
    violations: tuple[Violation, ...]


@attrs.frozen
class Plan:
    """What a campaign tries."""

    each: int | None = None
    """How many points of every operation with every fault; all unless set."""
    seed: int = 1
    operation: str = ""
    """Only operations with these words in their names."""
    fault: str = ""
    point: int | None = None
    """Only the points with this number."""
    power: bool = False
    """Whether the power is lost; else everything but that goes wrong."""
    share: int = 0
    """Which of `shares` parts of it this process does."""
    shares: int = 1

    def cells(self) -> Iterator[tuple[Operation, Fault]]:
        """Give the operations and faults of this share."""
        faults = LOSSES if self.power else FAULTS
        both = product(_named(OPERATIONS, self.operation), _named(faults, self.fault))
        return islice(both, self.share, None, self.shares)


def _named(all_of_them: Sequence[T], words: str) -> Sequence[T]:
    """Return the one that has this name, or all that have these words in theirs."""
    return [each for each in all_of_them if each.name == words] or [each for each in all_of_them if words in each.name]


def run(plan: Plan) -> list[Cell]:
    """Carry a plan out, with a process for every processor."""
    shares = os.cpu_count() or 1
    # So does the order of sets of text on this.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    with tempfile.TemporaryDirectory() as results:
        workers = [
            subprocess.Popen([sys.executable, "-m", __name__, results, json.dumps(attrs.asdict(each))], env=environment)
            for each in (attrs.evolve(plan, share=number, shares=shares) for number in range(shares))
        ]
        ends = [worker.wait() for worker in workers]
        assert not any(ends), "a part of the campaign ended early"
        found = [cattrs.structure(json.loads(path.read_text()), list[Cell]) for path in Path(results).iterdir()]
    order = [(what.name, wrong.name) for what, wrong in plan.cells()]
    return sorted(
        (cell for cells in found for cell in cells), key=lambda cell: order.index((cell.operation, cell.fault))
    )


def work(results: Path, plan: Plan) -> None:
    """Do one process's share, and write down what came of it."""
    with tempfile.TemporaryDirectory(
        dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None, prefix="ai-trials-"
    ) as room:
        os.chdir(room)
        cells = [_try(what, wrong, plan, STAGE) for what, wrong in plan.cells()]
        os.chdir("/")
    (results / str(plan.share)).write_text(json.dumps(cattrs.unstructure(cells)))


def _try(what: Operation, wrong: Fault, plan: Plan, directory: Path) -> Cell:
    """Fill one cell."""
    possible = [point for point in _points_of(what, directory) if wrong.possible(point)]
    if plan.point is not None:
        possible = [point for point in possible if point.number == plan.point]
    each = len(possible) if plan.each is None else min(plan.each, len(possible))
    chosen = random.Random(f"{plan.seed} {what.name} {wrong.name}").sample(possible, each)
    idle, violations = 0, list[Violation]()
    for point in chosen:
        outcome = conduct(Trial(what, wrong, point), directory)
        idle += not outcome.came
        violations += [Violation(text, what.name, wrong.name, point, outcome.answer) for text in outcome.violations]
    return Cell(what.name, wrong.name, len(possible), each, idle, tuple(violations))


@cache
def _points_of(operation: Operation, directory: Path) -> tuple[Point, ...]:
    """Return the points of an operation, made without a fault; it succeeds then and leaves everything whole."""
    outcome = conduct(Trial(operation), directory)
    assert not outcome.violations, (operation.name, outcome.violations)
    assert outcome.answer == REPORTED, (operation.name, outcome.said)
    return tuple(outcome.points)


def grouped(cells: Sequence[Cell]) -> Iterator[tuple[str, list[Violation]]]:
    """Give all that did not hold, what was found most often first, each with the trials that show it."""
    found = sorted((each for cell in cells for each in cell.violations), key=lambda each: each.what)
    groups = [(what, list(group)) for what, group in groupby(found, key=lambda each: each.what)]
    yield from sorted(groups, key=lambda group: -len(group[1]))


if __name__ == "__main__":
    work(Path(sys.argv[1]), cattrs.structure(json.loads(sys.argv[2]), Plan))
