"""The rate by which emulated guests keep time: measured, told to their kernels, and part of what a checkpoint needs."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from actors.machine.accelerator import boot_timer, tsc
from actors.machine.accelerator.kvm import Kvm
from actors.machine.accelerator.tcg import Tcg
from actors.machine.accelerator.tsc import is_steady, measure_khz
from actors.model.machine import Fingerprint, same_rate

FINGERPRINT = Fingerprint("7.2", "tcg", "max", 1, 128, "digest", "none", "serial", tsc_khz=2_000_000)


def test_two_measurements_of_one_counter_are_taken_for_the_same_rate() -> None:
    one, other = measure_khz(), measure_khz()
    assert one is not None
    assert other is not None
    assert same_rate(one, other)


def test_a_counter_whose_rate_changes_is_none_to_keep_time_by(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags : fpu tsc constant_tsc\n\nprocessor : 1\nflags : nonstop_tsc\n")
    assert not is_steady(cpuinfo)
    cpuinfo.write_text("processor : 0\nflags : fpu tsc constant_tsc nonstop_tsc\n\nprocessor : 1\n")
    assert is_steady(cpuinfo)


def test_a_checkpoint_of_a_faster_counter_is_refused_and_one_measured_a_little_otherwise_is_not() -> None:
    assert FINGERPRINT.differences(attrs.evolve(FINGERPRINT, tsc_khz=2_000_060)) == []
    (difference,) = FINGERPRINT.differences(attrs.evolve(FINGERPRINT, tsc_khz=2_000_200))
    assert difference == "tsc_khz: 2000000 here, 2000200 there"
    assert FINGERPRINT.differences(attrs.evolve(FINGERPRINT, tsc_khz=None))


@pytest.mark.parametrize("steady", [True, False])
def test_only_an_emulated_kernel_is_told_how_to_be_cheap_and_which_counter_to_trust(
    steady: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tsc, "is_steady", lambda: steady)
    emulated, accelerated = Tcg().kernel_arguments(2_000_000).split(), Kvm().kernel_arguments(2_000_000).split()
    assert {"tsc_early_khz=2000000", "norandmaps", "mitigations=off"} <= set(emulated)
    assert ("tsc=reliable" in emulated) is steady
    assert not {"tsc=reliable", "norandmaps", "mitigations=off"} & set(accelerated)
    assert "tsc=reliable" not in Tcg().kernel_arguments(None).split()


def test_an_emulated_boot_is_told_what_its_timer_must_come_out_as() -> None:
    # What Linux 6.1 finds on a quiet host, a few parts in a million off.
    assert abs(boot_timer.MULT - 268_434_382) < 2_000
    assert boot_timer.ARGUMENT in Tcg().kernel_arguments(None).split()
    assert "agentiso.timer" not in Kvm().kernel_arguments(None)


async def test_a_boot_is_ended_once_its_console_says_that_the_timer_was_measured_wrong(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    console, ended = tmp_path / "console.log", trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(boot_timer.end_if_wrong, console, ended.set)
        await trio.sleep(60)
        console.write_text("[    0.4] PCI: Fatal: No config space access function found\\n")
        await trio.sleep(60)
        assert not ended.is_set()
        console.write_text("[    0.5] APIC frequency too slow, disabling apic timer\\n")
        await ended.wait()
