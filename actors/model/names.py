"""The one grammar of names.

Every name that becomes a path, an argument, a rule or a git ref passes through here and nowhere else.
"""

from __future__ import annotations

import re
import uuid

from actors.model.errors import InvalidName
from actors.model.text import shown

MAX_NAME_CHARS = 63
"""A DNS label's limit (RFC 1035, section 2.3.4), so that a name is its own hostname."""

_SHORT = re.compile(r"[0-9a-f]{8}", re.ASCII)
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def check_name(name: str, what: str = "workspace") -> str:
    """Return ``name`` if it follows the grammar: 1-63 of ``a-z 0-9 -``, no hyphen at either end.

    Raises:
        InvalidName: it does not, or it could be mistaken for an id.

    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidName(
            f"{shown(name)} is not a valid {what} name.",
            remedy=f"Use 1 to {MAX_NAME_CHARS} characters of a-z, 0-9 and '-', without '-' at either end.",
        )
    if is_id(name):
        raise InvalidName(f"{name!r} has the form of an id.", remedy=f"Choose another {what} name.")
    return name


def is_id(text: str) -> bool:
    """Tell whether ``text`` has the canonical form of a UUID."""
    try:
        return str(uuid.UUID(text)) == text
    except (ValueError, AttributeError, TypeError):
        return False


def new_id() -> str:
    """Make a fresh id: a random UUID in canonical form."""
    return str(uuid.uuid4())


def short(identifier: str) -> str:
    """Return the first 8 hexadecimal digits of an id, as used in paths and device names."""
    return identifier[:8]


def is_short(text: str) -> bool:
    """Tell whether ``text`` has the form of the first digits of an id."""
    return _SHORT.fullmatch(text) is not None
