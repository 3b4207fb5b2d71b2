"""What goes wrong when machines are forked, and does not here; docs/fork-correctness.md has one row for each."""

from __future__ import annotations

import time

import pytest
import trio

import agentiso
from actors.errors import AgentisoError
from actors.model import HookOutcome

pytestmark = pytest.mark.functional
LIMIT_S = 240
CHILDREN = 3
TICKER = """\
(while :; do read -r tag < /proc/sys/kernel/random/uuid; echo "$tag" >> /dev/shm/tags; sleep 0.01; done) \
> /dev/null 2>&1 & while [ ! -s /dev/shm/tags ]; do sleep 0.05; done"""


MORE = "n=$(wc -l < /dev/shm/tags); while [ $(wc -l < /dev/shm/tags) -lt $((n+5)) ]; do sleep 0.05; done"


async def output(workspace: agentiso.Workspace, command: str) -> str:
    result = await workspace.exec(command)
    assert result.exit_code == 0, result
    return result.stdout.decode().strip()


async def test_no_process_of_a_child_runs_before_the_child_has_proven_itself(system: agentiso.System) -> None:
    """A process that draws random numbers all the time never draws one twice in two machines."""
    with trio.fail_after(LIMIT_S):
        parent = await system.create("drawer")
        await output(parent, TICKER)
        children = list(await parent.fork(CHILDREN))
        assert all([(info := await child.info()).evidence and info.evidence.processes_held for child in children])
        before = (await output(parent, "cat /dev/shm/tags")).split()
        drawn: set[str] = set()
        for workspace in (parent, *children):
            await output(workspace, MORE)
        tags = [(await output(workspace, "cat /dev/shm/tags")).split() for workspace in (parent, *children)]
        shared = 0
        while len({own[shared] for own in tags}) == 1:
            shared += 1
        assert 0 < shared <= len(before)
        for own in tags:
            assert not drawn & set(own[shared:])
            drawn |= set(own[shared:])


async def test_clocks_are_right_to_fifty_milliseconds_in_every_generation(system: agentiso.System) -> None:
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("clock-0")
        for generation in range(1, 4):
            child = (await workspace.fork(1, names=[f"clock-{generation}"]))[0]
            await workspace.destroy()
            workspace = child
            evidence = (await child.info()).evidence
            assert evidence
            began = time.time()
            guest = float(await output(child, "date +%s.%N"))
            # What the command itself took is not the clock's error.
            assert began - 0.05 - evidence.clock_error_ms / 1000 <= guest <= time.time() + 0.05


async def test_the_parents_clock_does_not_fall_behind_by_its_pauses(system: agentiso.System) -> None:
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("steady")
        for _ in range(5):
            await (await workspace.fork(1))[0].destroy()
        began = time.time()
        assert began - 0.05 <= float(await output(workspace, "date +%s.%N")) <= time.time() + 0.05


async def test_monotonic_timers_neither_fire_in_bulk_nor_hang(system: agentiso.System) -> None:
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("timers")
        await output(workspace, "(sleep 1; echo done > /dev/shm/slept) > /dev/null 2>&1 &")
        await workspace.snapshot("asleep")
        await output(workspace, "while [ ! -e /dev/shm/slept ]; do sleep 0.1; done")
        await workspace.restore("asleep")
        assert (await workspace.exec("test -e /dev/shm/slept")).exit_code == 1
        await output(workspace, "while [ ! -e /dev/shm/slept ]; do sleep 0.1; done")


async def test_every_child_has_an_identity_of_its_own(system: agentiso.System) -> None:
    facts = "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id /sys/class/net/eth0/address"
    with trio.fail_after(LIMIT_S):
        parent = await system.create("self")
        children = list(await parent.fork(CHILDREN))
        seen = [(await output(workspace, facts)).split() for workspace in (parent, *children)]
        for column in zip(*seen, strict=True):
            assert len(set(column)) == len(seen)
        infos = [await workspace.info() for workspace in (parent, *children)]
        assert len({info.evidence.epoch for info in infos if info.evidence}) == len(infos)
        assert [row[3] for row in seen] == [info.network.mac for info in infos]


async def test_a_restored_snapshot_keeps_the_identity_of_its_workspace(system: agentiso.System) -> None:
    facts = "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id"
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("same")
        before = await output(workspace, facts)
        await workspace.snapshot("point")
        await workspace.restore("point")
        assert await output(workspace, facts) == before


async def test_ssh_host_keys_are_not_shared_with_a_fork(system: agentiso.System) -> None:
    """The image has no SSH; a stand-in of the key generator shows when and how it is called."""
    generator = '#!/bin/sh\necho "$@" > /etc/ssh/ssh_host_ed25519_key\n'
    with trio.fail_after(LIMIT_S):
        parent = await system.create("keys")
        await parent.write_file("/usr/bin/ssh-keygen", generator, mode=0o755)
        await parent.write_file("/etc/ssh/ssh_host_rsa_key", "the parent's")
        child = (await parent.fork(1))[0]
        assert await output(child, "ls /etc/ssh | grep host") == "ssh_host_ed25519_key"
        assert await output(parent, "cat /etc/ssh/ssh_host_rsa_key") == "the parent's"


async def test_programs_of_the_after_restore_directory_run_before_the_processes_go_on(system: agentiso.System) -> None:
    hook = "#!/bin/sh\nwc -l < /dev/shm/tags > /dev/shm/at-hook; exit 3\n"
    with trio.fail_after(LIMIT_S):
        parent = await system.create("hooked")
        await parent.write_file("/etc/agentiso/after-restore.d/10-count", hook, mode=0o755)
        await output(parent, TICKER)
        child = (await parent.fork(1))[0]
        evidence = (await child.info()).evidence
        assert evidence
        assert evidence.hooks == (HookOutcome("10-count", 3),)
        tags = [(await output(workspace, "cat /dev/shm/tags")).split() for workspace in (parent, child)]
        shared = sum(1 for ours, theirs in zip(*tags, strict=False) if ours == theirs)
        assert int(await output(child, "cat /dev/shm/at-hook")) == shared


async def test_memory_and_disk_of_a_child_are_of_one_instant(system: agentiso.System) -> None:
    """A process writes the same number to memory and, through to the disk, to a file; never are they apart by two."""
    writer = """\
echo $$ > /dev/shm/writer
i=0
while :; do
    i=$((i+1))
    echo $i > /dev/shm/new; mv /dev/shm/new /dev/shm/number
    echo $i > /root/new; sync /root/new; mv /root/new /root/number
done
"""
    with trio.fail_after(LIMIT_S):
        parent = await system.create("writer")
        await parent.write_file("/root/writer.sh", writer)
        await output(parent, "sh /root/writer.sh > /dev/null 2>&1 & while [ ! -s /root/number ]; do sleep 0.1; done")
        for child in await parent.fork(CHILDREN):
            stopped = await output(child, "kill -STOP $(cat /dev/shm/writer); cat /dev/shm/number /root/number")
            memory, disk = (int(number) for number in stopped.split())
            assert 0 <= memory - disk <= 1


async def test_a_timeout_kills_descendants_that_made_sessions_of_their_own(system: agentiso.System) -> None:
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("killer")
        result = await workspace.exec("setsid sleep 4321 & sleep 4321", timeout_s=0.5)
        assert result.timed_out
        await output(workspace, "while pgrep -x sleep > /dev/null; do sleep 0.1; done")


async def test_ten_generations_keep_every_write_and_their_identities(system: agentiso.System) -> None:
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("gen-0", memory_mb=256, vcpus=1, network="none")
        for generation in range(1, 11):
            await output(workspace, f"echo {generation} | tee -a /root/log >> /dev/shm/log")
            child = (await workspace.fork(1, names=[f"gen-{generation}"]))[0]
            await workspace.destroy()
            workspace = child
        numbers = "".join(f"{number}\n" for number in range(1, 11)).strip()
        assert await output(workspace, "cat /root/log") == numbers
        assert await output(workspace, "cat /dev/shm/log") == numbers
        assert await output(workspace, "hostname") == "gen-10"
        info = await workspace.info()
        assert info.evidence
        assert info.evidence.generation == 11


async def test_a_damaged_memory_image_is_refused_before_it_is_used(system: agentiso.System) -> None:
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("damaged")
        root = system.settings.state_dir / "checkpoints"
        before = set(root.iterdir())
        await workspace.snapshot("point")
        (made,) = set(root.iterdir()) - before
        with (made / "ram").open("r+b") as file:
            file.seek(4096)
            file.write(b"not what was there")
        with pytest.raises(AgentisoError, match="altered"):
            await workspace.restore("point")
        assert await output(workspace, "echo alive") == "alive"
