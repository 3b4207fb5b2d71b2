"""What an operator may set; the defaults serve a laptop.

Sizes are in the units their names carry.  `agentiso.library.config` reads these from a TOML file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs

from actors.model.backends import ACCELERATORS, CHANNELS, NETWORKS
from actors.model.info import Lifetime, Shape

MIN_MEMORY_MB: Final = 128
"""Less does not boot a stock kernel and the guest agent."""
MAX_TIMEOUT_S: Final = 86400.0
"""A wait of more than a day has no bound for whoever waits."""
Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def default_state_dir() -> Path:
    """Return ``/var/lib/agentiso`` for root, else the XDG state directory's ``agentiso``."""
    if os.geteuid() == 0:
        return Path("/var/lib/agentiso")
    # Without a home it is no absolute path, which is told where the configuration is read.
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111
    return Path(base) / "agentiso"


class WrongValue(ValueError):
    """A setting has a value that is not allowed; what it says begins with the setting's name."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(f"{name} is {value!r}; {allowed}")


def ge(least: int) -> Validator:
    """Allow numbers from ``least`` on."""

    def check(_settings: Any, field: attrs.Attribute[Any], value: Any) -> None:
        _at_least(least, field.name, value)

    return check


def in_(allowed: tuple[str, ...]) -> Validator:
    """Allow some words."""

    def check(_settings: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if value not in allowed:
            raise WrongValue(field.name, value, f"allowed are {', '.join(map(repr, allowed))}")

    return check


def _at_least(least: int, name: str, value: Any) -> None:
    if not value >= least:
        raise WrongValue(name, value, f"it has to be at least {least}")


def _timeout(_settings: Any, field: attrs.Attribute[Any], value: float) -> None:
    if not 1 <= value <= MAX_TIMEOUT_S:
        raise WrongValue(field.name, value, f"it has to be from 1 to {MAX_TIMEOUT_S:g} seconds")


def _word(_settings: Any, field: attrs.Attribute[Any], value: str) -> None:
    if not value or "\0" in value:
        raise WrongValue(field.name, value, "it has to have letters, and no NUL")


def _path(_settings: Any, field: attrs.Attribute[Any], value: Path | None) -> None:
    if value is not None and "\0" in str(value):
        raise WrongValue(field.name, str(value), "a path has no NUL")


def _paths(settings: Any, field: attrs.Attribute[Any], value: tuple[Path, ...]) -> None:
    for path in value:
        _path(settings, field, path)


def _shape(_settings: Any, field: attrs.Attribute[Any], shape: Shape) -> None:
    for name, least in (("vcpus", 1), ("memory_mb", MIN_MEMORY_MB), ("disk_gb", 1)):
        _at_least(least, f"{field.name}.{name}", getattr(shape, name))


def _shapes(settings: Any, field: attrs.Attribute[Any], shapes: tuple[Shape, ...]) -> None:
    for shape in shapes:
        _shape(settings, field, shape)


def _lifetime(_settings: Any, field: attrs.Attribute[Any], lifetime: Lifetime) -> None:
    for name in ("idle_suspend_s", "ttl_s"):
        value = getattr(lifetime, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise WrongValue(f"{field.name}.{name}", value, "it has to be above 0; leave it out for never")


def check_bind(text: str) -> None:
    """Raise `ValueError` unless a text is ``HOST:PORT``; whether one can listen there is another question."""
    host, colon, port = text.rpartition(":")
    # An IPv6 address has colons of its own, and so has brackets.
    bare = host.removeprefix("[").removesuffix("]") if host.startswith("[") and host.endswith("]") else host
    is_host = bool(bare) and (bare != host or ":" not in host) and not any(c.isspace() or c in "/[]\0" for c in bare)
    try:
        bare.encode("idna")
    except UnicodeError:
        is_host = False
    if not colon or not is_host or not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError("it has to be HOST:PORT, the port from 0 to 65535, as 127.0.0.1:8080 or [::1]:0")


def _bind(_settings: Any, field: attrs.Attribute[Any], value: str) -> None:
    try:
        if value:
            check_bind(value)
    except ValueError as error:
        raise WrongValue(field.name, value, str(error)) from error


@attrs.frozen
class Limits:
    """The most that one host gives away."""

    max_vcpus: int = attrs.field(default=8, validator=ge(1))
    max_memory_mb: int = attrs.field(default=8192, validator=ge(64))
    max_disk_gb: int = attrs.field(default=100, validator=ge(1))
    max_workspaces: int = attrs.field(default=100, validator=ge(1))
    max_fork_count: int = attrs.field(default=50, validator=ge(1))
    memory_reserve_mb: int = attrs.field(default=512, validator=ge(0))
    """Host memory that no workspace may take."""
    max_undo: int = attrs.field(default=5, validator=ge(0))
    """Automatic checkpoints kept of one workspace, the oldest going first; 0 for none."""
    max_undo_mb: int = attrs.field(default=2048, validator=ge(0))
    """Host disk that they may take together."""
    max_disk_layers: int = attrs.field(default=32, validator=ge(4))
    """A workspace's disk that stands on more layers, one of each checkpoint, has the newest merged."""
    max_transfer_mb: int = attrs.field(default=65536, validator=ge(1))
    """Of one file or tree that is written to a guest or read as a stream."""
    max_tree_entries: int = attrs.field(default=1_000_000, validator=ge(1))
    """Files, directories and links of one tree."""
    concurrent_starts: int = attrs.field(factory=lambda: max(2, 2 * (os.cpu_count() or 1)), validator=ge(1))
    """Machines that may be starting at the same time; the rest wait."""


@attrs.frozen
class Quotas:
    """The most that one session may hold at a time; the user at the command line and the library are not bound."""

    workspaces: int = attrs.field(default=100, validator=ge(0))
    memory_mb: int = attrs.field(default=65536, validator=ge(0))
    disk_gb: int = attrs.field(default=1000, validator=ge(0))
    concurrent_forks: int = attrs.field(default=100, validator=ge(0))
    """Children that may be starting at the same time."""


@attrs.frozen
class Rate:
    """How often something may be done."""

    per_minute: int = attrs.field(validator=ge(1))
    burst: int = attrs.field(validator=ge(1))
    """How many at once, after a pause."""


@attrs.frozen
class RateLimits:
    """How often one session may call tools; the user at the command line is not bound."""

    create: Rate = attrs.field(factory=lambda: Rate(60, 60))
    """Creating and forking; a fork counts once, whatever its number of children."""
    exec: Rate = attrs.field(factory=lambda: Rate(600, 200))
    default: Rate = attrs.field(factory=lambda: Rate(1200, 400))


@attrs.frozen
class Audit:
    """The log of all calls."""

    max_mb: int = attrs.field(default=16, validator=ge(1))
    """Size at which a log is put aside and a new one begun."""
    keep: int = attrs.field(default=4, validator=ge(0))
    """How many of those put aside are kept."""


@attrs.frozen
class Http:
    """MCP over HTTP, beside the Unix socket."""

    bind: str = attrs.field(default="", validator=_bind)
    """``HOST:PORT`` to listen on, port 0 for any free one; nothing listens while it is empty."""
    allowed_hosts: tuple[str, ...] = ()
    """Values of the Host header that are accepted besides those of the loopback, ``:*`` for any port."""


@attrs.frozen
class Pool:
    """Machines that are restored ahead; see `actors.registry.pool`."""

    size: int = attrs.field(default=0, validator=ge(0))
    """How many of each shape; 0 for none."""
    memory_budget_mb: int = attrs.field(default=4096, validator=ge(0))
    """What the memory of all of them may add up to; each takes much less until it is used."""
    shapes: tuple[Shape, ...] = attrs.field(default=(), validator=_shapes)
    """The configured shape alone unless set."""


@attrs.frozen
class Settings:
    """The configuration of one supervisor."""

    state_dir: Path = attrs.field(factory=default_state_dir, converter=Path, validator=_path)
    images_dir: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path), validator=_path)
    """Where images are kept; ``images`` in the state directory unless set."""
    image: str = attrs.field(default="base", validator=_word)
    shape: Shape = attrs.field(factory=Shape, validator=_shape)
    network: str = attrs.field(default="user", validator=in_(NETWORKS))
    allow_internet: bool = False
    accelerator: str = attrs.field(default="auto", validator=in_(("auto", *ACCELERATORS)))
    channel: str = attrs.field(default="serial", validator=in_(CHANNELS))
    qemu_binary: str = attrs.field(default="qemu-system-x86_64", validator=_word)
    memory_sharing: str = attrs.field(default="family", validator=in_(("family", "off")))
    """Whether machines that stem from one template or fork share the pages of memory that none of them has changed."""
    boot_timeout_s: float = attrs.field(default=120.0, validator=_timeout)
    """Bound on a cold boot up to the agent's answer."""
    restore_timeout_s: float = attrs.field(default=30.0, validator=_timeout)
    """Bound on a restore up to the proven handshake."""
    limits: Limits = attrs.field(factory=Limits)
    lifetime: Lifetime = attrs.field(factory=Lifetime, validator=_lifetime)
    """Of workspaces that are created without one; off by default."""
    transfer_roots: tuple[Path, ...] = attrs.field(default=(), validator=_paths)
    """Directories of the host from which sessions may upload, and to which they may download; none by default.

    The user at the command line and programs that use the library are not bound.
    """
    http: Http = attrs.field(factory=Http)
    quotas: Quotas = attrs.field(factory=Quotas)
    pool: Pool = attrs.field(factory=Pool)
    rate_limits: RateLimits = attrs.field(factory=RateLimits)
    audit: Audit = attrs.field(factory=Audit)

    @property
    def images(self) -> Path:
        """The directory of images in force."""
        return self.images_dir or self.state_dir / "images"
