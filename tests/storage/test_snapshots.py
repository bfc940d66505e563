"""A state that is cut from one member's file and takes the place of another's, whenever that one crashes."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobguard_store.machine.commands import AlarmKind, Command, Compact, GrantLease, Put, RaiseAlarm, Range
from jobguard_store.machine.results import HistoricRange
from jobguard_store.raft.configuration import Configuration
from jobguard_store.raft.messages import EntryId, HardState, Snapshot
from jobguard_store.storage import lives, meta
from jobguard_store.storage.damage import DiskFull
from jobguard_store.storage.database import Identity
from jobguard_store.storage.lives import Life
from jobguard_store.storage.snapshot import Staged, Unfit, stage
from tests.machine.commands import histories
from tests.storage.member import TERM, Member, member_on_a_new_file, sql

FOUNDERS = Configuration.of((1, 2, 3))


def name_of(index: int) -> Snapshot:
    return Snapshot(EntryId(TERM, index), FOUNDERS)


def cut(member: Member, target: Path) -> Snapshot:
    """As a sender does it; the file then goes where a receiver would have put it."""
    begun = member.database.cut(member.database.leaving_path)
    name = name_of(begun.applied_index)
    begun.copy(name)
    begun.close()
    target.parent.mkdir(exist_ok=True)
    member.database.leaving_path.rename(target)
    return name


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Member]:
    """A member that lags behind."""
    member = Member(tmp_path / "m2.jobguard" / "node.sqlite")
    member.database.found(Identity(7, 2, "m2", ()))
    member.database.remember(1, Life(disk=5, boot=1, nonce=8))
    member.put("old", "older")
    member.flush()
    yield member
    member.database.close()


def transfer(member: Member, other: Member) -> Staged:
    name = cut(member, other.database.arriving_path)
    return stage(other.database.arriving_path, name)


def test_alarms_go_along(member: Member, other: Member) -> None:
    member.do(RaiseAlarm(2, AlarmKind.NOSPACE), RaiseAlarm(3, AlarmKind.CORRUPT, by_hand=True))
    member.flush()
    staged = transfer(member, other)
    assert staged.machine.alarms == member.machine.alarms
    other.database.adopt(staged, HardState(9, 2))
    other.restart()
    assert other.machine.fingerprint() == member.machine.fingerprint()


def test_the_other_becomes_the_same_and_stays_itself(member: Member, other: Member) -> None:
    member.do(GrantLease(5, 60), Put(b"leased", b"x", 5))
    member.put("a", "b", "a")
    member.do(Compact(3))
    member.flush()
    disk, boot = other.loaded.disk, other.loaded.boot
    staged = transfer(member, other)
    assert staged.machine.fingerprint() == member.machine.fingerprint()
    other.database.adopt(staged, HardState(9, 2))
    member.index_all()
    assert other.database.hash_kv(5) == member.database.hash_kv(5)

    other.restart()
    loaded = other.loaded
    assert other.machine.fingerprint() == member.machine.fingerprint()
    assert (loaded.identity, loaded.disk, loaded.boot) == (Identity(7, 2, "m2", ()), disk, boot + 1)
    assert (loaded.hard_state, loaded.lives) == (HardState(9, 2), {1: Life(5, 1, 8)})
    assert (loaded.base, loaded.configuration) == (staged.name.last, FOUNDERS)
    assert (loaded.entries, loaded.applied_index) == ([], staged.name.last.index)
    assert sorted(each.name for each in other.path.parent.iterdir()) == [
        "node.1.sqlite",
        "node.1.sqlite-shm",
        "node.1.sqlite-wal",
        "node.sqlite.lock",
    ]
    other.put("later")
    other.flush()
    other.restart()
    assert other.machine.revision == member.machine.revision + 1


@settings(max_examples=25, deadline=None)
@given(histories, st.data())
def test_any_state_arrives(history: list[Command], data: st.DataObject) -> None:
    with member_on_a_new_file() as member, member_on_a_new_file() as other:
        for command in history:
            member.do(command)
            match data.draw(st.integers(0, 4), label="flush, index, sweep or go on"):
                case 0:
                    member.flush()
                case 1:
                    member.flush()
                    member.database.index()
                case 2:
                    member.flush()
                    member.sweep()
        member.flush()
        other.database.adopt(transfer(member, other), HardState(TERM))
        other.restart()
        assert other.machine.fingerprint() == member.machine.fingerprint()
        member.index_all()
        revision = member.machine.revision
        if revision >= member.machine.compact_revision:
            assert other.database.hash_kv(revision) == member.database.hash_kv(revision)


def test_nothing_of_the_senders_own_goes_along(member: Member, tmp_path: Path) -> None:
    member.database.found(Identity(7, 1, "the sender's own name", ()))
    member.database.remember(2, Life(disk=5, boot=1, nonce=8))
    member.put("k")
    member.flush()
    name = cut(member, tmp_path / "cut.sqlite")
    assert b"sender" not in (tmp_path / "cut.sqlite").read_bytes()
    assert sql(tmp_path / "cut.sqlite", "SELECT count(*) FROM log") == [(0,)]
    assert sql(tmp_path / "cut.sqlite", "SELECT count(*) FROM lives") == [(0,)]
    own = "SELECT term, voted_for, boot, disk FROM meta"
    assert sql(tmp_path / "cut.sqlite", own) == [(0, None, 0, None)]
    assert stage(tmp_path / "cut.sqlite", name).machine.fingerprint() == member.machine.fingerprint()


def test_it_is_the_state_of_one_moment_while_writes_go_on(member: Member, tmp_path: Path) -> None:
    member.put(*(f"k{number}" for number in range(300)))
    member.flush()
    then = member.machine.fingerprint()
    begun = member.database.cut(member.database.leaving_path)
    member.put("later")
    member.flush()
    begun.copy(name_of(begun.applied_index))
    begun.close()
    assert begun.applied_index == 300
    assert stage(member.database.leaving_path, name_of(300)).machine.fingerprint() == then


def test_a_cut_can_be_interrupted(member: Member) -> None:
    member.put("k")
    member.flush()
    begun = member.database.cut(member.database.leaving_path)
    begun.interrupt()
    begun.close()
    member.put("later")
    member.flush()


def test_readers_go_on_over_the_switch(member: Member, other: Member) -> None:
    """One that has begun to read the old generation ends there; the next one reads the new."""
    member.put("old", "older", "a")
    member.flush()
    asked = HistoricRange(2, Range(b"old"), 2)
    staged = transfer(member, other)
    with other.database._reading() as tx:
        other.database.adopt(staged, None)
        assert tx.exec_driver_sql("SELECT count(*) FROM history").scalar() == 2
    assert [kv.key for kv in other.database.range_at(asked).kvs] == [b"old"]
    stop = threading.Event()
    errors: list[BaseException] = []

    def read() -> None:
        while not stop.is_set():
            try:
                assert [kv.key for kv in other.database.range_at(asked).kvs] == [b"old"]
            except BaseException as error:  # noqa: BLE001 - it fails the test, in the other thread
                errors.append(error)
                return

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(10):
        member.put(f"k{number}")
        member.flush()
        other.database.adopt(transfer(member, other), None)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert errors == []
    assert not list(other.path.parent.glob("node.[0-9].sqlite*")), "only the eleventh generation is there"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("UPDATE live SET value = x'00'", "is not what was written"),
        ("UPDATE history SET value = x'00'", "is not what was written"),
        ("UPDATE meta SET revision = revision + 1", "meta is not what was written"),
        ("INSERT INTO log VALUES (1, 1, 0, x'', 0)", "it has a log of its own"),
        ("UPDATE alembic_version SET version_num = '9999'", "schema 9999"),
        ("DROP TABLE live", "no such table: live"),
    ],
)
def test_what_is_not_whole_is_not_lived_by(member: Member, other: Member, harm: str, said: str) -> None:
    member.put("a", "b")
    member.flush()
    member.index_all()
    name = cut(member, other.database.arriving_path)
    sql(other.database.arriving_path, harm)
    with pytest.raises(Unfit, match=said):
        stage(other.database.arriving_path, name)


def test_neither_is_garbage_or_another_state(member: Member, other: Member) -> None:
    member.put("a", "b")
    member.flush()
    arriving = other.database.arriving_path
    name = cut(member, arriving)
    with pytest.raises(Unfit, match="not the state that it was said to be"):
        stage(arriving, name_of(name.last.index + 1))
    with pytest.raises(Unfit, match="not the state that it was said to be"):
        stage(arriving, Snapshot(name.last, Configuration.of((1, 2))))
    whole = arriving.read_bytes()
    for garbage in (b"", b"x" * 5000, whole[: len(whole) // 2]):
        arriving.write_bytes(garbage)
        with pytest.raises(Unfit):
            stage(arriving, name)


ADOPT = """
import itertools, os, shutil, signal, sys
from pathlib import Path
from jobguard_store.raft.configuration import Configuration
from jobguard_store.raft.messages import EntryId, HardState, Snapshot
from jobguard_store.storage import file, snapshot
from jobguard_store.storage.database import Database

# Copies of `folder` in `crashed`, each after a crash one step later than the one before; the last after
# none. A step is a line of one of these functions.
folder, arrived, crashed = map(Path, sys.argv[1:4])
name = Snapshot(EntryId(3, int(sys.argv[4])), Configuration.of((1, 2, 3)))
functions = Database.adopt, Database._use, snapshot.make_ones_own, file.remove
watched = {function.__code__ for function in functions}

def adopt(path, fatal):
    database = Database.open(path)
    database.load()
    shutil.copy(arrived, database.arriving_path)
    staged = snapshot.stage(database.arriving_path, name)
    steps = itertools.count(1)

    def step(frame, event, argument):
        if frame.f_code not in watched:
            return None
        if event == "line" and next(steps) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return step

    sys.settrace(step)
    database.adopt(staged, HardState(9, 2))
    os._exit(0)

for fatal in itertools.count(1):
    shutil.copytree(folder, crashed / f"{fatal:03}")
    child = os.fork() or adopt(crashed / f"{fatal:03}" / "node.sqlite", fatal)
    if os.waitpid(child, 0)[1] != signal.SIGKILL:
        break
"""


def test_a_crash_at_any_step_leaves_the_old_state_or_the_new(
    member: Member, other: Member, tmp_path: Path
) -> None:
    member.put(*(f"k{number}" for number in range(50)))
    member.flush()
    arrived = tmp_path / "cut.sqlite"
    name = cut(member, arrived)
    before, after = other.machine.fingerprint(), member.machine.fingerprint()
    other.database.close()
    crashed = tmp_path / "crashed"
    told = [str(each) for each in (other.path.parent, arrived, crashed, name.last.index)]
    subprocess.run([sys.executable, "-c", ADOPT, *told], timeout=280, check=True)

    outcomes = []
    for folder in sorted(crashed.iterdir()):
        found = Member(folder / "node.sqlite")
        loaded = found.loaded
        outcomes.append(found.machine.fingerprint())
        assert (loaded.identity, loaded.lives) == (Identity(7, 2, "m2", ()), {1: Life(5, 1, 8)})
        if outcomes[-1] == after:
            assert (loaded.hard_state, loaded.base, loaded.applied_index) == (HardState(9, 2), name.last, 50)
        else:
            assert (outcomes[-1], loaded.hard_state.term, loaded.applied_index) == (before, TERM, 2)
        names = {each.name.removesuffix("-wal").removesuffix("-shm") for each in folder.iterdir()}
        assert len(names) == 2, "one generation and the lock"
        found.put("goes on")
        found.flush()
        found.database.close()
    assert len(outcomes) > 20
    assert outcomes == sorted(outcomes, key=lambda outcome: outcome == after), "once new it stays"
    assert (outcomes[0], outcomes[-1]) == (before, after)


def test_a_full_disk_where_it_is_cut_or_adopted(
    member: Member, other: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    member.put("a", "b", "c")
    member.flush()
    staged = transfer(member, other)

    def full(*_: object) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(lives, "remember", full)
        with pytest.raises(DiskFull):
            other.database.adopt(staged, None)
    with monkeypatch.context() as patched:
        patched.setattr(meta, "create", full)
        with pytest.raises(DiskFull):
            cut(member, member.path.with_name("cut.sqlite"))
    before = other.machine.fingerprint()
    other.database.adopt(staged, None)
    other.restart()
    assert other.machine.fingerprint() == member.machine.fingerprint() != before
