r"""Text from outside, made fit to be passed on: bounded when an error repeats it, and without what no UTF-8 can hold.

A lone surrogate is half a character: JSON can spell it (``\ud800``) and Python's strings can hold it, for a byte of a
file's name that is not UTF-8, but nothing that is sent as UTF-8 can.  One in a message would end the connection.
"""

from __future__ import annotations

import math
from typing import Any, Final

MAX_SHOWN_CHARS: Final = 100
"""Of a value that an error repeats: enough to know it again."""


def shown(value: object, most: int = MAX_SHOWN_CHARS) -> str:
    """Return a value as an error repeats it: quoted, and cut if it is long."""
    text = value if isinstance(value, str) else repr(value)
    kept = repr(text[:most]) if isinstance(value, str) else text[:most]
    return kept if len(text) <= most else f"{kept}... ({len(text)} characters)"


def is_text(text: str) -> bool:
    """Tell whether all of a string can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    r"""Return text in which each lone surrogate is spelled out, as ``\udcff``."""
    return text if is_text(text) else text.encode("utf-8", "backslashreplace").decode()


def plain(value: Any) -> Any:
    """Return data that every JSON can hold: text as `printable`, and null for a number that is none.

    Objects and lists are gone through, and made anew.
    """
    match value:
        case str():
            return printable(value)
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {printable(str(key)): plain(each) for key, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
    return value
