"""Two programs that share a supervisor's workspaces: one prepares, the other uses.

Usage: python examples/attach.py
"""

import uuid

import trio

import agentiso


async def prepare(name: str) -> None:
    """Make a workspace and leave it running for others."""
    async with agentiso.open_system(attach=True, keep=True) as system:
        workspace = await system.create(name)
        await workspace.files.write("/root/note", "prepared by another program\n")


async def use(name: str) -> str:
    """Find it by its name; this could as well be an agent's MCP client, or `agentiso exec`."""
    async with agentiso.open_system(attach=True) as system:
        workspace = await system.get(name)
        try:
            return (await workspace.exec("cat /root/note")).stdout.decode()
        finally:
            await workspace.destroy()


async def main() -> None:
    """Be both programs, one after the other."""
    name = f"shared-{uuid.uuid4().hex[:6]}"
    await prepare(name)
    print(f"found: {await use(name)}", end="")


if __name__ == "__main__":
    trio.run(main)
