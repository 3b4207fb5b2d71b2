"""Quantities as people read them."""

from __future__ import annotations

from typing import Final

_SIZES: Final = ("B", "KB", "MB", "GB", "TB")
_SPANS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def size(count: float) -> str:
    """Return a number of bytes in the unit that keeps it short, at 1024 to the next."""
    for unit in _SIZES[:-1]:
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 10 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} {_SIZES[-1]}"


def span(seconds: float) -> str:
    """Return a length of time in its largest unit."""
    for length, unit in _SPANS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
