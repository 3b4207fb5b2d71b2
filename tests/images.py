"""Images of a few bytes: nothing boots them, and all else is as of real ones."""

from __future__ import annotations

import json
import platform
import secrets
from pathlib import Path

import attrs

from imagebuild.image import FILES, MANIFEST, FileFacts, Image, Manifest, sha256
from imagebuild.shelf import publish


def put_image(images_dir: Path, name: str, content: str) -> Image:
    """Publish an image whose root disk has the content."""
    made = images_dir / f".made-{secrets.token_hex(4)}"
    made.mkdir(parents=True)
    for file in FILES:
        (made / file).write_text(content if file == "root.img" else file)
    files = {file: FileFacts(sha256(made / file), (made / file).stat().st_size) for file in FILES}
    manifest = Manifest(name, platform.machine(), "today", "suite", "6.1", files)
    (made / MANIFEST).write_text(json.dumps(attrs.asdict(manifest)))
    return publish(name, images_dir, made, manifest.digest)
