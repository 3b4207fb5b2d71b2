"""An image on disk: found by name or digest, and verified.

``<images>/<digest>/`` holds the files and ``manifest.json``; ``<images>/names/<name>`` is a link to a digest.
"""

from __future__ import annotations

import hashlib
import platform
import re
from importlib import resources
from pathlib import Path
from typing import Final

import attrs
import cattrs

from guest.untrusted import parse
from imagebuild.errors import ImageError

FILES: Final = ("kernel", "initrd", "layer.img", "root.img")
MANIFEST: Final = "manifest.json"
NAMES: Final = "names"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{32}", re.ASCII)


@attrs.frozen
class FileFacts:
    """What a file of an image must be."""

    sha256: str
    size_bytes: int


@attrs.frozen
class Manifest:
    """What an image is made of."""

    name: str
    arch: str
    created: str
    suite: str
    kernel_version: str
    files: dict[str, FileFacts]
    cmdline: str = ""
    acpi: bool = True

    @property
    def digest(self) -> str:
        """The content address: a digest over the files' digests and over how the kernel is started, if unusual."""
        lines = "".join(f"{name} {facts.sha256}\n" for name, facts in sorted(self.files.items()))
        if self.cmdline or not self.acpi:
            lines += f"acpi {self.acpi}\ncmdline {self.cmdline}\n"
        return hashlib.sha256(lines.encode()).hexdigest()[:32]


@attrs.frozen
class Image:
    """A complete image."""

    digest: str
    directory: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """The name it was built under."""
        return self.manifest.name

    def file(self, name: str) -> Path:
        """Return the path of one of its files."""
        return self.directory / name


def is_name(text: str) -> bool:
    """Tell whether a text is 1 to 63 of ``a-z 0-9 . _ -`` and starts with a letter or digit."""
    return _NAME.fullmatch(text) is not None and ".." not in text


def is_digest(text: str) -> bool:
    """Tell whether a text has the form of an image's digest, and of the name of its directory."""
    return _DIGEST.fullmatch(text) is not None


def check_image_name(name: str) -> str:
    """Return ``name`` if it is one."""
    if not is_name(name):
        raise ImageError(f"{name[:100]!r} is not a valid image name.", remedy="Use a-z, 0-9, '.', '_' and '-'.")
    return name


def load_image(images_dir: Path, name: str) -> Image:
    """Find an image by name or digest and check that it is whole and for this machine.

    Raises:
        ImageError: it is missing, half-made, damaged or for another architecture.

    """
    check_image_name(name)
    rebuild = f"Build it: agentiso image build {name}"
    directory = images_dir / name
    if not is_digest(name) or not directory.is_dir():
        link = images_dir / NAMES / name
        if not link.is_symlink():
            known = sorted(path.name for path in (images_dir / NAMES).glob("*") if is_name(path.name))
            there = ", ".join(known) or "none"
            raise ImageError(f"There is no image {name!r} in {images_dir} (images there: {there}).", remedy=rebuild)
        directory = (images_dir / NAMES / link.readlink()).resolve()
    try:
        manifest = cattrs.structure(parse((directory / MANIFEST).read_bytes()), Manifest)
    except (OSError, ValueError, cattrs.BaseValidationError) as error:
        raise ImageError(f"The image {name!r} has no readable manifest in {directory}.", remedy=rebuild) from error
    if manifest.digest != directory.name:
        raise ImageError(f"The image {name!r} is damaged: the manifest in {directory} is another's.", remedy=rebuild)
    for file, facts in manifest.files.items():
        path = directory / file
        if not path.is_file() or path.stat().st_size != facts.size_bytes:
            raise ImageError(f"The image {name!r} is damaged: {path} is missing or has changed size.", remedy=rebuild)
    if manifest.arch != platform.machine():
        raise ImageError(
            f"The image {name!r} is for {manifest.arch}; this machine is {platform.machine()}.",
            remedy=rebuild,
        )
    return Image(manifest.digest, directory, manifest)


def verify_image(image: Image) -> None:
    """Read the whole image and compare its digests.

    Raises:
        ImageError: a file is not what was built.

    """
    for name, facts in image.manifest.files.items():
        if sha256(image.file(name)) != facts.sha256:
            raise ImageError(
                f"{image.file(name)} is damaged: its digest is not the manifest's.",
                remedy=f"Build the image again: agentiso image build {image.name}",
            )


def sha256(path: Path) -> str:
    """Return a file's SHA-256, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_digest() -> str:
    """Return a digest over the sources of the builder and of the guest: equal sources build equal images."""
    digest = hashlib.sha256()
    for package in ("guest", "imagebuild"):
        root = Path(str(resources.files(package)))
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
