"""What may have been written by somebody who lies: JSON, and the numbers in it.

Whatever is wrong is a `ValueError`, or another of `MALFORMED`, so that whoever reads turns it into the error of his
protocol.  Python itself would raise `RecursionError` for deep nesting, at once or later where the value is shown.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from typing import Any, Final

MALFORMED: Final = (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError, struct.error)
"""What is raised when a peer's message is read as if it had the right form, and it has not."""
MAX_DEPTH: Final = 64
"""Of objects and lists in each other: more than any message or record has, less than any recursion over it takes."""
MAX_WHOLE: Final = 2**96
"""No count, size, position or time in ns that a kernel knows is as large."""


def parse(text: str | bytes | bytearray, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: it is not JSON, or nested deeper than `MAX_DEPTH`.

    """
    try:
        value = json.loads(text, object_hook=object_hook)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    check_depth(value, text)
    return value


def check_depth(value: Any, text: str | bytes | bytearray) -> None:
    """Raise `ValueError` if what was read from a JSON text is nested deeper than `MAX_DEPTH`."""
    brackets = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    if brackets <= MAX_DEPTH:
        return
    level = [value]
    for _ in range(MAX_DEPTH):
        holders = [each for each in level if isinstance(each, (dict, list))]
        level = [inner for each in holders for inner in (each.values() if isinstance(each, dict) else each)]
    if any(isinstance(each, (dict, list)) for each in level):
        raise ValueError("it is nested too deeply")


def whole(value: Any) -> int:
    """Return a whole number that a machine could mean; what is none, or too large, raises one of `MALFORMED`."""
    number = int(value)
    if not -MAX_WHOLE < number < MAX_WHOLE:
        raise ValueError("a number is too large")
    return number


def finite(value: Any) -> float:
    """Return a number that is one; infinity and its like raise one of `MALFORMED`."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("a number is not finite")
    return number
