"""Whenever the power is lost, and whatever of that which was not flushed is lost with it: what was promised is there.

By default one point of each operation with each fault is tried; ``--trials`` has more be, ``--every-point`` all.
"""

from __future__ import annotations

import faulthandler

import pytest

from tests.stateful import campaign, table
from tests.stateful.campaign import Plan


def test_no_loss_of_power_at_any_point_takes_what_was_reported(pytestconfig: pytest.Config) -> None:
    # It may take longer than a test that hangs is waited for.
    faulthandler.cancel_dump_traceback_later()
    option = pytestconfig.getoption
    each = None if option("every_point", False) else option("trials", 1)
    cells = campaign.run(
        Plan(each, option("seed", 1), option("operation", ""), option("fault", ""), option("point", None), power=True)
    )
    pytestconfig.stash.setdefault(table.TABLE, []).extend(table.table(cells))
    if path := option("cells", None):
        table.save(cells, path.with_stem(f"{path.stem}-power"))
    found = [*table.violations(cells)]
    assert not found, "\n".join(found)
