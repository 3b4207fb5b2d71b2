"""What files and git need of a workspace: that it runs commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from actors.model.guest import ExecResult
from actors.workspace.job_messages import OnOutput


class Executes(Protocol):
    """Whoever runs commands in a guest; see `agentiso.Workspace.exec`."""

    async def exec(
        self,
        command: str | Sequence[str],
        *,
        timeout_s: float | None = None,
        yield_s: float | None = None,
        workdir: str | None = None,
        env: dict[str, str] | None = None,
        max_output_bytes: int = 262144,
        on_output: OnOutput | None = None,
    ) -> ExecResult:
        """Run a command in the guest and wait for its end."""
