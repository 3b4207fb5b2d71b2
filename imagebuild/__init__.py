"""What boots: images of kernel, initrd, guest layer and root disk, content-addressed and immutable."""

from imagebuild.build import BuildProgress, build_image
from imagebuild.errors import ImageBuildFailed, ImageError
from imagebuild.image import Image, load_image, source_digest, verify_image
from imagebuild.shelf import (
    USERS,
    Shelved,
    finish_removals,
    forget_user,
    list_images,
    note_user,
    other_users,
    remove_image,
)
from imagebuild.tools import ToolProbe, probe_tools

__all__ = [
    "USERS",
    "BuildProgress",
    "Image",
    "ImageBuildFailed",
    "ImageError",
    "Shelved",
    "ToolProbe",
    "build_image",
    "finish_removals",
    "forget_user",
    "list_images",
    "load_image",
    "note_user",
    "other_users",
    "probe_tools",
    "remove_image",
    "source_digest",
    "verify_image",
]
