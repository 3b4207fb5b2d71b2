"""What errors say in the names of tools, which agents call, in those of commands, which are typed."""

from __future__ import annotations

import re
from typing import Final

COMMANDS: Final = {
    "exec_background": "exec --background",
    "exec_input": "exec -i",
    "exec_kill": "kill",
    "exec_list": "jobs",
    "exec_poll": "output",
    "file_download": "cp",
    "file_list": "ls",
    "file_read": "cat",
    "file_search": "search",
    "file_upload": "cp",
    "image_list": "image list",
    "image_remove": "image remove",
    "set_env": "env",
    "snapshot_create": "snapshot create",
    "snapshot_delete": "snapshot delete",
    "snapshot_diff": "diff",
    "snapshot_list": "snapshot list",
    "snapshot_restore": "snapshot restore",
    "template_drop": "templates remove",
    "template_list": "templates",
    "template_warm": "image warm",
    "workspace_adopt": "adopt",
    "workspace_create": "create",
    "workspace_destroy": "destroy",
    "workspace_export": "export",
    "workspace_fork": "fork",
    "workspace_import": "import",
    "workspace_info": "info",
    "workspace_list": "list",
    "workspace_logs": "logs",
    "workspace_resume": "resume",
    "workspace_set_lifetime": "lifetime",
    "workspace_start": "start",
    "workspace_stop": "stop",
    "workspace_suspend": "suspend",
}
"""Tools whose names are no words that one would use otherwise."""
_NAMES: Final = re.compile(rf"`?\b({'|'.join(COMMANDS)})\b`?")


def in_commands(text: str) -> str:
    """Return a text that may name tools as one that names the commands which do the same."""
    return _NAMES.sub(lambda found: f"`agentiso {COMMANDS[found[1]]}`", text)
