"""What boots: images of kernel, initrd, guest layer and root disk, content-addressed and immutable."""

from imagebuild.build import BuildProgress, build_image
from imagebuild.errors import ImageBuildFailed, ImageError
from imagebuild.image import Image, list_images, load_image, remove_image, source_digest, verify_image
from imagebuild.tools import ToolProbe, probe_tools

__all__ = [
    "BuildProgress",
    "Image",
    "ImageBuildFailed",
    "ImageError",
    "ToolProbe",
    "build_image",
    "list_images",
    "load_image",
    "probe_tools",
    "remove_image",
    "source_digest",
    "verify_image",
]
