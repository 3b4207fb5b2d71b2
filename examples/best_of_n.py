"""Best of N: fork a prepared workspace N times, run a different attempt in each, score them, keep the best's file.

Usage: python examples/best_of_n.py
"""

import trio

import agentiso

TEXT = "the quick brown fox jumps over the lazy dog\n" * 2000
ATTEMPTS = ("gzip -1 -c text", "gzip -9 -c text", "cat text", "head -c 1000 text")
CHECK = "(gzip -dc result 2> /dev/null || cat result) | cmp -s - text && stat -c %s result"
"""The score: the result's size, if it still holds the whole text."""


async def attempt(workspace: agentiso.Workspace, command: str, scores: dict[agentiso.Workspace, int]) -> None:
    """Run one attempt in a fork of its own, and score it."""
    await workspace.exec(f"{command} > result", workdir="/root")
    checked = await workspace.exec(CHECK, workdir="/root")
    if checked.exit_code == 0:
        scores[workspace] = int(checked.stdout)
    print(f"{command}: {scores.get(workspace, 'fails')}")


async def main() -> None:
    """Try all attempts side by side and take the best one's file home."""
    async with agentiso.open_system(attach="auto") as system, system.workspace() as prepared:
        await prepared.files.write("/root/text", TEXT)
        async with prepared.forked(len(ATTEMPTS)) as children:
            scores: dict[agentiso.Workspace, int] = {}
            async with trio.open_nursery() as nursery:
                for child, command in zip(children, ATTEMPTS, strict=True):
                    nursery.start_soon(attempt, child, command, scores)
            best = min(scores, key=lambda workspace: scores[workspace])
            result = (await best.files.read("/root/result")).content
        print(f"kept: {ATTEMPTS[list(children).index(best)]}, {len(TEXT) > 100 * len(result)}")


if __name__ == "__main__":
    trio.run(main)
