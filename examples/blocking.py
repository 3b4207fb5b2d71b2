"""Use workspaces from a script without `async`: fork one, try something in each fork, keep none.

Usage: python examples/blocking.py
"""

import agentiso


def main() -> None:
    """Run from the same instant in three machines, side by side with none of the words of asynchronous programs."""
    with agentiso.blocking.open_system(attach="auto") as system, system.workspace() as ws:
        ws.files.write("/root/words", "pear\napple\nfig\n")
        with ws.forked(3) as children:
            for child, flags in zip(children, ("", "-r", "-R"), strict=True):
                child.exec(f"sort {flags} -o /root/words /root/words")
            first = [child.files.read("/root/words").content.decode().split()[0] for child in children]
        with ws.stream("cat /root/words") as output:
            untouched = b"".join(event.data for event in output).decode().split()
    print(f"sorted: {first[0]}; reversed: {first[1]}; the parent still has: {', '.join(untouched)}")


if __name__ == "__main__":
    main()
