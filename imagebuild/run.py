"""Running the build's tools: output kept for the error, cancellation ends them."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Final

import attrs
import trio

from imagebuild.errors import ImageBuildFailed
from imagebuild.sources import HostSources
from imagebuild.tools import find_tool

TAIL_BYTES: Final = 3000
MKE2FS_IDENTITY: Final = (
    "-U",
    "6b1f9e3a-7c52-4d0e-9a57-0a1150000001",
    "-E",
    "hash_seed=6b1f9e3a-7c52-4d0e-9a57-0a1150000002",
)
"""Fixed, so that equal content gives equal images."""


@attrs.frozen
class Runner:
    """Runs tools for one build, in one scratch directory."""

    work: Path
    sources: HostSources

    async def run(self, *argv: str, niceness: int = 0) -> str:
        """Run a program to its end in its own process group and return what it printed.

        Raises:
            ImageBuildFailed: it failed; the message has the end of its output.

        """
        program = find_tool(argv[0])
        if program is None:
            raise ImageBuildFailed(f"{argv[0]} is not installed.", remedy=f"Run: apt-get install {argv[0]}")
        log = self.work / f"{Path(argv[0]).name}-{abs(hash(argv)) % 10**8}.log"
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": "0", "TMPDIR": str(self.work)}
        environment["PATH"] = environment.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
        with log.open("wb") as output:
            result = await trio.run_process(
                [*(("nice", "-n", str(niceness)) if niceness else ()), program, *argv[1:]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
                env=environment,
                start_new_session=True,
                deliver_cancel=_end_group,
            )
        if result.returncode:
            tail = log.read_bytes()[-TAIL_BYTES:].decode(errors="replace").strip()
            raise ImageBuildFailed(
                f"{argv[0]} failed with status {result.returncode}:\n{tail}\n",
                remedy="Mend what it complains of and run the build again; nothing half-made was kept.",
                tail=tail,
            )
        return log.read_text(errors="replace")

    async def mmdebstrap(self, target: Path, variant: str, packages: list[str], *options: str) -> str:
        """Make a root file system's tar from the host's sources and return what was printed."""
        listing = self.work / f"{target.stem}.list"
        listing.write_text("".join(source.line + "\n" for source in self.sources.sources))
        return await self.run(
            "mmdebstrap",
            f"--variant={variant}",
            f"--include={','.join(packages)}",
            *(f"--aptopt={option}" for option in self.sources.apt_options),
            *options,
            self.sources.suite,
            str(target),
            str(listing),
        )


async def _end_group(process: trio.Process) -> None:
    """End the tool's whole group: politely, then for good."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
            await process.wait()
            return
