"""The benchmark's arithmetic: percentiles, ratios, promises."""

from __future__ import annotations

import pytest

from actors.model.errors import InvalidArgument
from agentiso.bench.result import Aim, Found, Row, Stat
from agentiso.bench.run import PLANS, run_bench
from agentiso.bench.table import table
from agentiso.library.config import load_settings


def row(aim: Aim, *rounds: Found) -> Row:
    return Row.of("row", "ms", aim, rounds)


def test_percentiles_are_of_all_rounds_together() -> None:
    assert row(Aim(), Found((1, 2)), Found((3,))).ours == Stat(samples=3, p50=2, p95=2.9, p99=2.98)


def test_a_ratio_compares_the_medians() -> None:
    measured = row(Aim(max_ratio=1.5), Found.pair(2, 1), Found.pair(3, 2), Found.pair(100, 3))
    assert (measured.ratio, measured.met) == (1.5, True)


@pytest.mark.parametrize(
    ("aim", "met"),
    [
        (Aim(), None),
        (Aim(max_ratio=1.9), False),
        (Aim(min_ratio=1.9), True),
        (Aim(min_ratio=2.1), False),
        (Aim(max_p50=4), True),
        (Aim(max_p50=3.9), False),
        (Aim(max_p50=4, beats_peer=True), False),
        (Aim(max_ratio=2, max_p99=3), False),
    ],
)
def test_a_promise_is_kept_when_each_of_its_bounds_is(aim: Aim, met: bool | None) -> None:
    assert row(aim, Found((4,), (2,), (3,))).met is met


def test_a_peer_that_is_not_installed_cannot_be_lost_to() -> None:
    assert row(Aim(max_p50=5, beats_peer=True), Found((4,))).met is True


async def test_an_unknown_row_is_refused_with_those_that_exist() -> None:
    with pytest.raises(InvalidArgument, match="no benchmark nonsense") as refused:
        await run_bench(load_settings(None), names=["nonsense"], quick=True, report=lambda _text: None)
    assert "create_to_exec" in refused.value.remedy


# -- the table


def measured(*, peer: bool) -> list[Row]:
    """Every row there is, with figures as wide as they get."""
    found = Found((18727.123,), (11485.456,), (12345.678,) if peer else ())
    return [Row.of(plan.name, plan.unit, plan.aim, [found]) for plan in PLANS]


@pytest.mark.parametrize("peer", [False, True])
def test_the_table_fits_80_columns_with_every_figure_whole(peer: bool) -> None:
    lines = table(measured(peer=peer), 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) == len(PLANS) + 1
    for plan, line in zip(PLANS, lines[1:], strict=True):
        assert line.split()[0] == plan.name
        assert {"18727.12", "11485.46", "1.63"} <= set(line.split())


def test_without_a_terminal_the_table_takes_the_width_that_it_needs() -> None:
    rows = measured(peer=True)
    for plan, line in zip(PLANS, table(rows).splitlines()[1:], strict=True):
        assert plan.aim.text(plan.unit) in line
        assert "12345.68" in line
        assert line.endswith("█" * 20 + "·" * 4)
    assert "…" not in table(rows)


def test_on_the_narrowest_terminal_nothing_is_cut_either() -> None:
    assert all("18727.12" in line for line in table(measured(peer=True), 20).splitlines()[1:])
