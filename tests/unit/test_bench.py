"""The benchmark's arithmetic: percentiles, ratios, promises."""

from __future__ import annotations

import pytest

from actors.errors import InvalidArgument
from agentiso.bench.result import Aim, Found, Row, Stat
from agentiso.bench.run import run_bench
from agentiso.config import load_settings


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
