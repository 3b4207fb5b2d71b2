"""Which disk layers are merged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.machine.compaction import choose_base

SIZES = st.lists(st.integers(0, 10**9), min_size=5, max_size=40)


@given(SIZES, st.integers(4, 39))
def test_a_merge_leaves_fewer_layers_than_are_allowed_and_the_lowest_always(sizes: list[int], most: int) -> None:
    base = choose_base(sizes, min(most, len(sizes) - 1))
    left = len(sizes) - base + 1
    assert 2 <= base <= len(sizes) - 1
    assert left <= max(len(sizes) - 1, 2)


@given(SIZES)
def test_a_large_layer_under_small_ones_is_not_copied(sizes: list[int]) -> None:
    small = [min(size, 10**6) for size in sizes]
    layers = [*small, 10**12, 5]
    assert choose_base(layers, 4) <= len(small)
