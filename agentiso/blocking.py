"""The library for scripts and notebooks without `async`: the same names, called and waited for.

Synopsis::

    with agentiso.blocking.open_system() as system:
        ws = system.create("demo")
        print(ws.exec("uname -a").stdout)
        children = ws.fork(3)

Everything runs on Trio in a thread of its own, so this may be used beside asyncio.  Whatever is awaited in the library
is waited for here, every ``async with`` is a ``with``, every ``async for`` a ``for``, and an iterator of bytes stands
for an asynchronous one.  Callbacks are called in that thread.  A call that Ctrl-C interrupts is cancelled, and rolled
back, before `KeyboardInterrupt` goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from anyio.from_thread import start_blocking_portal

from actors.model.settings import Settings
from agentiso.library import files, git, images, jobs, opening, ports, snapshots, system, templates, workspace
from agentiso.library.synchronous import Face, face_of, wrap

__all__ = [
    "Face",
    "Files",
    "Fork",
    "Git",
    "Images",
    "Imported",
    "Jobs",
    "Output",
    "Ports",
    "Snapshots",
    "System",
    "Templates",
    "Workspace",
    "face_of",
    "open_system",
]

System = face_of(system.System)
Workspace = face_of(workspace.Workspace)
Fork = face_of(workspace.Fork)
Images = face_of(images.Images)
Imported = face_of(system.Imported)
Files = face_of(files.Files)
Git = face_of(git.Git)
Jobs = face_of(jobs.Jobs)
Output = face_of(jobs.Output)
Ports = face_of(ports.Ports)
Snapshots = face_of(snapshots.Snapshots)
Templates = face_of(templates.Templates)


@contextmanager
def open_system(
    settings: Settings | None = None, *, keep: bool = False, attach: bool | Literal["auto"] = False
) -> Iterator[System]:
    """Yield a `System` whose methods wait; see `agentiso.open_system`."""
    with start_blocking_portal("trio", name="agentiso") as portal:
        opened = opening.open_system(settings, keep=keep, attach=attach)
        with portal.wrap_async_context_manager(opened) as entered:
            yield wrap(portal, entered)
