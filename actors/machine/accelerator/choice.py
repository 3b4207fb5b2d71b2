"""The accelerators there are."""

from __future__ import annotations

from typing import Final

from actors.machine.accelerator.kvm import Kvm
from actors.machine.accelerator.protocol import Accelerator
from actors.machine.accelerator.tcg import Tcg
from actors.machine.choice import Choice

ACCELERATORS: Final = Choice[Accelerator]("accelerator", Kvm(), Tcg())
"""They keep nothing, so that all supervisors share them; the best one is tried first."""
