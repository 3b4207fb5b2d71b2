"""Options of the campaigns, and their tables at the end of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from trio.testing import MockClock

from tests.stateful import determinism
from tests.stateful.table import TABLE


@pytest.fixture
def virtual_time(monkeypatch: pytest.MonkeyPatch) -> MockClock:
    """Have time pass in a test when all its tasks wait, and only then: no limit is reached because the host is busy."""
    determinism.no_threads(monkeypatch)
    return MockClock(autojump_threshold=0)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("simulation", "what goes wrong at every point of every operation")
    group.addoption("--every-point", action="store_true", help="try every point, and not a sample of them")
    group.addoption("--trials", type=int, default=1, help="of each operation with each fault, unless every point is")
    group.addoption("--seed", type=int, default=1, help="chooses the sample")
    group.addoption("--operation", default="", help="only operations with these words in their names")
    group.addoption("--fault", default="", help="only faults with these words in their names")
    group.addoption("--point", type=int, help="only the points with this number")
    group.addoption("--cells", type=Path, help="write what came of every operation with every fault, as JSON")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(TABLE, []):
        terminalreporter.write_line(line)
