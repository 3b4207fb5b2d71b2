"""What goes wrong when machines are forked, and does not here; docs/fork-correctness.md has one row for each."""

from __future__ import annotations

import json
import shutil
import struct
import time
from pathlib import Path

import pytest
import trio

import agentiso
from actors.model.errors import AgentisoError, NotFound, RestoreUnproven
from actors.model.info import HookOutcome
from tests.disks import flatten

pytestmark = pytest.mark.functional
LIMIT_S = 600
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
            assert evidence.clock_error_ms <= 50
            # What the command itself took is not the clock's error.
            assert began - 0.05 <= guest <= time.time() + 0.05


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
        await workspace.snapshots.create("asleep")
        await output(workspace, "while [ ! -e /dev/shm/slept ]; do sleep 0.1; done")
        await workspace.snapshots.restore("asleep")
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
        await workspace.snapshots.create("point")
        await workspace.snapshots.restore("point")
        assert await output(workspace, facts) == before


async def test_ssh_host_keys_are_not_shared_with_a_fork(system: agentiso.System) -> None:
    """The image has no SSH; a stand-in of the key generator shows when and how it is called."""
    generator = '#!/bin/sh\necho "$@" > /etc/ssh/ssh_host_ed25519_key\n'
    server = """
        (trap 'echo told >> /dev/shm/told' HUP; while :; do sleep 0.05; done) > /dev/null 2>&1 & echo $! > /run/sshd.pid
    """
    with trio.fail_after(LIMIT_S):
        parent = await system.create("keys")
        await parent.files.write("/usr/bin/ssh-keygen", generator, mode=0o755)
        await parent.files.write("/etc/ssh/ssh_host_rsa_key", "the parent's")
        await output(parent, server)
        child = (await parent.fork(1))[0]
        assert await output(child, "ls /etc/ssh | grep host") == "ssh_host_ed25519_key"
        await output(child, "while [ ! -e /dev/shm/told ]; do sleep 0.05; done")
        assert (await parent.exec("cat /dev/shm/told")).exit_code == 1
        assert await output(parent, "cat /etc/ssh/ssh_host_rsa_key") == "the parent's"


async def test_programs_of_the_after_restore_directory_run_before_the_processes_go_on(system: agentiso.System) -> None:
    hook = "#!/bin/sh\nwc -l < /dev/shm/tags > /dev/shm/at-hook; exit 3\n"
    with trio.fail_after(LIMIT_S):
        parent = await system.create("hooked")
        await parent.files.write("/etc/agentiso/after-restore.d/10-count", hook, mode=0o755)
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
        await parent.files.write("/root/writer.sh", writer)
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
        written, epochs = "head -c 65536 /dev/urandom | tee -a /root/bytes >> /dev/shm/bytes", set()
        files = "/etc/hostname /etc/machine-id /proc/sys/kernel/random/boot_id /run/agentiso/generation"
        for generation in range(1, 11):
            await output(workspace, f"echo {generation} | tee -a /root/log >> /dev/shm/log; {written}")
            digests = await output(workspace, "sha256sum < /root/bytes; sha256sum < /dev/shm/bytes")
            child = (await workspace.fork(1, names=[f"gen-{generation}"]))[0]
            await workspace.destroy()
            workspace = child
            assert await output(workspace, "sha256sum < /root/bytes; sha256sum < /dev/shm/bytes") == digests
            evidence = (await workspace.info()).evidence
            assert evidence
            name, machine_id = f"gen-{generation}", workspace.id.replace("-", "")
            seen = (await output(workspace, f"hostname; cat {files}")).split()
            assert seen == [name, name, machine_id, evidence.epoch, evidence.epoch]
            epochs.add(evidence.epoch)
        assert len(epochs) == 10
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
        await workspace.snapshots.create("point")
        (made,) = set(root.iterdir()) - before
        with (made / "ram").open("r+b") as file:
            file.seek(4096)
            file.write(b"not what was there")
        with pytest.raises(AgentisoError, match="altered"):
            await workspace.snapshots.restore("point")
        assert await output(workspace, "echo alive") == "alive"


async def test_a_checkpoint_whose_memory_is_not_the_expected_one_gives_no_machine(system: agentiso.System) -> None:
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("doubted")
        root = system.settings.state_dir / "checkpoints"
        before = set(root.iterdir())
        await workspace.snapshots.create("point")
        (made,) = set(root.iterdir()) - before
        record = made / "checkpoint.json"
        while not (facts := json.loads(record.read_text()))["digest"]:
            await trio.sleep(0.01)
        record.write_text(json.dumps({**facts, "nonce": "00" * 16}))
        with pytest.raises(RestoreUnproven, match="does not hold the checkpoint's nonce"):
            await workspace.snapshots.restore("point")
        assert len(list(system.settings.state_dir.glob("workspaces/*/machines/*"))) == 1
        assert await output(workspace, "echo alive") == "alive"


async def test_ten_pauses_lose_no_write_of_memory_or_disk(system: agentiso.System) -> None:
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("paused-often", memory_mb=256, vcpus=1)
        await output(workspace, "for d in /root /dev/shm; do head -c 3000000 /dev/urandom > $d/data; done")
        sums = "sha256sum /root/data /dev/shm/data"
        expected = await output(workspace, sums)
        for number in range(10):
            await workspace.suspend()
            await workspace.resume()
            await output(workspace, f"echo {number} >> /root/log")
        assert await output(workspace, f"echo 3 > /proc/sys/vm/drop_caches; {sums}") == expected
        assert await output(workspace, "cat /root/log") == "\n".join(str(number) for number in range(10))


DATABASE = """\
import os, sqlite3
seen = os.open("/dev/shm/committed", os.O_RDWR | os.O_CREAT)
db = sqlite3.connect("/root/load.db", isolation_level=None, timeout=60)
db.execute("pragma journal_mode=wal")
db.execute("pragma synchronous=full")
db.execute("create table if not exists pairs (a integer, b integer)")
number = 0
while True:
    number += 1
    db.execute("begin immediate")
    db.execute("insert into pairs values (?, ?)", (number, 0))
    db.execute("update pairs set b = ? where a = ?", (-number, number))
    db.execute("commit")
    os.pwrite(seen, b"%020d" % number, 0)
"""
EXAMINE = """\
import sqlite3
db = sqlite3.connect("/root/load.db", timeout=60)
whole = db.execute("pragma integrity_check").fetchone()[0]
rows, last, torn = db.execute("select count(*), max(a), sum(a + b != 0) from pairs").fetchone()
print(whole, rows, last, torn, int(open("/dev/shm/committed").read()))
"""


async def examine(workspace: agentiso.Workspace, committed: int) -> None:
    """Hold a database against what its writer had committed at the fork, without its writer."""
    shown = await output(workspace, "kill -9 $(cat /dev/shm/writer) 2> /dev/null; python3 /root/examine.py")
    whole, rows, last, torn, seen = shown.split()
    assert (whole, torn) == ("ok", "0")
    assert rows == last
    assert int(last) >= int(seen) >= committed


@pytest.mark.parametrize("memory", [True, False], ids=["with memory", "disk alone"])
async def test_a_database_under_load_is_whole_in_a_hundred_forks(system: agentiso.System, memory: bool) -> None:
    """With its memory a child goes on in the middle of a transaction; from the disk alone it has what was synced."""
    rounds, width = (20, 5) if memory else (1, 2)
    start = "python3 /root/load.py > /dev/null 2>&1 & echo $! > /dev/shm/writer; "
    with trio.fail_after(2 * LIMIT_S):
        parent = await system.create("database", memory_mb=192, vcpus=1, network="none")
        await parent.files.write("/root/load.py", DATABASE)
        await parent.files.write("/root/examine.py", EXAMINE)
        await output(parent, start + "while [ ! -s /dev/shm/committed ]; do sleep 0.1; done")
        for number in range(rounds):
            committed = int(await output(parent, "cat /dev/shm/committed"))
            if not memory:
                await parent.snapshots.create(f"disk-{number}", include_memory=False)
                for child in await parent.fork(width, snapshot=f"disk-{number}"):
                    await output(child, f"printf %020d {committed} > /dev/shm/committed; echo > /dev/shm/writer")
                    await examine(child, committed)
                    await child.destroy()
                continue
            fork = await parent.fork(width)
            assert [child.error for child in fork.report.children] == [None] * width
            async with trio.open_nursery() as nursery:
                for child in fork:
                    nursery.start_soon(examine, child, committed)
            for child in fork:
                await child.destroy()


PEER = """\
import socket, time
link = socket.create_connection(("10.0.2.2", {port}), timeout=60)
link.sendall(b"hello\\n")
open("/dev/shm/connected", "w").write("yes")
try:
    said = link.recv(100).decode()
except OSError as error:
    said = type(error).__name__
open("/dev/shm/new", "w").write(said)
import os; os.rename("/dev/shm/new", "/dev/shm/outcome")
"""


async def test_a_connection_of_the_parent_is_dead_in_the_child_and_alive_in_the_parent(system: agentiso.System) -> None:
    outcome = "while [ ! -e /dev/shm/outcome ]; do sleep 0.1; done; cat /dev/shm/outcome"
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    with trio.fail_after(LIMIT_S):
        parent = await system.create("connected", allow_internet=True)
        await parent.files.write("/root/peer.py", PEER.format(port=port))
        await output(parent, "python3 /root/peer.py > /dev/null 2>&1 &")
        stream = await listener.accept()
        assert await stream.receive_some(100) == b"hello\n"
        await output(parent, "while [ ! -e /dev/shm/connected ]; do sleep 0.1; done")
        child = (await parent.fork(1))[0]
        evidence = (await child.info()).evidence
        assert evidence
        assert evidence.connections_closed == 1
        assert await output(child, outcome) == "ConnectionAbortedError"
        await stream.send_all(b"still here")
        assert await output(parent, outcome) == "still here"
        await stream.aclose()
        await listener.aclose()


async def test_no_frame_of_a_child_bears_the_parents_address(images_dir: Path, state_dir: Path) -> None:
    """A QEMU that writes down every frame of its guest shows what left it from the first instruction on."""
    wrapper, dumps = state_dir / "qemu", state_dir / "dumps"
    dumps.mkdir()
    real = shutil.which("qemu-system-x86_64")
    wrapper.write_text(
        '#!/bin/sh\ncase "$*" in *netdev*) set -- "$@" -object '
        f'filter-dump,id=dump,netdev=net0,file={dumps}/$$.pcap ;; esac\nexec {real} "$@"\n'
    )
    wrapper.chmod(0o755)
    settings = agentiso.Settings(state_dir=state_dir, images_dir=images_dir, qemu_binary=str(wrapper))
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(settings) as system:
            parent = await system.create("noisy", allow_internet=True)
            children = list(await parent.fork(CHILDREN))
            for workspace in (parent, *children):
                await workspace.exec("python3 -c 'import socket; socket.create_connection((\"10.0.2.2\", 9), 5)'")
            macs = [str((await workspace.info()).network.mac) for workspace in (parent, *children)]
            assert len(set(macs)) == len(macs)
            senders = [senders_in(path) for path in dumps.iterdir()]
    spoken = [one for one in senders if one]
    assert all(len(one) == 1 for one in spoken)
    assert set(macs) <= set().union(*spoken)


def senders_in(capture: Path) -> set[str]:
    """Return the source addresses of the guest's frames in a capture (pcap: a 24-byte header, then records)."""
    data, position, found = capture.read_bytes(), 24, set()
    while position + 16 <= len(data):
        (length,) = struct.unpack_from("<I", data, position + 8)
        source = data[position + 16 + 6 : position + 16 + 12]
        # The gateway, slirp itself, answers from 52:55:0a:...
        if not source.startswith(b"\x52\x55"):
            found.add(source.hex(":"))
        position += 16 + length
    return found


async def test_machines_share_no_page_of_memory_when_that_is_switched_off(images_dir: Path, state_dir: Path) -> None:
    shape = agentiso.Shape(vcpus=1, memory_mb=256, disk_gb=1)
    settings = agentiso.Settings(
        state_dir=state_dir, images_dir=images_dir, shape=shape, network="none", memory_sharing="off"
    )
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(settings) as system:
            parent = await system.create("alone")
            await output(parent, "echo kept > /dev/shm/f")
            child = (await parent.fork(1))[0]
            assert await output(child, "cat /dev/shm/f") == "kept"
            images = list(state_dir.glob("workspaces/*/machines/*/ram"))
            assert len(images) == len({path.stat().st_ino for path in images}) == 2
            for process in Path("/proc").glob("[0-9]*/maps"):
                mapped = maps_of(process)
                assert not any(f"{state_dir}/checkpoints" in line for line in mapped)
                assert sum(f"{state_dir}/workspaces" in line and line.endswith("/ram") for line in mapped) <= 1


def maps_of(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


MANY = 50


async def test_fifty_children_of_one_fork_each_are_themselves_and_all_are_the_parent(system: agentiso.System) -> None:
    facts = "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id /sys/class/net/eth0/address /root/kept"
    draw = "od -An -N16 -tx1 /dev/urandom | tr -d ' '"
    with trio.fail_after(3 * LIMIT_S):
        parent = await system.create("many", memory_mb=192, vcpus=1)
        await output(parent, "echo kept > /root/kept; echo kept > /dev/shm/kept")
        fork = await parent.fork(MANY)
        assert [child.error for child in fork.report.children] == [None] * MANY
        seen: list[list[str]] = []

        async def look(workspace: agentiso.Workspace) -> None:
            shown = (await output(workspace, f"{facts}; cat /dev/shm/kept; {draw}")).split()
            assert shown[4:6] == ["kept", "kept"]
            seen.append([*shown[:4], shown[6]])

        async with trio.open_nursery() as nursery:
            for workspace in (parent, *fork):
                nursery.start_soon(look, workspace)
        assert len(seen) == MANY + 1
        for column in zip(*seen, strict=True):
            assert len(set(column)) == MANY + 1
        async with trio.open_nursery() as nursery:
            for child in fork:
                nursery.start_soon(child.destroy)


DIRTY = """\
import os
i = 0
while True:
    i = (i + 1) % 20
    with open(f"/root/dirty-{i}", "wb") as file:
        file.write(bytes([i]) * 1000000)
    with open("/dev/shm/rounds", "a") as file:
        file.write("x")
"""


async def test_a_child_forked_under_dirty_page_cache_has_a_disk_that_fsck_finds_clean(
    system: agentiso.System, tmp_path: Path
) -> None:
    with trio.fail_after(LIMIT_S):
        parent = await system.create("dirty", memory_mb=256, vcpus=1, network="none")
        await parent.files.write("/root/dirty.py", DIRTY)
        await output(
            parent, "python3 /root/dirty.py > /dev/null 2>&1 & while [ ! -s /dev/shm/rounds ]; do sleep 0.1; done"
        )
        children = list(await parent.fork(2))
        for child in children:
            info = await child.stop()
            flat = tmp_path / "disk.raw"
            await trio.to_thread.run_sync(flatten, layer_of(system, info.workspace_id), flat)
            # The journal first, as a mount would; what that cannot mend is an error.
            for options, good in (("-p", (0, 1)), ("-fn", (0,))):
                checked = await trio.run_process(
                    ["/usr/bin/env", "PATH=/usr/sbin:/sbin:/usr/bin:/bin", "e2fsck", options, str(flat)],
                    capture_stdout=True, capture_stderr=True, check=False,
                )  # fmt: skip
                assert checked.returncode in good, checked.stdout.decode()
            flat.unlink()


def layer_of(system: agentiso.System, workspace_id: str) -> Path:
    """Return the active disk layer of a workspace."""
    record = json.loads((system.settings.state_dir / "workspaces" / workspace_id[:8] / "record.json").read_text())
    return system.settings.state_dir / "layers" / f"{record['layer']}.qcow2"


async def test_a_deletion_that_races_with_a_restore_leaves_the_workspace_whole(system: agentiso.System) -> None:
    with trio.fail_after(LIMIT_S):
        workspace = await system.create("raced", memory_mb=256, vcpus=1, network="none")
        for number in range(3):
            await output(workspace, f"echo {number} > /root/number")
            await workspace.snapshots.create("raced")
            await output(workspace, "echo later > /root/number")
            outcomes: list[str] = []

            async def restore(outcomes: list[str] = outcomes) -> None:
                try:
                    await workspace.snapshots.restore("raced")
                    outcomes.append("restored")
                except NotFound:
                    outcomes.append("gone")

            async def delete() -> None:
                await workspace.snapshots.delete("raced")

            async with trio.open_nursery() as nursery:
                for action in (restore, delete) if number % 2 else (delete, restore):
                    nursery.start_soon(action)
            expected = str(number) if outcomes == ["restored"] else "later"
            assert await output(workspace, "cat /root/number") == expected
            assert await workspace.snapshots.list() == ()


async def test_identity_files_hold_nothing_of_what_the_parent_wrote_into_them(system: agentiso.System) -> None:
    files = "/etc/hostname /etc/machine-id /run/agentiso/generation"
    with trio.fail_after(LIMIT_S):
        parent = await system.create("writer")
        await output(
            parent, f"for f in {files}; do echo a.much.longer.line.than.there.was.before.of.the.parents > $f; done"
        )
        (child,) = await parent.fork(1, names=["c"])
        evidence = (await child.info()).evidence
        assert evidence
        assert (await output(child, f"cat {files}")).split() == ["c", child.id.replace("-", ""), evidence.epoch]


async def test_a_root_that_the_guest_made_read_only_comes_back_as_it_was(system: agentiso.System) -> None:
    with trio.fail_after(LIMIT_S):
        parent = await system.create("reader")
        await output(parent, "mount -o remount,ro /")
        (child,) = await parent.fork(1)
        assert (await child.exec("touch /root/x")).exit_code == 1
