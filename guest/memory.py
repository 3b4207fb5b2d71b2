"""What the agent must know again when it is started anew: kept in guest memory, never on a disk.

The file lies on tmpfs, so what is read from it is as much evidence of this memory as the agent's own variables.
"""

from __future__ import annotations

import json
import os
from typing import Final

PATH: Final = "/run/agentiso/agent.json"
SIZE: Final = 512
"""More than the facts take; a write of the same size replaces them in one step, whenever the agent ends."""


class Memory:
    """The file, readable by root alone."""

    def __init__(self, path: str = PATH) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def remember(self, key: bytes, nonce: str, generation: int) -> None:
        """Write it down."""
        facts = json.dumps({"key": key.hex(), "nonce": nonce, "generation": generation})
        os.pwrite(self._fd, facts.encode().ljust(SIZE), 0)

    def recall(self) -> tuple[bytes, str, int] | None:
        """Return (key, nonce, generation), or ``None`` at the agent's first start."""
        content = os.pread(self._fd, SIZE, 0)
        if not content:
            return None
        facts = json.loads(content)
        return bytes.fromhex(facts["key"]), str(facts["nonce"]), int(facts["generation"])
