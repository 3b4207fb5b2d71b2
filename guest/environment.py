"""The environment of commands: a default, what was set for all later ones, and what a call adds.

What is set may be secret: it lives in this process's memory alone, and no message ever repeats a value.
"""

from __future__ import annotations

import re
from typing import Any, Final

from guest.filework import InvalidRequest

DEFAULT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "SHELL": "/bin/sh",
    "LANG": "C.UTF-8",
}
REFUSED: Final = frozenset({"PATH", "IFS", "ENV", "BASH_ENV"})
"""With these, and with every ``LD_*``, a variable would change which programs run, not what they are told."""
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
MAX_BYTES: Final = 256 * 1024


class Environment:
    """What was set for all later commands."""

    def __init__(self) -> None:
        self._set: dict[str, str] = {}

    def change(self, variables: dict[str, Any]) -> int:
        """Set variables, or unset those whose value is ``None``; return how many are set then."""
        changed = {**self._set, **_checked(variables)}
        kept = {name: value for name, value in changed.items() if value is not None}
        if sum(len(name) + len(value.encode("utf-8", "replace")) for name, value in kept.items()) > MAX_BYTES:
            raise InvalidRequest(f"the environment would be larger than {MAX_BYTES // 1024} KiB")
        self._set = kept
        return len(kept)

    def of_command(self, variables: dict[str, Any] | None, *, terminal: str) -> dict[str, str]:
        """Return a command's whole environment; a call's own ``variables`` win."""
        given = {**self._set, **_checked(variables or {})}
        return {**DEFAULT, "TERM": terminal, **{name: value for name, value in given.items() if value is not None}}


def _checked(variables: dict[str, Any]) -> dict[str, str | None]:
    for name, value in variables.items():
        if not NAME.match(name):
            raise InvalidRequest(f"{name[:100]!r} is not a variable's name; use letters, digits and underscores")
        if name in REFUSED or name.startswith("LD_"):
            raise InvalidRequest(f"the variable {name} is refused; set it within the command if it has to be")
        if value is not None and (not isinstance(value, str) or "\0" in value):
            raise InvalidRequest(f"the value of {name} is not text, or holds a NUL byte")
    return variables
