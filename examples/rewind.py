"""Take a snapshot, break everything, and go back: files and running processes return.

Usage: python examples/rewind.py
"""

import trio

import agentiso


async def main() -> None:
    """Show that a restore brings back what was destroyed."""
    async with agentiso.open_system() as system:
        workspace = await system.create("rewind")
        await workspace.files.write("/root/precious", "still here\n")
        await workspace.exec("sleep 1000 > /dev/null 2>&1 &")
        await workspace.snapshots.create("before")

        await workspace.exec("rm -rf /root /usr")
        print("after the damage:", (await workspace.files.list("/")) and "the machine answers, its files are gone")

        await workspace.snapshots.restore("before")
        content = (await workspace.files.read("/root/precious")).content.decode().strip()
        sleeping = (await workspace.exec("pgrep -c sleep")).stdout.decode().strip()
        print(f"after the restore: {content}; {sleeping} process sleeps on")


if __name__ == "__main__":
    trio.run(main)
