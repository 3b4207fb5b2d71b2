"""A run of `agentiso bench`: each row alternates a sample of agentiso with one of the floor, on the same machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import attrs

from actors.model.errors import InvalidArgument
from actors.model.settings import Settings
from agentiso.bench import footprint, forks, guestwork, starts, supervisor
from agentiso.bench.bench import Bench, Plan
from agentiso.bench.result import Row
from agentiso.library.opening import open_system
from agentiso.library.scratch import open_scratch

PLANS: Final[tuple[Plan, ...]] = (
    *starts.PLANS,
    *forks.PLANS,
    *guestwork.PLANS,
    *footprint.PLANS,
    *supervisor.PLANS,
)
Report = Callable[[str], None]


async def run_bench(settings: Settings, *, names: Sequence[str], quick: bool, report: Report) -> list[Row]:
    """Measure the named rows, or all, in a state directory of their own.

    Raises:
        InvalidArgument: there is no such row.

    """
    plans = _chosen(names)
    own = attrs.evolve(settings, network="user")
    async with open_scratch(own) as scratch, open_system(scratch) as system, AsyncExitStack() as stack:
        report("boot the template")
        bench = Bench(system, stack)
        await bench.template()
        try:
            return [await _measure(bench, plan, quick=quick, report=report) for plan in plans]
        finally:
            bench.close()


def _chosen(names: Sequence[str]) -> list[Plan]:
    unknown = set(names) - {plan.name for plan in PLANS}
    if unknown:
        known = ", ".join(plan.name for plan in PLANS)
        raise InvalidArgument(f"There is no benchmark {', '.join(sorted(unknown))}.", remedy=f"Choose from: {known}.")
    return [plan for plan in PLANS if not names or plan.name in names]


async def _measure(bench: Bench, plan: Plan, *, quick: bool, report: Report) -> Row:
    count = plan.quick_samples if quick else plan.samples
    rounds = []
    for number in range(count):
        report(f"{plan.name}: round {number + 1} of {count}")
        rounds.append(await plan.take(bench, number))
    return Row.of(plan.name, plan.unit, plan.aim, rounds)


def to_json(rows: Sequence[Row], settings: Settings) -> dict[str, Any]:
    """Return a run as plain data."""
    shape = settings.shape
    return {
        "shape": {"vcpus": shape.vcpus, "memory_mb": shape.memory_mb},
        "rows": [row.to_json() for row in rows],
    }
