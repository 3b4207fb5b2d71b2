"""A QEMU that is missing, dies or hangs at its start."""

from __future__ import annotations

import shutil
from pathlib import Path

import attrs
import pytest
import trio

import agentiso
from actors.machine.descriptors import CONSOLE
from actors.model.errors import HostUnfit, MachineFailed
from tests.faults.helpers import LIMIT_S, files, output, processes, write_program

pytestmark = pytest.mark.faults
PROBES = "*' --version '*|*agentiso.probe=1*"
KERNEL_HANGS = f"""
echo '[    0.503129] APIC frequency too slow, disabling apic timer' >&{CONSOLE}
exec sleep infinity
"""
INIT_REFUSES = """
for word do
    shift
    set -- "$@" "$(echo "$word" | sed 's/agentiso.timer=[0-9]*/agentiso.timer=1000/')"
done
"""


def fake_qemu(tmp_path: Path, *, real_for: str, otherwise: str) -> str:
    """Make a program that is the real QEMU for some arguments and something else for all others."""
    real = shutil.which("qemu-system-x86_64")
    text = f'#!/bin/sh\ncase " $* " in {real_for}) exec {real} "$@" ;; esac\n{otherwise}\n'
    return write_program(tmp_path / "qemu", text)


async def refused(settings: agentiso.Settings) -> agentiso.AgentisoError:
    """Return the error of a create, after which everything is as it was before."""
    async with agentiso.open_system(settings) as system:
        before = files(settings.state_dir)
        with pytest.raises(agentiso.AgentisoError) as caught:
            await system.create("unborn")
        assert await system.list() == ()
        assert files(settings.state_dir) == before
        assert processes(settings.state_dir) == set()
    return caught.value


async def test_a_missing_qemu_is_reported_with_what_to_install(settings: agentiso.Settings) -> None:
    with trio.fail_after(LIMIT_S):
        error = await refused(attrs.evolve(settings, qemu_binary="qemu-that-nobody-has"))
    assert isinstance(error, HostUnfit)
    assert "qemu-that-nobody-has" in error.message
    assert "apt-get install qemu-system-x86" in error.remedy


async def test_a_qemu_that_dies_under_the_probe_is_reported_with_status_and_last_words(
    settings: agentiso.Settings, tmp_path: Path
) -> None:
    qemu = fake_qemu(tmp_path, real_for="*' --version '*", otherwise="echo 'no such machine' >&2; exit 3")
    with trio.fail_after(LIMIT_S):
        error = await refused(attrs.evolve(settings, qemu_binary=qemu))
    assert isinstance(error, HostUnfit)
    assert "exit status 3" in error.message
    assert "no such machine" in error.message
    assert "within" not in error.message


async def test_a_qemu_that_dies_at_its_start_is_reported_with_status_and_last_words(
    settings: agentiso.Settings, tmp_path: Path
) -> None:
    qemu = fake_qemu(tmp_path, real_for=PROBES, otherwise="echo 'out of luck' >&2; exit 3")
    with trio.fail_after(LIMIT_S):
        error = await refused(attrs.evolve(settings, qemu_binary=qemu))
    assert isinstance(error, MachineFailed)
    assert error.facts["exit_status"] == 3
    assert error.facts["log_tail"] == "out of luck\n"
    assert "exit status 3" in error.message
    assert "out of luck" in error.message


async def test_a_qemu_that_hangs_at_its_start_is_ended_at_the_boot_timeout(
    settings: agentiso.Settings, tmp_path: Path
) -> None:
    qemu = fake_qemu(tmp_path, real_for=PROBES, otherwise="exec sleep infinity")
    with trio.fail_after(LIMIT_S):
        # The probe's verdict first: what is timed is the start alone.
        warm = attrs.evolve(settings, qemu_binary=qemu, boot_timeout_s=2)
        await refused(warm)
        with trio.fail_after(LIMIT_S / 4):
            error = await refused(warm)
    assert isinstance(error, MachineFailed)
    assert "did not become ready within 2 s" in error.message


async def boot_again(settings: agentiso.Settings, tmp_path: Path, wrong: str, *, once: bool) -> str:
    """Boot a workspace while its kernel measures its timer wrong, the first time or always; return what it says."""
    real, flag = shutil.which("qemu-system-x86_64"), tmp_path / "wrong"
    condition = f"rm {flag}" if once else f"[ -e {flag} ]"
    otherwise = f'if {condition} 2>/dev/null; then {wrong}\nfi\nexec {real} "$@"'
    qemu = fake_qemu(tmp_path, real_for=PROBES, otherwise=otherwise)
    emulated = attrs.evolve(settings, qemu_binary=qemu, accelerator="tcg", boot_timeout_s=LIMIT_S / (1 if once else 4))
    async with agentiso.open_system(emulated) as system:
        ws = await system.create("timed")
        await ws.stop()
        flag.touch()
        await ws.start()
        return await output(ws, "echo up")


@pytest.mark.parametrize("wrong", [KERNEL_HANGS, INIT_REFUSES], ids=["kernel", "init"])
async def test_a_boot_in_which_the_timer_was_measured_wrong_is_begun_anew(
    settings: agentiso.Settings, tmp_path: Path, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    with trio.fail_after(LIMIT_S):
        assert await boot_again(settings, tmp_path, wrong, once=True) == "up"
    assert "boots again: its kernel measured its timer wrong" in caplog.text


async def test_a_timer_that_is_always_measured_wrong_fails_the_start_and_says_so(
    settings: agentiso.Settings, tmp_path: Path
) -> None:
    with trio.fail_after(LIMIT_S), pytest.raises(MachineFailed, match=r"the timer was measured wrong: \d+, not 1000"):
        await boot_again(settings, tmp_path, INIT_REFUSES, once=False)
