"""The host's own package sources: the distribution's entries of its apt configuration, and nothing else's."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path

import attrs

from imagebuild.errors import ImageBuildFailed

POCKETS = ("", "-updates", "-security")


@attrs.frozen
class Source:
    """One entry: a line of a ``sources.list``."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str | None = None

    @property
    def line(self) -> str:
        """The entry in one-line style (sources.list(5))."""
        option = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"deb {option}{self.uri} {self.suite} {' '.join(self.components)}"


@attrs.frozen
class HostSources:
    """Where this host's own packages come from."""

    suite: str
    distribution: str
    sources: tuple[Source, ...]
    apt_options: tuple[str, ...]
    """The host's proxy and certificate options, as ``Name "value"``."""


def read_host_sources(etc: Path = Path("/etc")) -> HostSources:
    """Read the host's apt configuration.

    Raises:
        ImageBuildFailed: it names no source of its own distribution.

    """
    release = platform.freedesktop_os_release()
    suite = release.get("VERSION_CODENAME", "")
    wanted = {suite + pocket for pocket in POCKETS}
    apt = etc / "apt"
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    found: list[Source] = []
    for path in files:
        if path.suffix == ".sources":
            found += parse_deb822(path.read_text())
        elif path.suffix == ".list" and path.exists():
            found += parse_one_line(path.read_text())
    kept = tuple(
        attrs.evolve(source, components=("main",))
        for source in found
        if source.suite in wanted and "main" in source.components
    )
    if not any(source.suite == suite for source in kept):
        raise ImageBuildFailed(
            f"No package source of {release.get('PRETTY_NAME', 'this host')} was found in {apt}.",
            remedy=f"Add one for suite {suite or '(VERSION_CODENAME of /etc/os-release)'} with component main.",
        )
    return HostSources(suite, release.get("ID", "debian"), kept, _apt_options())


def parse_deb822(text: str) -> list[Source]:
    """Parse a ``*.sources`` file."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        for line in paragraph.splitlines():
            key, colon, value = line.partition(":")
            if colon and not line.startswith(("#", " ", "\t")):
                fields[key.strip().lower()] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes") == "no":
            continue
        components = tuple(fields.get("components", "").split())
        found += [
            Source(uri, suite, components, fields.get("signed-by") or None)
            for uri in fields.get("uris", "").split()
            for suite in fields.get("suites", "").split()
        ]
    return found


def parse_one_line(text: str) -> list[Source]:
    """Parse a ``*.list`` file."""
    found = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)\s+([^#]+)", line)
        if match:
            options = dict(option.split("=", 1) for option in (match[1] or "").split() if "=" in option)
            found.append(Source(match[2], match[3], tuple(match[4].split()), options.get("signed-by")))
    return found


def _apt_options() -> tuple[str, ...]:
    try:
        dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ()
    pattern = re.compile(r'Acquire::https?::(?:.*::)?(?:Proxy|CaInfo|Verify-Peer) "[^"]*";', re.IGNORECASE)
    return tuple(line.rstrip(";") for line in dump.stdout.splitlines() if pattern.fullmatch(line))
