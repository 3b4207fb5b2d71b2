"""Tools for templates, for the command line alone."""

from __future__ import annotations

from typing import Final

import attrs

from actors.model.info import TemplateInfo
from agentiso.mcp.schema import describe
from agentiso.mcp.tools.tool import Call, Tool


@attrs.frozen
class WarmArguments:
    base_image: str | None = describe("Image; the configured one if absent", None)
    vcpus: int | None = describe("Virtual CPUs", None)
    memory_mb: int | None = describe("Memory in MB", None)


@attrs.frozen
class NoArguments:
    pass


@attrs.frozen
class DropArguments:
    ids: list[str] | None = describe("Ids or prefixes of them; absent: the stale ones", None)


@attrs.frozen
class TemplateResult:
    id: str = describe("Its id")
    base_image: str = describe("Its image's name")
    image_digest: str = describe("Its image's digest")
    vcpus: int = describe("Virtual CPUs")
    memory_mb: int = describe("Memory in MB")
    disk_gb: int = describe("Disk in GB; a workspace's may be larger")
    network: str = describe("Network backend")
    qemu: str = describe("QEMU's version and build")
    created_at: float = describe("Seconds since the Unix epoch")
    size_bytes: int = describe("Bytes that it takes on the host")
    stale: str | None = describe("Why it is of no use any more")


@attrs.frozen
class TemplatesResult:
    templates: list[TemplateResult] = describe("Oldest first")


def _result(info: TemplateInfo) -> TemplateResult:
    shape = info.shape
    return TemplateResult(
        info.id, info.image, info.image_digest, shape.vcpus, shape.memory_mb, shape.disk_gb, info.network, info.qemu,
        info.created_at, info.size_bytes, info.stale,
    )  # fmt: skip


async def _warm(call: Call, a: WarmArguments) -> TemplateResult:
    return _result(
        await call.system.templates.warm(a.base_image, vcpus=a.vcpus, memory_mb=a.memory_mb, on_progress=call.report)
    )


async def _list(call: Call, _a: NoArguments) -> TemplatesResult:
    return TemplatesResult([_result(info) for info in await call.system.templates.list()])


async def _drop(call: Call, a: DropArguments) -> TemplatesResult:
    return TemplatesResult([_result(info) for info in await call.system.templates.drop(*(a.ids or ()))])


TOOLS: Final = (
    Tool("template_warm", "Boot the template of a shape ahead.", WarmArguments, TemplateResult, _warm, idempotent=True,
         hidden=True),
    Tool("template_list", "All templates.", NoArguments, TemplatesResult, _list, read_only=True, hidden=True),
    Tool("template_drop", "Forget templates.", DropArguments, TemplatesResult, _drop, destructive=True, hidden=True),
)  # fmt: skip
