"""`agentiso demo`: one real workspace, created, used, checkpointed and forked while it runs, with timings.

It runs in this process and in a state directory of its own: nothing is left over, or the next run removes it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import attrs
from rich.console import Console

from actors.model.settings import Settings
from agentiso.display.tree import draw, grow
from agentiso.library.opening import open_system
from agentiso.library.scratch import open_scratch
from agentiso.library.system import System
from agentiso.library.workspace import Workspace
from agentiso.mcp.tools.results import workspace_result
from imagebuild import BuildProgress, ImageError, build_image, load_image

TICKS: Final = "/dev/shm/ticks"  # noqa: S108 (in the guest)
COUNTER: Final = """\
(i=0; while :; do i=$((i+1)); read -r tag < /proc/sys/kernel/random/uuid; echo "$i $tag" >> /dev/shm/ticks; sleep 0.1
done) > /dev/null 2>&1 &
while [ "$(wc -l < /dev/shm/ticks 2> /dev/null || echo 0)" -lt 5 ]; do sleep 0.1; done"""
"""Counts, and tags each tick with a random id of the kernel's, by which histories can be told apart."""
WAIT_ON: Final = "n=$(wc -l < /dev/shm/ticks); while [ $(wc -l < /dev/shm/ticks) -lt $((n+3)) ]; do sleep 0.1; done"
CHILDREN: Final = 3


@attrs.define
class _Story:
    as_json: bool
    steps: list[dict[str, object]] = attrs.field(factory=list)
    console: Console = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.console = Console(stderr=self.as_json, highlight=False)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        with self.console.status(f"{name} ..."):
            yield
        seconds = time.perf_counter() - began
        self.steps.append({"name": name, "seconds": round(seconds, 4)})
        self.say(f"  {name:<46} {seconds:8.3f} s")

    def say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def build_progress(self, progress: BuildProgress) -> None:
        state = "done" if progress.done else "..."
        self.say(f"    [{progress.elapsed_s:5.1f} s] {progress.step}: {progress.message} {state}")


async def run_demo(settings: Settings, *, as_json: bool) -> None:
    """Tell the story; with ``as_json`` one object is printed at the end, and the story goes to stderr."""
    story = _Story(as_json)
    try:
        load_image(settings.images, "base")
    except ImageError:
        story.say("There is no image yet; it is built once, from this host's own package sources:")
        with story.step("build the image (once)"):
            await build_image("base", settings.images, progress=story.build_progress)
    own = attrs.evolve(settings, image="base")
    async with open_scratch(own) as scratch, open_system(scratch) as system:
        summary = await _tell(system, story)
    if as_json:
        print(json.dumps(summary))


async def _tell(system: System, story: _Story) -> dict[str, Any]:
    with story.step("boot the template (once per shape)"):
        await (await system.create("warm-up")).destroy()
    with story.step("create a workspace"):
        ws = await system.create("demo")
    with story.step("run a command in it"):
        kernel = (await ws.exec("uname -sr")).stdout.decode().strip()
    with story.step("write a file"):
        await ws.files.write("/root/note", "written before the fork\n")
    with story.step("take a snapshot, memory included"):
        await ws.snapshots.create("before")
    with story.step("start a counter, let it count to 5"):
        await ws.exec(COUNTER)
    with story.step(f"fork it into {CHILDREN} while it counts"):
        fork = await ws.fork(CHILDREN)
    info = await ws.info()
    story.say(f"\n  {kernel} under {info.accelerator}; the parent stood still for {fork.report.pause_ms or 0:.1f} ms\n")
    await _compare(story, [ws, *fork])
    await _travel(story, ws)
    story.say("\n  The tree of all this:\n")
    known = [attrs.asdict(workspace_result(info)) for info in await system.list()]
    for root in grow(known):
        story.console.print(draw(root, time.time()))
    story.say("")
    with story.step("destroy everything"):
        for workspace in (*fork, ws):
            await workspace.destroy()
    return {
        "accelerator": info.accelerator,
        "steps": story.steps,
        "fork": {
            "count": CHILDREN,
            "pause_ms": fork.report.pause_ms,
            "child_ready_ms": [child.ready_ms for child in fork.report.children],
        },
    }


async def _travel(story: _Story, workspace: Workspace) -> None:
    """Go back to the snapshot, before the counter, and forth again, where it counts on."""
    with story.step("restore the snapshot: no counter yet"):
        await workspace.snapshots.restore("before")
    assert (await workspace.exec(f"test -e {TICKS}")).exit_code == 1
    with story.step("undo that: the counter counts on"):
        await workspace.undo()
    await workspace.exec(WAIT_ON)


async def _compare(story: _Story, workspaces: Sequence[Workspace]) -> None:
    """Show that the counters have one history up to the fork, and each its own from there."""
    for workspace in workspaces:
        await workspace.exec(WAIT_ON)
    histories = [(await workspace.files.read(TICKS)).content.decode().split("\n") for workspace in workspaces]
    shared = 0
    while len({history[shared] for history in histories}) == 1:
        shared += 1
    story.say(f"  All counted to {shared} together, tick for tick the same; from there each counts on by itself:")
    for workspace, history in zip(workspaces, histories, strict=True):
        own = "  ".join(line[: line.index(" ") + 9] for line in history[shared : shared + 3])
        story.say(f"    {workspace.name:<14} {own}")
    story.say("")
