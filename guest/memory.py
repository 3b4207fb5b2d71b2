"""What the agent must know again when it is started anew: kept in guest memory, never on a disk.

The file lies on tmpfs, so what is read from it is as much evidence of this memory as the agent's own variables.
"""

from __future__ import annotations

import json
import os
from typing import Final

PATH: Final = "/run/agentiso/agent.json"


def remember(key: bytes, nonce: str, generation: int) -> None:
    """Write it down, readable by root alone."""
    temporary = PATH + ".new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w") as file:
        json.dump({"key": key.hex(), "nonce": nonce, "generation": generation}, file)
    os.rename(temporary, PATH)


def recall() -> tuple[bytes, str, int] | None:
    """Return (key, nonce, generation), or ``None`` at the agent's first start."""
    try:
        with open(PATH) as file:
            facts = json.load(file)
    except FileNotFoundError:
        return None
    return bytes.fromhex(facts["key"]), str(facts["nonce"]), int(facts["generation"])
