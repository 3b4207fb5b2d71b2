"""Tools for images, for the command line alone."""

from __future__ import annotations

from typing import Final

import attrs

from actors.model.info import ImageInfo
from agentiso.mcp.schema import describe
from agentiso.mcp.tools.tool import Call, Tool


@attrs.frozen
class NoArguments:
    pass


@attrs.frozen
class RemoveArguments:
    image: str = describe("Its name, its digest, or at least 8 digits of that")
    force: bool = describe("Remove at least its name if it is used", False)


@attrs.frozen
class ImageResult:
    names: list[str] = describe("Those that lead to it")
    digest: str = describe("Its digest")
    suite: str = describe("What its root disk was made from")
    kernel: str = describe("Its kernel's version")
    size_bytes: int = describe("Of its files")
    fault: str = describe("Why it cannot be used")
    used_by: list[str] = describe("Who stands on it, or may")


@attrs.frozen
class ImagesResult:
    images: list[ImageResult] = describe("By name; those without at the end")


@attrs.frozen
class RemovalResult:
    digest: str = describe("Its digest")
    names: list[str] = describe("Names that were removed")
    files_removed: bool = describe("Whether its files are gone")
    dropped: list[str] = describe("Templates and machines of the pool that went with it")
    used_by: list[str] = describe("For whom the files were left")


def _result(image: ImageInfo) -> ImageResult:
    return ImageResult(
        list(image.names), image.digest, image.suite, image.kernel, image.size_bytes, image.fault, list(image.used_by)
    )


async def _list(call: Call, _a: NoArguments) -> ImagesResult:
    return ImagesResult([_result(image) for image in await call.system.images.list()])


async def _remove(call: Call, a: RemoveArguments) -> RemovalResult:
    call.report("looking who uses it")
    gone = await call.system.images.remove(a.image, force=a.force)
    return RemovalResult(gone.digest, list(gone.names), gone.files_removed, list(gone.dropped), list(gone.used_by))


TOOLS: Final = (
    Tool("image_list", "All images.", NoArguments, ImagesResult, _list, read_only=True, hidden=True),
    Tool("image_remove", "Remove an image.", RemoveArguments, RemovalResult, _remove, destructive=True, hidden=True),
)
