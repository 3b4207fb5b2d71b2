"""What a guest's refusals say, and what to do about each."""

from __future__ import annotations

from typing import Any, Final

from actors.model.errors import GuestRefused

REMEDIES: Final = {
    "not_found": "List what is there first.",
    "no_such_program": "Install it, or name one that is there by its path; the workdir has to exist, too.",
    "no_such_job": "exec_list names the jobs of the workspace; of the finished ones the oldest are forgotten.",
    "permission_denied": "The guest's kernel does not allow it, not even to root; choose another path.",
    "no_space": "Free some space in the guest, or use a workspace with a larger disk_gb.",
    "is_a_directory": "Name a file in it, or list it.",
    "invalid_request": "Change what it names, and ask again.",
    "io_error": "That is the answer of the guest's kernel; workspace_logs may tell more.",
}
"""What to do about a refusal, by its code."""
MISSING: Final = {
    **dict.fromkeys(("exec", "job_start"), "no_such_program"),
    **dict.fromkeys(("job_follow", "job_read", "job_kill", "job_input", "job_resize", "job_release"), "no_such_job"),
}
"""What is not found by operations that are not about files."""
MAX_MESSAGE_CHARS: Final = 1000
MAX_CODE_CHARS: Final = 50


def spoken(op: str) -> str:
    """Return what a user asked for with an operation of the guest's agent."""
    return "exec" if op in ("job_start", "job_follow") else op.replace("_", " ")


def refusal(op: str, said: Any) -> GuestRefused:
    """Return the error for what a guest answered to an operation, whatever that is."""
    error = said if isinstance(said, dict) else {}
    message, code = str(error.get("message"))[:MAX_MESSAGE_CHARS], str(error.get("code"))[:MAX_CODE_CHARS]
    if code == "not_found":
        code = MISSING.get(op, code)
    return GuestRefused(f"{message}.", remedy=REMEDIES.get(code, ""), guest_code=code)
