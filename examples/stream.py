"""Follow a command's output while it runs, and end it when enough was seen.

Usage: python examples/stream.py
"""

import trio

import agentiso


async def main() -> None:
    """Read a command that would never end until it says what is waited for."""
    async with agentiso.open_system(attach="auto") as system, system.workspace() as workspace:
        seen = b""
        async with workspace.stream("i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done") as output:
            async for event in output:
                seen += event.data
                if b"line 5\n" in seen:
                    break
        running = [job for job in (await workspace.jobs.list()).jobs if job.running]
        print(f"saw {len(seen.splitlines()) >= 5}; still running: {len(running)}")


if __name__ == "__main__":
    trio.run(main)
