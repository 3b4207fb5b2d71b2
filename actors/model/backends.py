"""The names of the backends there are, as settings, records and bundles have them, best first."""

from __future__ import annotations

from typing import Final

NETWORKS: Final = ("user", "none")
CHANNELS: Final = ("serial", "vsock")
ACCELERATORS: Final = ("kvm", "tcg")
