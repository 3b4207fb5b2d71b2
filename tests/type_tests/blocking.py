"""What a type checker knows of `agentiso.blocking`.  Nothing runs this: mypy reads it, and that is the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

import agentiso
from agentiso import blocking


def open_and_use() -> None:
    with agentiso.blocking.open_system(attach="auto") as system, system.workspace("demo") as ws:
        assert_type(system, blocking.System)
        assert_type(ws, blocking.Workspace)
        assert_type(ws.id, str)
        assert_type(ws.exec("true"), agentiso.ExecResult)
        assert_type(ws.fork(3).workspaces, tuple[blocking.Workspace, ...])
        assert_type(system.list(), tuple[agentiso.WorkspaceInfo, ...])
        assert_type(system.import_workspace(Path("a")).workspace, blocking.Workspace)
        assert_type(system.templates.list(), tuple[agentiso.TemplateInfo, ...])
        with ws.forked(2) as children:
            assert_type(children[0], blocking.Workspace)
            for child in children:
                assert_type(child.files.read("/etc/hostname"), agentiso.FileContent)


def stream(ws: blocking.Workspace) -> None:
    with ws.stream("make") as output:
        for event in output:
            assert_type(event, agentiso.OutputEvent)
        assert_type(output.job, agentiso.JobInfo | None)
    with ws.files.open_read("/var/log/big") as pieces:
        assert_type(pieces, Iterator[bytes])
    assert_type(ws.files.write("/big", iter([b"a", b"b"])), int)
    assert_type(ws.jobs.start("make").job_id, str)


async def misuse(ws: blocking.Workspace, system: blocking.System) -> None:
    await ws.exec("true")  # type: ignore[misc]
    ws.exec(7)  # type: ignore[arg-type]
    ws.exce("true")  # type: ignore[attr-defined]
    ws.name = "other"  # type: ignore[misc]
    system.create("a", memory="lots")  # type: ignore[call-arg]
    ws.files.write("/list", [b"a"])  # type: ignore[arg-type]
    agentiso.blocking.open_system(attach="always")  # type: ignore[arg-type]
