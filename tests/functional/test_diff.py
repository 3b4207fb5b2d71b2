"""What differs between nodes of a tree, or a node and now, on real machines."""

from __future__ import annotations

import pytest
import trio

from actors.model.errors import NotFound
from actors.model.guest import Diff
from agentiso import System, Workspace

pytestmark = pytest.mark.functional
LIMIT_S = 600


async def run(workspace: Workspace, command: str) -> str:
    result = await workspace.exec(command)
    assert result.exit_code == 0, result
    return result.stdout.decode()


def below(found: Diff, directory: str) -> dict[str, str]:
    return {c.path.removeprefix(directory): c.change for c in found.changes if c.path.startswith(directory)}


async def test_what_changed_between_nodes_and_since_is_told_without_disturbing_anything(system: System) -> None:
    """Also with text, of a node without memory, of a workspace at rest; and no helper is seen or left."""
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("compared", vcpus=1, memory_mb=256)
        await run(
            workspace, "mkdir /root/w; cd /root/w; printf 'one\\ntwo\\n' > text; echo gone > gone; echo abc > same"
        )
        await run(
            workspace, "cd /root/w; head -c 9000 /dev/urandom > binary; ln -s text link; mkdir dir; touch dir/mode"
        )
        await run(
            workspace, "(while :; do date > /root/w/ticks; sleep 0.01; done) > /dev/null 2>&1 &\necho $! > /dev/shm/pid"
        )
        await workspace.snapshots.create("a")
        await run(workspace, "kill $(cat /dev/shm/pid); while kill -0 $(cat /dev/shm/pid) 2> /dev/null; do :; done")
        await run(workspace, "rm /root/w/ticks")
        await run(workspace, "cd /root/w; printf 'one\\nthree\\n' > text; rm gone; touch same; chmod 600 dir/mode")
        await run(
            workspace, "cd /root/w; printf x | dd of=binary conv=notrunc 2> /dev/null; ln -sf same link; echo n > new"
        )
        await workspace.snapshots.create("b", include_memory=False)
        expected = {
            "/text": "changed",
            "/gone": "removed",
            "/dir/mode": "changed",
            "/binary": "changed",
            "/link": "changed",
            "/new": "added",
            "/ticks": "removed",
        }
        before = (await workspace.info()).evidence
        now = await workspace.snapshots.diff("a", unified=True)
        assert (now.base, now.other) == ("a", "now")
        assert below(now, "/root/w") == expected
        assert now.compared > 1000
        assert not any(change.path.startswith(("/proc/", "/sys/", "/dev/")) for change in now.changes)
        changes = {change.path.removeprefix("/root/w/"): change for change in now.changes}
        assert "-two\n+three\n" in changes["text"].text
        assert "+n\n" in changes["new"].text
        assert changes["binary"].text == ""
        assert changes["binary"].after is not None
        assert changes["binary"].after.size_bytes == 9000
        assert changes["dir/mode"].after is not None
        assert changes["dir/mode"].after.mode == 0o600

        assert below(await workspace.snapshots.diff("a", "b", path="/root"), "/root/w") == expected
        assert (await workspace.snapshots.diff("b", "b", path="/root/w")).changes == ()
        assert (await workspace.info()).evidence == before
        with pytest.raises(NotFound):
            await workspace.snapshots.diff("a", "nowhere")

        await workspace.suspend()
        assert below(await workspace.snapshots.diff("a", path="/root/w"), "/root/w") == expected
        await workspace.stop()
        assert below(await workspace.snapshots.diff("a", path="/root/w"), "/root/w") == expected
        assert [info.name for info in await system.list()] == ["compared"]
        assert not list(system.settings.state_dir.glob("workspaces/*/machines/*"))
