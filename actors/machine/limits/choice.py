"""The limits there are."""

from __future__ import annotations

from actors.machine.choice import Choice
from actors.machine.limits.none import NoLimits
from actors.machine.limits.protocol import Limits


def limits() -> Choice[Limits]:
    """Return the ways of one supervisor to bound machines, the best one first."""
    return Choice[Limits]("limits", NoLimits())


def best_limits() -> Limits:
    """Return the best of them that this host can do; the last one needs nothing."""
    *better, always = limits()
    return next((found for found in better if found.probe().ok), always)
