"""Supervisors and machines killed at random moments under load, a short time by default, the whole time by itself."""

from __future__ import annotations

import functools
import json
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest
import trio

from tests.disks import fill, small_file_system
from tests.faults.helpers import LIMIT_S, CommandLine, files, processes, until
from tests.storm.storm import SETTLE_S, Storm

pytestmark = pytest.mark.faults
SHORT_S = 45.0
WHOLE_S = 12 * 60.0
SIZE_MB = 4096
LEAST_KILLS = {"kill_supervisor": 200, "kill_machine": 100}


@contextmanager
def own_disk(cli: CommandLine, tmp_path: Path) -> Iterator[CommandLine]:
    """Give the command line a file system of its own, which can be filled, where that may be mounted."""
    if os.geteuid() != 0:
        print("not tried: a full disk, since only root may mount a small file system")
        yield cli
        return
    with small_file_system(cli.settings.state_dir, tmp_path / "disk", SIZE_MB) as path:
        settings = attrs.evolve(cli.settings, state_dir=path)
        yield CommandLine(settings, {**cli.environment, "AGENTISO_STATE_DIR": str(path)})


async def rage(cli: CommandLine, tmp_path: Path, seconds: float, monkeypatch: pytest.MonkeyPatch) -> Storm:
    seed = int(os.environ.get("AGENTISO_STORM_SEED") or secrets.randbelow(2**32))
    print(f"storm of {seconds:.0f} s, seed {seed} (AGENTISO_STORM_SEED)")
    with own_disk(cli, tmp_path) as own:
        for name, value in own.environment.items():
            monkeypatch.setenv(name, value)
        fill_up = None if own is cli else functools.partial(fill, own.state_dir, but_mb=0)
        storm = Storm(own.settings, seed, fill_up)
        try:
            with trio.fail_after(seconds + 2 * SETTLE_S):
                await storm.run(seconds)
        finally:
            print(json.dumps(storm.summary()))
            with trio.CancelScope(shield=True), trio.move_on_after(LIMIT_S):
                await own.run("daemon", "stop")
                left = processes(own.state_dir)
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                await until(lambda: not processes(own.state_dir))
        assert not left
        assert storm.ledger.violations == []
        assert files(own.state_dir)["workspaces"] == set()
    return storm


async def test_nothing_acknowledged_is_lost_in_a_short_storm(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storm = await rage(cli, tmp_path, SHORT_S, monkeypatch)
    assert storm.ledger.counts["kill_supervisor"]


@pytest.mark.storm
async def test_nothing_acknowledged_is_lost_in_a_whole_storm(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storm = await rage(cli, tmp_path, WHOLE_S, monkeypatch)
    short = {
        name: storm.ledger.counts[name] for name, least in LEAST_KILLS.items() if storm.ledger.counts[name] < least
    }
    assert not short, f"too few: {short}"
