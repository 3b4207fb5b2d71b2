"""Guest layer, initramfs and the stock kernel, out of the host's own packages.

The guest layer carries the guest agent with a Python runtime, C library included, that works from
``/run/agentiso/layer`` of any root disk: nothing of that disk is needed or looked at.
"""

from __future__ import annotations

import lzma
import re
import shutil
import tarfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Final

import trio

from imagebuild.cpio import Entry, write_archive
from imagebuild.errors import ImageBuildFailed
from imagebuild.run import MKE2FS_IDENTITY, Runner

KERNEL_PACKAGE: Final = {"debian": "linux-image-cloud-amd64", "ubuntu": "linux-image-virtual"}
MODULES: Final = (
    "virtio_mmio", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "qemu_fw_cfg",
    "inet_diag", "tcp_diag",
    "vmw_vsock_virtio_transport",
)  # fmt: skip
"""Drivers of the machine's devices; what they need comes with them, and what is built in is not missed."""
LIBRARIES: Final = re.compile(r"(libc|libm|libz|libexpat|libffi|libcrypto|libdl|libpthread|libutil|librt)\.so\.\d+.*")
DROPPED: Final = frozenset(
    [
        "test",
        "tests",
        "idlelib",
        "lib2to3",
        "ensurepip",
        "distutils",
        "pydoc_data",
        "tkinter",
        "turtledemo",
        "venv",
        "dbm",
        "curses",
        "sqlite3",
        "wsgiref",
        "xmlrpc",
        "unittest",
        "__pycache__",
        "config-3.11-x86_64-linux-gnu",
    ]
)
MAX_MODULE_BYTES: Final = 64 * 1024 * 1024


async def build(runner: Runner, target: Path, *, with_kernel: bool) -> str | None:
    """Write ``initrd`` and ``layer.img``, on request also the stock ``kernel``, and return that kernel's version.

    Without a kernel the initramfs has no modules.
    """
    tar = runner.work / "parts.tar"
    packages = ["busybox-static", "python3-minimal", "libpython3-stdlib"]
    if with_kernel:
        packages.append(KERNEL_PACKAGE.get(runner.sources.distribution, KERNEL_PACKAGE["debian"]))
    await runner.mmdebstrap(tar, "extract", packages)
    parts = runner.work / "parts"
    await trio.to_thread.run_sync(_unpack, tar, parts)
    version = await trio.to_thread.run_sync(_copy_kernel, parts, target / "kernel") if with_kernel else None
    await trio.to_thread.run_sync(_write_initrd, parts, version, target / "initrd")
    tree = runner.work / "layer"
    python = await trio.to_thread.run_sync(_layer_tree, parts, tree)
    await _compile(runner, tree, python)
    size_mb = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file()) // 2**20 * 115 // 100 + 12
    await runner.run(
        *("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-L", "layer", "-m", "0", *MKE2FS_IDENTITY),
        *("-d", str(tree), str(target / "layer.img"), f"{size_mb}M"),
    )
    return version


def _unpack(tar: Path, parts: Path) -> None:
    """Unpack what is a plain file or a link; devices and owners are of no use here."""
    with tarfile.open(tar) as packed:
        members = [member for member in packed if member.isfile() or member.isdir() or member.issym()]
        for member in members:
            member.mode |= 0o700 if member.isdir() else 0o600
        # An attribute that Pythons before 3.11.4, which know no filters, ignore.
        packed.extraction_filter = tarfile.fully_trusted_filter if hasattr(tarfile, "fully_trusted_filter") else None
        packed.extractall(parts, members)


def _copy_kernel(parts: Path, target: Path) -> str:
    kernel = next(iter(sorted((parts / "boot").glob("vmlinuz-*"))), None)
    if kernel is None:
        raise ImageBuildFailed("The kernel package holds no /boot/vmlinuz-*.")
    shutil.copyfile(kernel, target)
    return kernel.name.removeprefix("vmlinuz-")


def _write_initrd(parts: Path, version: str | None, target: Path) -> None:
    busybox = _find(parts, "busybox")
    modules = list(_modules(parts, version)) if version else []
    boot = resources.files("imagebuild") / "boot"
    entries = [
        *(Entry(name) for name in ("bin", "modules", "dev", "proc", "sys", "sysroot")),
        Entry("bin/busybox", busybox.read_bytes()),
        Entry("modules/order", "".join(name + "\n" for name, _ in modules).encode(), 0o644),
        *(Entry(f"modules/{name}", data, 0o644) for name, data in modules),
        Entry("init", (boot / "init").read_bytes()),
    ]
    write_archive(target, entries)


def _modules(parts: Path, version: str) -> Iterator[tuple[str, bytes]]:
    """Yield the modules in the order in which they can be loaded."""
    files = {}
    for path in (parts / "lib" / "modules" / version).rglob("*.ko*"):
        files[path.name.split(".")[0].replace("-", "_")] = path
    done: set[str] = set()

    def visit(name: str) -> Iterator[tuple[str, bytes]]:
        if name in done or name not in files:
            return
        done.add(name)
        data = files[name].read_bytes()
        if files[name].suffix == ".xz":
            data = lzma.decompress(data)
        for depends in re.findall(rb"\0depends=([^\0]*)\0", b"\0" + data):
            for needed in depends.decode().split(","):
                yield from visit(needed.replace("-", "_"))
        yield f"{name}.ko", data

    for wanted in MODULES:
        yield from visit(wanted)


def _layer_tree(parts: Path, tree: Path) -> str:
    """Lay out the guest layer and return the name of its Python's library directory."""
    for directory in ("bin", "sbin", "lib", "usr/bin", "usr/lib", "opt/agentiso"):
        (tree / directory).mkdir(parents=True)
    shutil.copy(_find(parts, "busybox"), tree / "bin" / "busybox")
    (tree / "bin" / "sh").symlink_to("busybox")
    boot = resources.files("imagebuild") / "boot"
    (tree / "sbin" / "init").write_bytes((boot / "layer-init").read_bytes())
    (tree / "sbin" / "init").chmod(0o755)
    library = max((path for path in (parts / "usr/lib").glob("python3.*") if path.is_dir()), key=lambda p: p.name)
    shutil.copy((parts / "usr/bin" / library.name).resolve(), tree / "usr/bin" / "python3")
    shutil.copytree(
        library,
        tree / "usr/lib" / library.name,
        ignore=lambda _dir, names: [n for n in names if n in DROPPED],
        symlinks=False,
        ignore_dangling_symlinks=True,
    )
    for path in sorted(parts.rglob("*.so*")):
        if path.is_file() and LIBRARIES.fullmatch(path.name) and "x86_64-linux-gnu" in path.parts:
            shutil.copy(path.resolve(), tree / "lib" / path.name)
    shutil.copy(_find(parts, "ld-linux-x86-64.so.2").resolve(), tree / "lib" / "ld.so")
    for module in resources.files("guest").iterdir():
        if module.name.endswith(".py"):
            destination = tree / "opt/agentiso/guest" / module.name
            destination.parent.mkdir(exist_ok=True)
            destination.write_bytes(module.read_bytes())
    (tree / "manual.txt").write_bytes((resources.files("guest") / "manual.txt").read_bytes())
    return library.name


async def _compile(runner: Runner, tree: Path, python: str) -> None:
    """Byte-compile with the layer's own Python, which must therefore work from where it lies."""
    interpreter = (
        str(tree / "lib/ld.so"),
        "--library-path",
        str(tree / "lib"),
        str(tree / "usr/bin/python3"),
    )
    script = (
        "import compileall, sys; from py_compile import PycInvalidationMode as M; "
        "compileall.compile_dir(sys.argv[1], quiet=2, stripdir=sys.argv[2], invalidation_mode=M.UNCHECKED_HASH)"
    )
    for directory in (tree / "usr/lib" / python, tree / "opt/agentiso"):
        await runner.run(
            "env",
            f"PYTHONHOME={tree / 'usr'}",
            *interpreter,
            "-s",
            "-S",
            "-c",
            script,
            str(directory),
            str(tree),
        )


def _find(parts: Path, name: str) -> Path:
    found = next((path for path in sorted(parts.rglob(name)) if path.is_file() and "share" not in path.parts), None)
    if found is None:
        raise ImageBuildFailed(f"The packages hold no {name}.", remedy="Look whether their names have changed.")
    return found
