"""Prompts: the three common workflows, for a person to start."""

from __future__ import annotations

from typing import Any, Final

import attrs
import mcp_types as types
from mcp.shared.exceptions import MCPError

from actors.model.text import shown


@attrs.frozen
class Workflow:
    """One prompt; ``text`` has a place for each argument."""

    name: str
    title: str
    description: str
    arguments: dict[str, str]
    text: str


WORKFLOWS: Final = (
    Workflow(
        "try-in-parallel",
        "Try several ways at once",
        "Prepare one workspace, fork it into several, try another way in each and keep the best.",
        {"task": "What is to be achieved, and how success shows.", "ways": "How many ways to try."},
        """\
Task: {task}

Try {ways} different ways at once, each in a machine of its own:
1. workspace_create one workspace and prepare it once: code, dependencies, a test that shows success, data loaded.
2. workspace_fork it with count={ways}. Every child goes on from the same instant, memory and disk: nothing is \
prepared twice, servers that run keep running.
3. Try a different way in each child (exec, file_write). They cannot disturb each other.
4. Run the same test in each, compare, and say which way won and why.
5. Keep the winner, workspace_destroy the others.""",
    ),
    Workflow(
        "risky-change",
        "Do something risky and be able to go back",
        "Take a snapshot, do something that may break everything, look at what it did, keep it or go back.",
        {"task": "What is to be done.", "workspace": "The workspace to do it in."},
        """\
Task, in workspace {workspace}: {task}

1. snapshot_create a snapshot with a telling name: it keeps the disk and the processes that run.
2. Do the task.
3. Look at what it did: run the tests, and snapshot_diff from the snapshot to now.
4. If it went wrong, snapshot_restore: files and processes are as they were. undo takes a restore back, if that was \
the mistake.
5. Say what was done, what changed and which snapshots are left.""",
    ),
    Workflow(
        "long-job",
        "Run a long command as a job",
        "Start a command that takes long, follow its output, and be sure of its end.",
        {"command": "The command.", "workspace": "The workspace to run it in."},
        """\
Run this in workspace {workspace}: {command}

1. exec_background starts it as a job, which goes on whatever becomes of this conversation.
2. exec_poll reads what it has said since the last poll, and tells when it has ended and with which status.
3. Do other work between polls. If it must end early, exec_kill ends it and all that it started.
4. When it has ended, tell its exit status and what matters of its output. If it failed, say why.""",
    ),
)


async def listed(_context: Any, _params: Any) -> types.ListPromptsResult:
    """List the workflows."""
    return types.ListPromptsResult(
        prompts=[
            types.Prompt(
                name=w.name,
                title=w.title,
                description=w.description,
                arguments=[types.PromptArgument(name=n, description=d, required=True) for n, d in w.arguments.items()],
            )
            for w in WORKFLOWS
        ]
    )


async def get(_context: Any, params: types.GetPromptRequestParams) -> types.GetPromptResult:
    """Return a workflow with its arguments in place."""
    found = next((w for w in WORKFLOWS if w.name == params.name), None)
    if found is None:
        raise MCPError(types.INVALID_PARAMS, f"There is no prompt {shown(params.name)}.")
    given = params.arguments or {}
    missing = [name for name in found.arguments if not given.get(name)]
    if missing:
        raise MCPError(types.INVALID_PARAMS, f"The prompt {found.name} needs: {', '.join(missing)}.")
    text = found.text.format(**{name: given[name] for name in found.arguments})
    message = types.PromptMessage(role="user", content=types.TextContent(type="text", text=text))
    return types.GetPromptResult(description=found.description, messages=[message])
