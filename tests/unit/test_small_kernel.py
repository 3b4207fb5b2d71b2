"""The small kernel's configuration, what is kept of it, and what its build asks for; nothing is compiled here."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import attrs
import pytest
import trio

from imagebuild import ImageBuildFailed, kernel, tools
from imagebuild.build import build_image
from imagebuild.image import FileFacts, Manifest
from imagebuild.run import Runner
from imagebuild.sources import HostSources

FRAGMENT = (resources.files("imagebuild") / "boot" / "small.config").read_text()
SIMULATED = "Inst binutils (2.40-2 Debian:12 [amd64])\nInst linux-source-6.1 (6.1.5-1 Debian:12 [all])\n"


@attrs.frozen
class FakeTools(Runner):
    """Stands for mmdebstrap, tar and make: leaves the files that they would, and remembers what make was asked for."""

    refused: str = ""
    """An option that this kernel source does not know."""
    made: list[str] = attrs.Factory(list)

    async def run(self, *argv: str, niceness: int = 0) -> str:
        await trio.lowlevel.checkpoint()
        tree = self.work / "linux"
        if argv[0] == "mmdebstrap" and "--simulate" in argv:
            return SIMULATED
        if argv[0] == "mmdebstrap":
            (self.work / "source.tar").touch()
        elif "--wildcards" in argv:
            (self.work / "source" / "linux-source-6.1.tar.xz").touch()
        elif argv[0] == "make":
            self.made.append(argv[-1])
            config = tree / ".config"
            if argv[-1] == "tinyconfig":
                config.write_text("# CONFIG_SMP is not set\n")
            elif argv[-1] == "olddefconfig" and self.refused:
                config.write_text(config.read_text().replace(f"{self.refused}=y\n", ""))
            elif argv[-1] == "bzImage":
                for path, text in (("include/config/kernel.release", "6.1.5\n"), ("arch/x86/boot/bzImage", "code")):
                    (tree / path).parent.mkdir(parents=True)
                    (tree / path).write_text(text)
        return ""


def fake_tools(path: Path, *, refused: str = "") -> FakeTools:
    path.mkdir()
    return FakeTools(path, HostSources("bookworm", "debian", (), ()), refused)


def test_every_line_of_the_configuration_sets_an_option_once() -> None:
    lines = [line for line in FRAGMENT.splitlines() if line and not re.match(r"# (?!CONFIG_)", line)]
    options = [re.fullmatch(r"(CONFIG_\w+)=(?:y|\"[^\"]*\")|# (CONFIG_\w+) is not set", line) for line in lines]
    assert all(options), [line for line, match in zip(lines, options, strict=True) if not match]
    names = [match[1] or match[2] for match in options if match]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("option", ["MODULES", "PCI", "ACPI"])
def test_the_configuration_has_no(option: str) -> None:
    assert f"CONFIG_{option}=y" not in FRAGMENT.splitlines()


def test_a_kept_kernel_is_known_by_its_source_and_its_configuration() -> None:
    one = kernel.digest("linux-source-6.1 6.1.5-1", FRAGMENT)
    assert one == kernel.digest("linux-source-6.1 6.1.5-1", FRAGMENT)
    assert one != kernel.digest("linux-source-6.1 6.1.5-2", FRAGMENT)
    assert one != kernel.digest("linux-source-6.1 6.1.5-1", FRAGMENT + "CONFIG_PCI=y\n")


async def test_a_kernel_is_compiled_once_and_its_tree_does_not_stay(tmp_path: Path) -> None:
    said: list[str] = []
    images = tmp_path / "images"
    images.mkdir()
    first, second = fake_tools(tmp_path / "first"), fake_tools(tmp_path / "second")
    kernels = [
        await kernel.build(runner, tmp_path / f"kernel-{number}", images, say=said.append)
        for number, runner in enumerate((first, second))
    ]
    assert kernels == [kernel.Kernel("6.1.5", acpi=False, cmdline=kernel.CMDLINE)] * 2
    assert (first.made, second.made) == (["tinyconfig", "olddefconfig", "bzImage"], [])
    assert [(tmp_path / f"kernel-{number}").read_text() for number in (0, 1)] == ["code", "code"]
    assert said[-1] == "6.1.5 was built before"
    assert {path.suffix for path in first.work.iterdir()} == {".list"}
    assert [path.name for path in (images / "kernels").iterdir()] == [
        kernel.digest("linux-source-6.1 6.1.5-1", FRAGMENT)
    ]


async def test_an_option_that_the_source_does_not_take_is_named_and_nothing_is_kept(tmp_path: Path) -> None:
    runner = fake_tools(tmp_path / "work", refused="CONFIG_EXT4_FS")
    with pytest.raises(ImageBuildFailed, match="CONFIG_EXT4_FS"):
        await kernel.build(runner, tmp_path / "kernel", tmp_path, say=lambda _: None)
    assert "bzImage" not in runner.made
    assert not (tmp_path / "kernels").exists()


def test_a_damaged_kept_kernel_is_not_found_and_is_replaced(tmp_path: Path) -> None:
    kept, built = tmp_path / "kernels" / "digest", tmp_path / "built"
    built.write_bytes(b"code")
    for work in ("one", "two"):
        (tmp_path / work).mkdir()
    assert kernel.find(kept) is None
    facts = kernel.keep(kept, built, "6.1.5", "source", tmp_path / "one")
    assert kernel.find(kept) == facts
    (kept / kernel.FILE).chmod(0o644)
    (kept / kernel.FILE).write_bytes(b"cod")
    assert kernel.find(kept) is None
    assert kernel.keep(kept, built, "6.1.5", "source", tmp_path / "two") == facts
    assert kernel.find(kept) == facts


def test_of_two_builds_at_once_the_slower_takes_the_kernel_of_the_faster(tmp_path: Path) -> None:
    kept = tmp_path / "kernels" / "digest"
    for name in ("faster", "slower"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.built").write_text(name)
    faster = kernel.keep(kept, tmp_path / "faster.built", "6.1.5", "source", tmp_path / "faster")
    assert kernel.keep(kept, tmp_path / "slower.built", "6.1.5", "source", tmp_path / "slower") == faster
    assert (kept / kernel.FILE).read_text() == "faster"


def test_the_compilers_are_asked_for_only_by_a_small_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "HEADERS", tmp_path)
    monkeypatch.setattr(tools, "find_tool", lambda name: None if name in {"flex", "xz"} else f"/usr/bin/{name}")
    tools.require_tools()
    with pytest.raises(ImageBuildFailed) as caught:
        tools.require_tools("small")
    assert caught.value.remedy == "Run: apt-get install flex xz-utils libc6-dev libelf-dev"


async def test_an_unknown_kind_of_kernel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageBuildFailed, match="'tiny'"):
        await build_image("base", tmp_path / "images", progress=print, kernel_kind="tiny")
    assert not (tmp_path / "images").exists()


def test_how_a_kernel_is_started_is_part_of_the_images_address() -> None:
    files = {"kernel": FileFacts("00", 1)}
    stock = Manifest("base", "x86_64", "", "bookworm", "6.1.5", files)
    assert attrs.evolve(stock, kernel_version="6.1.6").digest == stock.digest
    assert len({stock.digest, attrs.evolve(stock, acpi=False).digest, attrs.evolve(stock, cmdline="a=b").digest}) == 3
