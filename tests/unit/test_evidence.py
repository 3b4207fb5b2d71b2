"""A restored guest's answer is held against what it must be."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from actors.machine.guest.identity import Identity, IdentityReply
from actors.machine.network.protocol import NetworkIdentity
from actors.machine.proof import faults

IDENTITY = Identity(
    epoch="epoch",
    time_ns=0,
    entropy=b"e",
    hostname="child",
    nonce=b"new",
    key=b"k",
    machine_id="id",
    network=NetworkIdentity("eth0", "52:54:00:00:00:09", "10.0.2.15", 24, "10.0.2.2", ()),
)
NONCE = "abcd"
GOOD = IdentityReply(NONCE, 2, True, 0.0, "child", "52:54:00:00:00:09", "10.0.2.15", 0, {}, (), ())


def test_a_whole_proof_has_no_fault() -> None:
    assert faults(GOOD, IDENTITY, NONCE) == []
    assert faults(attrs.evolve(GOOD, previous_nonce=None), IDENTITY, None) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"previous_nonce": "other"}, "nonce"),
        ({"previous_nonce": None}, "nonce"),
        ({"rng_reseeded": False}, "random generator was not reseeded"),
        ({"hostname": "parent"}, "hostname is 'parent'"),
        ({"mac": "52:54:00:00:00:01"}, "MAC address is 52:54:00:00:00:01"),
        ({"mac": None}, "MAC address is None"),
        ({"address": "10.0.2.16"}, "address is 10.0.2.16"),
        ({"failures": {"clock": "not permitted"}}, "clock: not permitted"),
        ({"failures": {"connections": "no such file"}}, "connections: no such file"),
    ],
)
def test_a_missing_proof_is_named_as_a_fault(change: dict[str, Any], named: str) -> None:
    (fault,) = faults(attrs.evolve(GOOD, **change), IDENTITY, NONCE)
    assert named in fault


def test_a_cold_boot_whose_guest_remembers_another_life_is_doubted() -> None:
    assert faults(GOOD, IDENTITY, None)
