"""How a supervisor serves beyond its configuration, and the file in which a restart leaves that for the next one.

Whoever comes first starts the next supervisor, with arguments of its own; what was left for it counts instead.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import attrs
import cattrs

from actors.model.files import read_json, replace_json

log = logging.getLogger("agentiso.supervisor")
LEFT: Final = "restart.json"


@attrs.frozen
class Serving:
    """What the arguments of `agentiso daemon` say."""

    http: str | None = None
    """Where it serves HTTP, unless that is as configured."""
    idle_exit_s: float | None = None
    """After being idle for so long it ends by itself, if it ever does."""

    def leave(self, state_dir: Path) -> None:
        """Have the next supervisor of a state directory serve so.

        Raises:
            HostFailed, NoCapacity: the file cannot be written.

        """
        replace_json(state_dir / LEFT, attrs.asdict(self))


def withdraw(state_dir: Path) -> None:
    """Have the next supervisor serve as its own arguments say."""
    (state_dir / LEFT).unlink(missing_ok=True)


def take_left(state_dir: Path) -> Serving | None:
    """Return what was left for this supervisor, if anything was, and for no other one after it."""
    try:
        left = cattrs.structure(read_json(state_dir / LEFT), Serving)
        withdraw(state_dir)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, cattrs.BaseValidationError) as error:
        log.warning("how this supervisor is to serve cannot be read: %s", error)
        return None
    return left
