"""What can go wrong with images."""

from __future__ import annotations

from guest.errors import AgentisoError


class ImageError(AgentisoError):
    """An image is missing, damaged, half-made or built for another architecture."""

    code = "image_error"


class ImageBuildFailed(AgentisoError):
    """A tool of the build failed; ``facts`` has the ``tail`` of its output."""

    code = "image_build_failed"
    usual_remedy = "See the end of the tool's output; `agentiso check` names what a build needs."
