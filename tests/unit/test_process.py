"""How QEMU's process is started."""

from __future__ import annotations

import os
from pathlib import Path

import trio

from actors.machine.qemu.process import QemuProcess

LIMIT_S = 20


async def test_a_child_gets_the_descriptors_that_it_was_given_and_no_other(tmp_path: Path) -> None:
    unasked, given = os.pipe()
    os.set_inheritable(unasked, True)
    try:
        process = QemuProcess.spawn(
            ["sh", "-c", "echo /proc/$$/fd/*"], uuid="", log=tmp_path / "log", descriptors={3: given}
        )
        with trio.fail_after(LIMIT_S):
            await process.wait_exit()
        process.release()
    finally:
        os.close(unasked)
        os.close(given)
    listed = {int(Path(word).name) for word in (tmp_path / "log").read_text().split()}
    assert {0, 1, 2, 3} <= listed
    assert unasked not in listed
    assert process.exit_status == 0
