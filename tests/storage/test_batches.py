"""What a batch makes durable: all of it or nothing, and everything a restart needs."""

import sqlite3
from pathlib import Path

import pytest

from jobguard_store.machine.commands import DeleteRange, GrantLease, Put, Range, RevokeLease, Txn
from jobguard_store.raft.messages import NOTHING, Entry, EntryId, EntryKind, HardState
from jobguard_store.storage import database, file, index
from jobguard_store.storage.batch import Batch
from jobguard_store.storage.damage import DiskFull
from jobguard_store.storage.database import Database, Identity, InitialMember
from jobguard_store.storage.tables import driver
from tests.storage.member import Member, normal


def test_a_new_file_knows_nothing_but_that_it_was_started(member: Member) -> None:
    loaded = member.loaded
    assert (loaded.identity, loaded.boot, loaded.hard_state) == (None, 1, HardState(term=0, voted_for=None))
    assert (loaded.entries, loaded.base, loaded.applied_index) == ([], NOTHING, 0)
    assert (loaded.machine.revision, loaded.machine.compact_revision) == (1, -1)


def test_every_start_is_counted_before_anything_else_happens(path: Path) -> None:
    boots = []
    for _ in range(3):
        member = Member(path)
        boots.append(member.loaded.boot)
        member.database.close()
    assert boots == [1, 2, 3]


def test_an_identity_of_64_bits_is_kept_for_good(path: Path) -> None:
    identity = Identity(
        cluster_id=2**64 - 1,
        member_id=2**63,
        name="märz",
        initial_members=(InitialMember(2**63, "märz", ("http://127.0.0.1:2380", "http://[::1]:2380")),),
    )
    database = Database.open(path)
    database.load()
    database.found(identity)
    with pytest.raises(AssertionError):
        database.found(identity)
    database.close()
    member = Member(path)
    assert member.loaded.identity == identity
    member.database.close()


def test_term_and_vote_survive_a_restart(member: Member) -> None:
    for state in (HardState(7, 2**64 - 2), HardState(8, None)):
        member.database.write(Batch(hard_state=state))
        member.restart()
        assert member.loaded.hard_state == state


def test_entries_come_back_as_they_were_appended(member: Member) -> None:
    entries = [
        Entry(1, 1, EntryKind.NOOP, b""),
        Entry(2, 1, EntryKind.NORMAL, normal(2, Put(b"k", b"\0\xff" * 70_000)).data),
        Entry(3, 4, EntryKind.CONFIG, b"members"),
    ]
    member.database.write(Batch(hard_state=HardState(4, None), entries=entries))
    member.restart()
    assert member.loaded.entries == entries
    assert [type(entry.kind) for entry in member.loaded.entries] == [EntryKind] * 3


def test_a_suffix_after_a_conflict_replaces_ours(member: Member) -> None:
    ours = [Entry(index, 1, EntryKind.NOOP, b"") for index in range(1, 6)]
    theirs = [Entry(3, 2, EntryKind.NOOP, b""), Entry(4, 2, EntryKind.NOOP, b"")]
    member.database.write(Batch(hard_state=HardState(2, None), entries=ours))
    member.database.write(Batch(entries=theirs))
    member.database.write(Batch(entries=[Entry(5, 2, EntryKind.NOOP, b"")]))
    member.restart()
    assert [(entry.index, entry.term) for entry in member.loaded.entries] == [
        (1, 1),
        (2, 1),
        (3, 2),
        (4, 2),
        (5, 2),
    ]


def test_batches_merge_into_what_they_would_have_written_one_by_one() -> None:
    def entry(index: int, term: int) -> Entry:
        return Entry(index, term, EntryKind.NOOP, b"")

    batch = Batch(hard_state=HardState(1, 1), entries=[entry(5, 1), entry(6, 1), entry(7, 1)], leases={1: 60})
    batch.apply(5)
    batch.merge(Batch(entries=[entry(6, 2)], hard_state=HardState(2, None), leases={1: 0, 2: 30}))
    assert [(at.index, at.term) for at in batch.entries] == [(5, 1), (6, 2)]
    assert (batch.hard_state, batch.leases, batch.applied_index) == (HardState(2, None), {1: 0, 2: 30}, 5)
    batch.merge(Batch(entries=[entry(3, 3)]))  # the whole of ours was in conflict, and more before it
    assert [(at.index, at.term) for at in batch.entries] == [(3, 3)]
    assert batch.last is not None
    assert batch.last.id == EntryId(term=3, index=3)


def test_an_empty_batch_says_so() -> None:
    assert not Batch()
    assert Batch(hard_state=HardState(1, None))
    assert Batch(applied_index=3)


def test_leases_come_go_and_come_again(member: Member) -> None:
    member.do(GrantLease(1, 60), GrantLease(2, 60), GrantLease(-3, 10))
    member.flush()
    member.do(RevokeLease(1), GrantLease(1, 30), RevokeLease(2), GrantLease(4, 5), RevokeLease(4))
    member.flush()
    member.restart()
    assert {lease: member.machine.lease_ttl(lease) for lease in member.machine.lease_ids()} == {1: 30, -3: 10}


def test_one_batch_is_one_commit_and_a_statement_per_table(member: Member) -> None:
    """However many rows there are: see storage.tables on what a statement costs."""
    traced: list[str] = []
    member.put("a", "b", "c")
    member.flush()
    member.do(GrantLease(1, 60), Txn(success=(Put(b"a", lease=1), DeleteRange(b"b"), Put(b"x"))))
    member.put(*(f"k{number}" for number in range(61)))
    driver(member.database._writer).set_trace_callback(traced.append)
    member.flush()
    statements = dict.fromkeys(traced)  # again, values and all, for each row whose trigger fires
    assert [statement.split(" (")[0].split(" SET")[0] for statement in statements] == [
        "BEGIN IMMEDIATE",
        "INSERT INTO log",
        "INSERT INTO history",
        "INSERT OR REPLACE INTO leases",
        "UPDATE meta",
        "COMMIT",
    ]


@pytest.mark.parametrize("table", ["log", "history", "versions", "live", "leases", "meta"])
def test_a_batch_that_fails_half_way_leaves_nothing(
    member: Member, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever table refuses: the file stays at the batch before, and this one can be written again."""
    monkeypatch.setattr(index, "ROUND_WEIGHT", 0)
    member.do(GrantLease(1, 60), Put(b"k", b"before"))
    member.flush()
    before = member.machine.fingerprint()
    member.do(Put(b"k", b"after"), GrantLease(2, 60))
    how = "UPDATE" if table == "meta" else "INSERT"
    member.writer_sql(
        f"CREATE TEMP TRIGGER refuse BEFORE {how} ON main.{table} BEGIN SELECT RAISE(ABORT, 'refused'); END"
    )
    with pytest.raises(Exception, match="refused"):
        member.flush()
    batch = member.batch
    member.restart()
    assert member.machine.fingerprint() == before
    assert [entry.index for entry in member.loaded.entries] == [1, 2]
    member.database.write(batch)
    member.restart()
    assert member.machine.range(Range(b"k")).kvs[0].value == b"after"
    assert member.machine.lease_ids() == [1, 2]


def test_a_full_disk_keeps_the_batch_for_another_try(member: Member) -> None:
    member.put("k")
    member.flush()
    pages = member.database._writer.exec_driver_sql("PRAGMA page_count").scalar_one()
    member.writer_sql(f"PRAGMA max_page_count = {pages}")
    member.do(Put(b"big", b"x" * 100_000))
    with pytest.raises(DiskFull):
        member.flush()
    with pytest.raises(DiskFull):
        member.flush()
    member.writer_sql("PRAGMA max_page_count = 100000")
    member.flush()
    fingerprint = member.machine.fingerprint()
    member.restart()
    assert member.machine.fingerprint() == fingerprint


def test_the_writer_syncs_every_commit_and_keeps_a_wal(member: Member) -> None:
    def pragma(name: str) -> object:
        return member.database._writer.exec_driver_sql(f"PRAGMA {name}").scalar()

    assert (pragma("journal_mode"), pragma("synchronous"), pragma("auto_vacuum")) == ("wal", 2, 2)


def test_the_wal_starts_over_again_and_again(member: Member) -> None:
    """SQLite's own checkpoints are off, because they hide a failed fsync of the database."""
    wal = Path(f"{member.path}-wal")
    for number in range(300):
        member.do(*(Put(b"%d %d" % (number, key), b"x" * 500) for key in range(20)))
        member.flush()
    assert member.database._wal.frames() < 1100
    assert wal.stat().st_size < 2000 * 4120


def test_a_wal_that_a_long_reader_made_long_gives_its_space_back(
    member: Member,
) -> None:
    """Nothing starts over while a state is cut. Afterwards the file must not stay as long as it was."""
    wal = Path(f"{member.path}-wal")
    with member.database._reading():
        for number in range(10):
            member.do(Put(b"%d" % number, b"x" * 1_000_000))
            member.flush()
        assert wal.stat().st_size > file.WAL_KEPT
    for _ in range(3):
        member.put("k")
        member.flush()
    assert wal.stat().st_size <= file.WAL_KEPT


def test_a_checkpoint_that_fails_is_an_error_but_not_of_the_batch(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader of an old page keeps nothing from being written; a full disk neither; a failed fsync does."""
    full, broken = (sqlite3.OperationalError("checkpoint") for _ in range(2))
    full.sqlite_errorcode, broken.sqlite_errorcode = sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_FSYNC

    class Driver:
        def execute(self, _statement: str) -> None:
            raise self.error

    broken_driver = Driver()
    with monkeypatch.context() as patched:
        patched.setattr("jobguard_store.storage.database._CHECKPOINT_FRAMES", 1)
        patched.setattr(database, "driver", lambda _writer: broken_driver)
        broken_driver.error = full
        member.put("a")
        member.flush()
        broken_driver.error = broken
        member.put("b")
        with pytest.raises(sqlite3.OperationalError):
            member.flush()
    member.restart()
    assert member.machine.revision == 3


def test_readers_cannot_write(member: Member) -> None:
    with member.database._reading() as tx, pytest.raises(Exception, match="readonly") as refused:
        tx.exec_driver_sql("DELETE FROM history")
    assert isinstance(refused.value.orig, sqlite3.OperationalError)


def test_a_batch_may_not_apply_what_the_log_does_not_hold(member: Member) -> None:
    with pytest.raises(AssertionError):
        member.database.write(Batch(applied_index=1))
