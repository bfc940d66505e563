"""What a start costs, and a key: counted, not timed."""

import gc
import sqlite3
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from jobguard_store.machine.apply import Machine
from jobguard_store.machine.commands import Compact, Origin, Put, decode, encode
from jobguard_store.raft import Configuration
from jobguard_store.raft.messages import EntryId, HardState, Snapshot
from jobguard_store.storage import file
from jobguard_store.storage.batch import Batch
from jobguard_store.storage.database import Database
from tests.storage.member import TERM, Member, normal

KIB_PER_KEY_MAX = 0.6
KEYS = 25_000
STEP = 50  # of SQLite's virtual machine


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many steps SQLite has done since this was last asked, on any connection."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += STEP
        return 0

    def counting(dbapi: sqlite3.Connection) -> sqlite3.Connection:
        dbapi.set_progress_handler(step, STEP)
        return own(dbapi)

    def since() -> int:
        nonlocal steps
        done, steps = steps, 0
        return done

    own = file._own_transactions
    monkeypatch.setattr(file, "_own_transactions", counting)
    return since


def grown(path: Path, turns: int) -> Path:
    """The file of 200 keys, each written so often; its log is forgotten, as that of a node at work."""
    member = Member(path)
    for _ in range(turns):
        member.put(*(f"key{number:03}" for number in range(200)))
        member.flush()
    member.index_all()
    member.database.rebase(Snapshot(EntryId(TERM, member.index), Configuration.of((1,))))
    while member.database.trim():
        pass
    member.database.close()
    return path


def test_a_start_reads_the_state_and_not_its_history(tmp_path: Path, work: Callable[[], int]) -> None:
    files = {turns: grown(tmp_path / f"{turns}.sqlite", turns) for turns in (1, 20)}
    steps = {}
    for turns, path in files.items():
        work()
        database = Database.open(path)
        assert len(database.load().machine.keys) == 200
        steps[turns] = work()
        database.close()
    assert steps[1] > 200, "it counts"
    assert steps[20] < 1.1 * steps[1]


def beyond(machine: Machine, taken: int) -> float:
    """KiB per key that its own bytes do not explain."""
    return (taken - sum(len(record.key) + len(record.value) for record in machine.keys)) / KEYS / 1024


def test_what_a_key_takes_in_memory(path: Path) -> None:
    """As a running node has them, and as a start loads them."""
    commands = [encode(Origin(1, 1, n), Put(b"/scale/%09d" % n, b"v" * 64)) for n in range(KEYS)]
    member = Member(path)
    tracemalloc.start()
    try:
        for command in commands:
            member.batch.apply(1, member.machine.apply(decode(command)[1], TERM).rows)
        written, member.batch = member.batch, Batch()
        member.database.write(
            replace(written, entries=[normal(1, Compact(1))], hard_state=HardState(TERM, 1))
        )
        del written
        member.index_all()
        gc.collect()
        assert beyond(member.machine, tracemalloc.get_traced_memory()[0]) < KIB_PER_KEY_MAX
        member.database.close()
        del member
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        with closing(Database.open(path)) as database:
            machine = database.load().machine
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(machine.keys) == KEYS
    assert beyond(machine, after - before) < KIB_PER_KEY_MAX
