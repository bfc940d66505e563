"""A node with a million keys: how soon it serves, what memory it takes, whether another catches up with it.

    make scale                                            # about three minutes
    make scale ARGS="--revisions 10000000 --folder big"   # with a past; a folder is kept, and used again

The file is written by the node's own storage, batch by batch, without a node around it; everything else is
the program itself, in processes of its own. One node starts on the file, after it was killed. Then a second
joins it, and a third while others put `--rate` times a second, at moments fixed beforehand: a put's time
counts from when it was due, so one that had to wait for the puts before it is not excused.
"""

import argparse
import asyncio
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import uvloop

from jobguard_store.cluster import identity_from
from jobguard_store.config import NodeConfig
from jobguard_store.machine.results import ChangeEvent, Record
from jobguard_store.members import founders
from jobguard_store.raft.messages import Entry, EntryId, EntryKind, HardState, Snapshot
from jobguard_store.storage.batch import Batch
from jobguard_store.storage.database import Database
from tests.gateway import Gateway, b64
from tests.messages import HASHKV
from tests.ports import free_ports
from tests.stores import Cluster, Node, eventually, leader_of

START_S_MAX = 10.0
KIB_PER_KEY_MAX = 0.6
VALUE = b"v" * 64
BATCH_ROWS = 5000
CONNECTIONS = 16
PATIENCE_S = 600.0
CALM_S = 5.0
PUT_TIMEOUT_S = 10.0
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
# The past that was asked for stays, whatever a node would make of it.
KEEP_ALL = ("--auto-compaction-retention=0", "--auto-compaction-revisions=0", "--quota-backend-bytes=0")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--revisions", type=int, default=0, help="versions of these keys that are past")
    parser.add_argument("--rate", type=int, default=500, help="puts per second while a node catches up")
    parser.add_argument("--folder", type=Path, help="keep the file here: 200 bytes a version")
    parser.add_argument("--start-only", action="store_true", help="no other nodes")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or the nodes would outlive us
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jobguard-scale-")))
        kept = built(options.folder or temporary, options.keys, options.revisions)
        nodes = three_nodes(temporary, (kept / URL).read_text())
        stack.callback(Cluster("jobguard", nodes).stop)
        say("copying the file")
        shutil.copytree(kept, data_dir(nodes[0]))
        size = len(key(0)) + len(VALUE)
        print(f"{options.keys:,} keys of {size} bytes, {options.revisions:,} past versions\n")
        print("| | measured | to reach |\n|---|---|---|")
        held = start(nodes[0], options.keys)
        if not options.start_only:
            held &= catch_up(nodes, options.rate, options.keys)
    return 0 if held else 1


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def row(what: str, measured: str, goal: str = "", held: bool = True) -> bool:
    print(f"| {what} | {measured} | {goal}{'' if held else ' **missed**'} |", flush=True)
    return held


# --- the file -------------------------------------------------------------------------------------

URL = "peer-url"  # in the data directory: where its member is heard, which is part of who it is


def built(folder: Path, keys: int, revisions: int) -> Path:
    """A data directory of member s1, alone in its cluster; that of an earlier run, if there is one."""
    done = folder / f"{keys}-keys-{revisions}-past"
    if not done.exists():
        begun = done.with_suffix(".begun")
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(parents=True)
        url = f"http://127.0.0.1:{free_ports(1)[0]}"
        (begun / URL).write_text(url)
        write(
            NodeConfig.from_flags(
                name="s1", data_dir=begun, listen_peer_urls=url, initial_cluster=f"s1={url}"
            ),
            keys,
            keys + revisions,
        )
        begun.rename(done)
    return done


def write(config: NodeConfig, keys: int, total: int) -> None:
    """Each key in turn, and all of them again until there are enough versions."""
    database = Database.open(config.database_path)
    database.load()
    database.found(identity := identity_from(config))
    for index, first in enumerate(range(0, total, BATCH_ROWS), start=1):
        versions = [version(n, keys) for n in range(first, min(first + BATCH_ROWS, total))]
        database.write(
            Batch(
                hard_state=HardState(1, None),
                entries=[Entry(index, 1, EntryKind.NOOP, b"")],
                applied_index=index,
                revision=versions[-1].mod_revision,
                events=[ChangeEvent(record, None) for record in versions],
            )
        )
        if index % 100 == 0:
            say(f"built {index * BATCH_ROWS:,} of {total:,} versions")
    while database.index():
        pass
    # The log is forgotten: whoever joins needs the state.
    database.rebase(Snapshot(EntryId(term=1, index=index), founders(identity)))
    while database.trim():
        pass
    database.close()


def key(number: int) -> bytes:
    return b"/scale/%09d" % number


def version(number: int, keys: int) -> Record:
    turn, place = divmod(number, keys)
    return Record(key(place), VALUE, place + 2, number + 2, turn + 1, 0)


# --- nodes ----------------------------------------------------------------------------------------


def three_nodes(folder: Path, first_url: str) -> list[Node]:
    """s1 founded the cluster alone; the others are to join it."""
    clients = [f"http://127.0.0.1:{port}" for port in free_ports(3)]
    peers = [first_url, *(f"http://127.0.0.1:{port}" for port in free_ports(2))]
    names = ["s1", "s2", "s3"]
    nodes = []
    for number, (name, client, peer) in enumerate(zip(names, clients, peers, strict=True)):
        known = ",".join(f"{a}={b}" for a, b in zip(names[: number + 1], peers, strict=False))
        flags = {
            "name": name,
            "data-dir": str(folder / name),
            "listen-client-urls": client,
            "listen-peer-urls": peer,
            "initial-cluster": known,
            "initial-cluster-state": "existing" if number else "new",
        }
        command = [sys.executable, "-m", "jobguard_store", *KEEP_ALL]
        command += [f"--{flag}={value}" for flag, value in flags.items()]
        nodes.append(Node(name=name, url=client, command=command, log=folder / f"{name}.log"))
    return nodes


def flag(node: Node, name: str) -> str:
    return next(word.partition("=")[2] for word in node.command if word.startswith(f"--{name}="))


def data_dir(node: Node) -> Path:
    return Path(flag(node, "data-dir"))


def memory(node: Node, what: str) -> int:
    """In bytes, of its process: VmRSS is what it has now, VmHWM what it had at most."""
    assert node.process is not None
    lines = Path(f"/proc/{node.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{what}:"))


def cpu_s(node: Node) -> float:
    """Of its process so far: what a machine that has other work does not falsify."""
    assert node.process is not None
    words = Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def applied(node: Node) -> int:
    return int(node.status()["raftAppliedIndex"])


# --- one node starts ------------------------------------------------------------------------------


def start(node: Node, keys: int) -> bool:
    """It was killed, and the machine has forgotten its file."""
    node.start()
    node.wait_until_ready(PATIENCE_S)
    node.kill()
    for each in data_dir(node).iterdir():
        forget(each)
    begin = time.monotonic()
    node.start()
    node.wait_until_ready(PATIENCE_S)
    with node.gateway() as gateway:
        gateway.put("/scale/first", "v")
        found = gateway.ok("/v3/kv/range", {"key": b64(key(keys - 1))})
    took_s, worked_s = time.monotonic() - begin, cpu_s(node)
    assert found["kvs"][0]["value"] == b64(VALUE)
    held = row("restart after kill -9, s", f"{took_s:.1f}", f"{START_S_MAX:.0f}", took_s <= START_S_MAX)
    row("CPU time of that, s", f"{worked_s:.1f}")
    beyond = memory(node, "VmRSS") / keys - len(key(0)) - len(VALUE)
    goal = f"{KIB_PER_KEY_MAX} KiB"
    fits = beyond <= KIB_PER_KEY_MAX * 1024
    held &= row("memory of the process per key, beyond its bytes", f"{beyond / 1024:.2f} KiB", goal, fits)
    row("the most it took while it started, MiB", f"{memory(node, 'VmHWM') >> 20:,}")
    return held


def forget(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# --- others catch up ------------------------------------------------------------------------------


def catch_up(nodes: list[Node], rate: int, keys: int) -> bool:
    first, second, third = nodes
    row("a second node joins, nobody puts, s", f"{join(second, first):.1f}")
    leader = leader_of([first, second])
    term = leader.status()["raftTerm"]
    with Writers([first.url, second.url], rate, keys) as writers:
        time.sleep(CALM_S)
        before = writers.taken()
        say(f"a third node joins while {rate} puts/s go on")
        took_s = join(third, first)
        meanwhile, worked_s = writers.taken(), cpu_s(third)
    same = {node.name: node.status()["raftTerm"] for node in nodes} == dict.fromkeys(["s1", "s2", "s3"], term)
    row(f"a third node joins while {rate} puts/s go on, s", f"{took_s:.1f}")
    row("CPU time of the third for that, s", f"{worked_s:.1f}")
    row("puts before that, p50 / p99 / most, ms", before.spell())
    row("puts meanwhile, p50 / p99 / most, ms", meanwhile.spell())
    held = row("puts that failed", str(writers.failed), "0", not writers.failed)
    held &= row(
        "puts answered per second meanwhile", f"{meanwhile.rate:.0f}", str(rate), meanwhile.rate > 0.99 * rate
    )
    held &= row("changes of leader", "none" if same else "some", "none", same)
    held &= row("hash of all three", "equal" if (equal := agree(nodes)) else "different", "equal", equal)
    row(
        "memory of leader / newcomer, MiB",
        f"{memory(leader, 'VmRSS') >> 20:,} / {memory(third, 'VmRSS') >> 20:,}",
    )
    return held


def join(node: Node, via: Node) -> float:
    """Seconds from the start of its process until it votes and has applied what the other had by then."""
    with via.gateway() as gateway:
        gateway.ok("/v3/cluster/member/add", {"peerURLs": [flag(node, "listen-peer-urls")]})
    begin = time.monotonic()
    node.start()

    def votes() -> bool:
        with via.gateway() as gateway:
            members = gateway.ok("/v3/cluster/member/list", {"linearizable": True})["members"]
        return any(member.get("name") == node.name and not member.get("isLearner") for member in members)

    eventually(votes, PATIENCE_S, f"the vote of {node.name}")
    goal = applied(via)
    node.wait_until_ready(PATIENCE_S)
    eventually(lambda: applied(node) >= goal, PATIENCE_S, f"{node.name} to catch up")
    return time.monotonic() - begin


def agree(nodes: list[Node]) -> bool:
    eventually(lambda: len({applied(node) for node in nodes}) == 1, PATIENCE_S, "the nodes to be level")
    hashes = set()
    for node in nodes:
        say(f"hashing {node.name}")
        with Gateway(node.url, PATIENCE_S) as gateway:
            answer = gateway.ok(HASHKV)
        hashes.add((answer["hash"], answer.get("compact_revision")))
    return len(hashes) == 1


@dataclass(frozen=True)
class Taken:
    """Some time's puts: how long each took, in seconds, and how many were answered per second."""

    seconds: list[float]
    rate: float

    def spell(self) -> str:
        ordered = sorted(self.seconds)
        p50, p99 = (ordered[int(len(ordered) * part)] for part in (0.5, 0.99))
        return " / ".join(f"{1000 * each:.1f}" for each in (p50, p99, ordered[-1]))


class Writers:
    """Puts at fixed moments, on a loop in a thread of its own."""

    def __init__(self, urls: list[str], rate: int, keys: int) -> None:
        self.failed = 0
        self._urls = urls
        self._rate = rate
        self._keys = keys
        self._seconds: list[float] = []
        self._since = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writers")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def taken(self) -> Taken:
        """Since this was last asked."""
        seconds, self._seconds = self._seconds, []
        since, self._since = self._since, time.monotonic()
        return Taken(seconds, len(seconds) / (self._since - since))

    def _run(self) -> None:
        async def connections() -> None:
            begin = time.monotonic()
            due = (begin + number / self._rate for number in count())
            await asyncio.gather(*(self._puts(number, due) for number in range(CONNECTIONS)))

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(connections())

    async def _puts(self, number: int, due: Iterator[float]) -> None:
        """One connection: takes the next moment that is due, and is busy until its put is answered."""
        url = urlsplit(self._urls[number % len(self._urls)])
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        choice = random.Random(number)
        while not self._over.is_set():
            at = next(due)
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            body = b'{"key":"%s","value":"%s"}' % (
                b64encode(key(choice.randrange(self._keys))),
                b64encode(VALUE),
            )
            writer.write(
                b"POST /v3/kv/put HTTP/1.1\r\nHost: store\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            async with asyncio.timeout(PUT_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                length = LENGTH.search(head)
                assert length is not None, head
                await reader.readexactly(int(length[1]))
            self.failed += not head.startswith(b"HTTP/1.1 200 ")
            self._seconds.append(time.monotonic() - at)
        writer.transport.abort()


if __name__ == "__main__":
    sys.exit(main())
