"""The addresses of resources: ``agentiso://workspaces``, below it a workspace and what it has; what needs a look."""

from __future__ import annotations

from typing import Final

ROOT: Final = "agentiso://workspaces"
DOCTOR: Final = "agentiso://doctor"
"""What is damaged, unreachable or half-done."""
MANUAL: Final = "agentiso://manual"
"""What a workspace is, from inside and outside; the guest has the same text."""


def workspace_uri(workspace_id: str) -> str:
    """Return the address of all that is known of a workspace."""
    return f"{ROOT}/{workspace_id}"


def job_uri(workspace_id: str, job_id: str) -> str:
    """Return the address of all output that is kept of a job."""
    return f"{workspace_uri(workspace_id)}/jobs/{job_id}"
