"""`agentiso demo`: one real workspace, created, used, checkpointed and forked while it runs, with timings.

It runs in this process and in a state directory of its own, so that nothing is left over whatever happens.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from actors.settings import Settings
from agentiso.system import System, Workspace, open_system
from imagebuild import ImageError, build_image, load_image

COUNTER = (
    "(i=0; while :; do i=$((i+1)); echo $i >/dev/shm/n; mv /dev/shm/n /dev/shm/count; sleep 0.1; done) "
    ">/dev/null 2>&1 & sleep 0.5"
)
CHILDREN = 3


@attrs.define
class _Story:
    as_json: bool
    steps: list[dict[str, object]] = attrs.field(factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        self.steps.append({"name": name, "seconds": round(seconds, 4)})
        self.say(f"  {name:<42} {seconds:8.3f} s")

    def say(self, text: str) -> None:
        if not self.as_json:
            print(text, flush=True)


async def run_demo(settings: Settings, *, as_json: bool) -> None:
    """Tell the story; with ``as_json`` only one object is printed, at the end."""
    story = _Story(as_json)
    try:
        load_image(settings.images, "base")
    except ImageError:
        with story.step("build the image (once)"):
            await build_image("base", settings.images, progress=lambda p: print(f"    {p.step}", file=sys.stderr))
    scratch = Path(tempfile.mkdtemp(prefix="agentiso-"))
    try:
        own = attrs.evolve(settings, state_dir=scratch, images_dir=settings.images, image="base")
        async with open_system(own) as system:
            summary = await _tell(system, story)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if as_json:
        print(json.dumps(summary))


async def _tell(system: System, story: _Story) -> dict[str, object]:
    with story.step("boot the template (once per shape)"):
        ws = await system.create("warm-up")
    await ws.destroy()
    with story.step("create a workspace"):
        ws = await system.create("demo")
    with story.step("run a command in it"):
        kernel = (await ws.exec("uname -sr")).stdout.decode().strip()
    with story.step("write a file"):
        await ws.write_file("/root/note", "written before the fork\n")
    with story.step("take a snapshot, memory included"):
        await ws.snapshot("before")
    with story.step("start a counter"):
        await ws.exec(COUNTER)
    with story.step(f"fork it into {CHILDREN} while it counts"):
        fork = await ws.fork(CHILDREN)
    info = await ws.info()
    story.say(f"\n  {kernel} under {info.accelerator}; the parent stood still for {fork.report.pause_ms or 0:.1f} ms")
    await _show_counters(story, [ws, *fork])
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


async def _show_counters(story: _Story, workspaces: list[Workspace]) -> None:
    """Show that each child counts on from the fork point, on its own."""
    story.say("  " + "".join(f"{workspace.name:>14}" for workspace in workspaces))
    for _ in range(3):
        counts = [(await workspace.exec("cat /dev/shm/count")).stdout.decode().strip() for workspace in workspaces]
        story.say("  " + "".join(f"{count:>14}" for count in counts))
    story.say("")
