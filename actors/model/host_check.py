"""One fact about the host, as `agentiso check` shows it."""

from __future__ import annotations

import attrs


@attrs.frozen
class ProbeResult:
    """What was found, why that matters and how to change it; ``ok`` of ``None`` is a warning."""

    name: str
    ok: bool | None
    verdict: str
    reason: str = ""
    fix: str = ""
