"""What tests look at in /proc, where a process may end at any moment."""

from pathlib import Path

import trio

LIMIT_S = 60
LOOK_AGAIN_S = 0.01


def has_ended(pid: int) -> bool:
    """Tell whether no such process runs any more; what ended and is not reaped yet has ended too."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


async def until_ended(pid: int) -> None:
    """Wait until a process has ended, which may be another's child."""
    with trio.fail_after(LIMIT_S):
        while not has_ended(pid):
            await trio.sleep(LOOK_AGAIN_S)
