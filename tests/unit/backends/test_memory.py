"""The ledger of the host's memory: what is reserved is kept from others, and given back in any case."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from actors.machine.limits.memory import MemoryLedger, available_memory_mb
from actors.model.errors import NoCapacity


def test_starts_that_are_under_way_add_up() -> None:
    ledger = MemoryLedger(100, lambda: 1000)
    with ExitStack() as starts:
        for _ in range(3):
            starts.enter_context(ledger.reserved(300))
        with pytest.raises(NoCapacity, match="900 MB are reserved"):
            starts.enter_context(ledger.reserved(1))
        assert ledger.reserved_mb == 900
    assert ledger.reserved_mb == 0


def test_a_start_that_fails_gives_back_what_it_reserved() -> None:
    ledger = MemoryLedger(0, lambda: 100)
    with pytest.raises(ValueError, match="it failed"), ledger.reserved(100):
        raise ValueError("it failed")
    with ledger.reserved(100):
        pass


def test_what_is_refused_has_reserved_nothing() -> None:
    ledger = MemoryLedger(0, lambda: 100)
    with pytest.raises(NoCapacity), ledger.reserved(101):
        raise AssertionError
    assert ledger.reserved_mb == 0


def test_what_a_started_machine_has_taken_is_asked_of_the_kernel_again() -> None:
    available = [1000, 400]
    ledger = MemoryLedger(0, lambda: available.pop(0))
    with ledger.reserved(600):
        pass
    with pytest.raises(NoCapacity, match="400 MB available"), ledger.reserved(600):
        raise AssertionError


def test_what_running_machines_may_grow_to_is_told_with_a_refusal() -> None:
    ledger = MemoryLedger(0, lambda: 0)
    ledger.promise("one", 512)
    ledger.promise("two", 256)
    ledger.forget("one")
    ledger.forget("one")
    assert ledger.promised_mb == 256
    with pytest.raises(NoCapacity, match="may grow to 256 MB"), ledger.reserved(1):
        raise AssertionError


def test_this_host_says_what_it_has() -> None:
    assert available_memory_mb() > 0
