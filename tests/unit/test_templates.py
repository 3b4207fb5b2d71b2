"""Which template serves a workspace that wants a disk of some size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.model.errors import InvalidArgument
from actors.registry.templates import GIB, template_disk_gb

SIZES_GB = st.integers(1, 200)
ROOT_BYTES = st.integers(1, 200 * GIB)


@given(SIZES_GB, SIZES_GB, ROOT_BYTES)
def test_a_templates_disk_holds_the_image_and_never_has_to_shrink(wanted: int, default: int, root: int) -> None:
    if wanted * GIB < root:
        with pytest.raises(InvalidArgument, match="root disk needs"):
            template_disk_gb(wanted, default_gb=default, root_bytes=root)
        return
    chosen = template_disk_gb(wanted, default_gb=default, root_bytes=root)
    assert root <= chosen * GIB
    assert chosen <= wanted


@given(SIZES_GB, ROOT_BYTES)
def test_no_more_than_two_sizes_of_a_kind_are_kept(default: int, root: int) -> None:
    wanted = [gb for gb in range(1, 201) if gb * GIB >= root]
    assert len({template_disk_gb(gb, default_gb=default, root_bytes=root) for gb in wanted}) <= 2


@given(SIZES_GB)
def test_the_configured_disk_need_not_be_grown(default: int) -> None:
    assert template_disk_gb(default, default_gb=default, root_bytes=300 * 2**20) == default
