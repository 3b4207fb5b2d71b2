"""Try several fixes of a failing test at once: prepare one workspace, fork it while it runs, keep what passes.

Usage: python examples/explore.py
"""

import trio

import agentiso

BUGGY = """\
def middle(a, b, c):
    return b

assert middle(3, 1, 2) == 2 and middle(1, 2, 3) == 2, "wrong"
"""
CANDIDATES = {
    "max": "sed -i 's/return b/return max(a, b, c)/' /root/middle.py",
    "sorted": "sed -i 's/return b/return sorted((a, b, c))[1]/' /root/middle.py",
    "min": "sed -i 's/return b/return min(a, b, c)/' /root/middle.py",
}


async def attempt(workspace: agentiso.Workspace, fix: str, passed: list[str]) -> None:
    """Apply one fix in a workspace of its own and run the test."""
    await workspace.exec(fix)
    result = await workspace.exec("python3 /root/middle.py")
    print(f"{workspace.name}: {'passes' if result.exit_code == 0 else 'fails'}")
    if result.exit_code == 0:
        passed.append(workspace.name)


async def main() -> None:
    """Fork one prepared workspace per candidate and try all of them side by side."""
    async with agentiso.open_system() as system:
        prepared = await system.create("prepared")
        await prepared.files.write("/root/middle.py", BUGGY)
        children = await prepared.fork(len(CANDIDATES), names=[f"try-{name}" for name in CANDIDATES])
        passed: list[str] = []
        async with trio.open_nursery() as nursery:
            for workspace, fix in zip(children, CANDIDATES.values(), strict=True):
                nursery.start_soon(attempt, workspace, fix, passed)
        print(f"kept: {', '.join(passed)}")


if __name__ == "__main__":
    trio.run(main)
