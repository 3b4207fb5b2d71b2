"""What every accelerator says, whichever it is.  A new one is added to `TRIED` and has to pass all of this."""

from __future__ import annotations

import pytest

from actors.machine.accelerator.choice import ACCELERATORS
from actors.machine.accelerator.kvm import Kvm
from actors.machine.accelerator.protocol import KERNEL_ARGUMENTS, Accelerator
from actors.machine.accelerator.tcg import Tcg
from actors.model import backends

TRIED: list[Accelerator] = [
    Kvm(),
    Tcg(),
]
KHZ = 2_345_678


@pytest.fixture(params=TRIED, ids=lambda accelerator: accelerator.name)
def accelerator(request: pytest.FixtureRequest) -> Accelerator:
    found: Accelerator = request.param
    return found


def test_every_accelerator_is_known_by_its_name_and_passes_these_tests() -> None:
    assert ACCELERATORS.names == backends.ACCELERATORS == tuple(accelerator.name for accelerator in TRIED)


def test_the_last_one_can_be_tried_everywhere() -> None:
    *_, last = ACCELERATORS
    assert last.probe().ok


def test_what_check_shows_of_it_says_why(accelerator: Accelerator) -> None:
    found = accelerator.probe()
    assert found.name == accelerator.name
    assert found.verdict
    assert found.reason


def test_it_has_a_processor_and_some_time_to_boot_a_kernel(accelerator: Accelerator) -> None:
    assert accelerator.cpu_model
    assert accelerator.probe_limit_s > 0


def test_its_kernels_get_what_every_kernel_gets(accelerator: Accelerator) -> None:
    for khz in (None, KHZ):
        words = accelerator.kernel_arguments(khz).split()
        assert words[: len(KERNEL_ARGUMENTS.split())] == KERNEL_ARGUMENTS.split()
        assert accelerator.kernel_arguments(khz) == " ".join(words)


def test_a_kernel_is_told_the_hosts_rate_exactly_where_it_keeps_time_by_it(accelerator: Accelerator) -> None:
    assert (str(KHZ) in accelerator.kernel_arguments(KHZ)) is accelerator.keeps_host_rate
