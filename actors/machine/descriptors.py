"""The numbers under which a QEMU process inherits what others have opened for it."""

from __future__ import annotations

from typing import Final

QMP: Final = 3
CHANNEL: Final = 4
"""The socket on which the guest agent's channel is served, where the channel needs one."""
STATE: Final = 5
"""The device state to load."""
LIMITS: Final = 6
"""What places the process within its limits before it becomes QEMU."""
CONSOLE: Final = 7
"""The log of the guest's console."""
NETWORK: Final = 8
"""The first of the network's, which may have several."""
