"""A file other than what was written: one sentence for its operator, and no start with less than it held."""

import random
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from jobguard_store.errors import (
    DatabaseDamaged,
    DatabaseInUse,
    DatabaseNewer,
    DatabaseUnusable,
    StartupError,
)
from jobguard_store.machine.commands import Compact, DeleteRange, GrantLease, Put, Range
from jobguard_store.machine.results import HistoricRange
from jobguard_store.raft.messages import Entry, EntryKind, HardState
from jobguard_store.storage.batch import Batch
from jobguard_store.storage.database import Database, Identity, Loaded
from tests.storage.member import Member, sql


@pytest.fixture(scope="module")
def _written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "node.sqlite"
    member = Member(path)
    member.database.found(Identity(cluster_id=1, member_id=2, name="m1", initial_members=()))
    member.do(GrantLease(7, 60), Put(b"leased", b"v", lease=7))
    member.put(*(f"key{number % 20}" for number in range(100)))
    member.do(Put(b"big", random.Random(1).randbytes(20_000)), DeleteRange(b"key3"))
    member.flush()
    member.do(Compact(30))
    member.flush()
    member.sweep()
    member.put("late")  # what the next start finds in history alone
    member.flush()
    member.database.close()
    return path


@pytest.fixture
def written(_written: Path, path: Path) -> Path:
    """The file of a member that has lived a little and was stopped."""
    shutil.copytree(_written.parent, path.parent)
    return path


def start(path: Path) -> Loaded:
    """What a node does, the look at all the rest behind its start included."""
    database = Database.open(path)
    try:
        loaded = database.load()
        with closing(database.inspection()) as inspection:
            inspection.walk()
        return loaded
    finally:
        database.close()


def refusal(path: Path, kind: type[StartupError] = DatabaseDamaged) -> str:
    """The sentence with which a start is refused: one line, the file's name, what to do."""
    with pytest.raises(kind) as refused:
        start(path)
    sentence = str(refused.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    if kind is DatabaseDamaged:
        assert "member remove" in sentence
    return sentence


# --- the file as a whole ------------------------------------------------------------------------------


def test_an_empty_file(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.touch()
    assert "it is empty" in refusal(path)


def test_a_file_of_something_else(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"name,age\n" * 1000)
    assert "not a SQLite database" in refusal(path)


def test_the_database_of_another_program_is_left_as_it_was(path: Path) -> None:
    path.parent.mkdir(parents=True)
    sql(path, "CREATE TABLE log (message TEXT)")
    before = path.read_bytes()
    assert "another program" in refusal(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.5, 0.9])
def test_a_truncated_file(written: Path, kept: float) -> None:
    content = written.read_bytes()
    written.write_bytes(content[: int(len(content) * kept)])
    refusal(written)


def test_a_file_that_went_missing_beside_its_wal(member: Member, tmp_path: Path) -> None:
    """SQLite would start a new file and throw the log away, with every commit since the last checkpoint."""
    member.put("k")
    member.flush()
    copy = tmp_path / "copy.sqlite"
    shutil.copy(f"{member.path}-wal", f"{copy}-wal")
    assert "is gone" in refusal(copy)
    assert not copy.exists()


def test_every_page_of_garbage_is_noticed(written: Path) -> None:
    content = written.read_bytes()
    garbage = random.Random(7)
    for page in range(len(content) // 4096):
        written.write_bytes(content[: page * 4096] + garbage.randbytes(4096) + content[(page + 1) * 4096 :])
        refusal(written)


def test_a_long_value_that_lives_is_read_and_noticed_at_the_start(written: Path) -> None:
    """It stands in history alone, which a start does not walk."""
    sql(written, "UPDATE history SET value = substr(value, 2) WHERE key = CAST('big' AS BLOB)")
    with closing(Database.open(written)) as database, pytest.raises(DatabaseDamaged, match="of key b'big'"):
        database.load()


def test_a_flipped_bit_is_noticed_or_changes_nothing(written: Path) -> None:
    """Some bits do not matter (free space, history that no start reads). None makes another node of this."""
    content = written.read_bytes()
    sound = start(written)
    choice = random.Random(8)
    for _ in range(150):
        flipped = bytearray(content)
        flipped[choice.randrange(len(content))] ^= 1 << choice.randrange(8)
        written.write_bytes(flipped)
        for name in ("-wal", "-shm"):
            Path(f"{written}{name}").unlink(missing_ok=True)
        try:
            found = start(written)
        except StartupError:
            continue
        assert found.machine.fingerprint() == sound.machine.fingerprint()
        for name in ("identity", "hard_state", "entries", "applied_index"):
            assert getattr(found, name) == getattr(sound, name)


# --- the write-ahead log --------------------------------------------------------------------------------


@pytest.fixture
def crashed(member: Member, tmp_path: Path) -> Path:
    """The files of a member that was killed: five commits are in its WAL and nowhere else."""
    for term in range(1, 6):
        member.database.write(Batch(hard_state=HardState(term, 1), entries=[noop(term)]))
    copy = tmp_path / "crashed.sqlite"
    shutil.copy(member.path, copy)
    shutil.copy(f"{member.path}-wal", f"{copy}-wal")
    return copy


def noop(index: int) -> Entry:
    return Entry(index, index, EntryKind.NOOP, b"")


def commits(wal: Path) -> list[int]:
    """Where the frames that end a commit begin."""
    content = wal.read_bytes()
    starts = range(32, len(content), 24 + 4096)
    return [start for start in starts if content[start + 4 : start + 8] != bytes(4)]


def damage(wal: Path, offset: int) -> None:
    content = bytearray(wal.read_bytes())
    content[offset] ^= 0xFF
    wal.write_bytes(content)


def test_a_crash_loses_nothing_that_was_committed(crashed: Path) -> None:
    assert start(crashed).hard_state == HardState(5, 1)


def test_a_commit_cut_off_by_the_crash_is_forgotten(crashed: Path) -> None:
    """Nobody was answered: the fsync had not returned."""
    wal = Path(f"{crashed}-wal")
    wal.write_bytes(wal.read_bytes()[: commits(wal)[-1] + 1000])
    assert start(crashed).hard_state == HardState(4, 1)


def test_the_last_commit_torn_is_forgotten(crashed: Path) -> None:
    wal = Path(f"{crashed}-wal")
    damage(wal, commits(wal)[-1] + 1000)
    assert start(crashed).hard_state == HardState(4, 1)


@pytest.mark.parametrize("commit", [-2, -3, -5])
def test_a_rotten_frame_before_acknowledged_commits_is_noticed(crashed: Path, commit: int) -> None:
    """SQLite alone would go on without them, and this node would vote again in a term it has voted in."""
    wal = Path(f"{crashed}-wal")
    damage(wal, commits(wal)[commit] + 1000)
    assert "commits behind" in refusal(crashed)


def test_a_rotten_wal_header_is_noticed(crashed: Path) -> None:
    damage(Path(f"{crashed}-wal"), 17)
    assert "header" in refusal(crashed)


# --- rows that no batch can have written ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ('DELETE FROM log WHERE "index" = 40', "log entry 40 is missing"),
        ('DELETE FROM log WHERE "index" = 1', "log entry 1 is missing"),
        ('DELETE FROM log WHERE "index" > 90', "the log ends at 90"),
        ("DELETE FROM log", "the log ends at 0"),
        ("UPDATE log SET data = x'00' WHERE \"index\" = 5", "log entry 5 is not what was written"),
        ('UPDATE log SET term = 2 WHERE "index" = 5', "log entry 5 is not what was written"),
        ("UPDATE live SET value = x'00' WHERE key = x'626967'", "is not what was written"),
        ("UPDATE live SET lease = 8 WHERE lease = 7", "is not what was written"),
        ("DELETE FROM history WHERE key = x'6c617465'", "history lacks a revision between"),
        (
            "UPDATE history SET value = x'00' WHERE key = x'6c617465'",
            "of key b'late' is not what was written",
        ),
        ("DELETE FROM leases", "lease 7 has keys but no row"),
        ("UPDATE leases SET ttl = 1", "lease 7 is not what was written"),
        ("DELETE FROM meta", "meta has 0 rows"),
        ("UPDATE meta SET term = 9", "meta is not what was written"),
        ("UPDATE meta SET voted_for = '3'", "meta is not what was written"),
        ("DROP TABLE live", "no such table"),
        ("DELETE FROM alembic_version", "which schema"),
    ],
)
def test_rows_that_do_not_add_up(written: Path, statement: str, reason: str) -> None:
    sql(written, statement)
    assert reason in refusal(written)


def test_the_tables_gone(written: Path) -> None:
    tables = ["log", "history", "versions", "live", "leases", "alarms", "meta", "lives", "alembic_version"]
    tables += ["auth", "users", "roles"]
    sql(written, *(f"DROP TABLE {table}" for table in tables))
    assert "tables are gone" in refusal(written)


def test_a_rotten_version_in_history_is_not_handed_out(written: Path) -> None:
    sql(written, "UPDATE history SET value = x'00' WHERE mod_revision = 50")
    member = Member(written)
    try:
        with pytest.raises(DatabaseDamaged, match="revision 50 of key"):
            member.database.changes(b"\0", b"\0", 40, 60)
    finally:
        member.database.close()


@pytest.mark.parametrize("harm", ["UPDATE history SET value = x'00'", "DELETE FROM history"])
@pytest.mark.parametrize("range_end", [b"", b"l"])
def test_what_cannot_be_read_is_not_as_if_it_were_not_there(
    written: Path, harm: str, range_end: bytes
) -> None:
    """The index names a row that is rotten or gone: no answer, for one key as for many."""
    sql(written, "DROP TRIGGER versions_follow", f"{harm} WHERE mod_revision = 50")
    [(key,)] = sql(written, "SELECT key FROM versions WHERE mod_revision = 50")
    with closing(Database.open(written)) as database:
        database.load()
        with pytest.raises(DatabaseDamaged, match="is not what was written"):
            database.range_at(HistoricRange(60, Range(key, range_end, revision=50), 50), ())


# --- newer, in use, unusable --------------------------------------------------------------------------------


def test_the_schema_of_a_newer_build(written: Path) -> None:
    sql(written, "UPDATE alembic_version SET version_num = '0042'")
    assert "schema 0042" in refusal(written, DatabaseNewer)


def test_a_command_of_a_newer_build_that_is_still_to_be_applied(member: Member) -> None:
    newer = Entry(1, 1, EntryKind.NORMAL, b"\x02something")
    member.database.write(Batch(hard_state=HardState(1, None), entries=[newer]))
    member.database.close()
    assert "log entry 1 holds an unknown command" in refusal(member.path, DatabaseNewer)
    member.database = Database.open(member.path)


def test_two_nodes_on_one_file(member: Member) -> None:
    assert "in use" in refusal(member.path, DatabaseInUse)
    member.put("k")
    member.flush()  # and the first one does not care


def test_a_refused_start_leaves_the_file_free_for_the_next(written: Path) -> None:
    [(schema,)] = sql(written, "SELECT version_num FROM alembic_version")
    sql(written, "UPDATE alembic_version SET version_num = '0042'")
    refusal(written, DatabaseNewer)
    sql(written, f"UPDATE alembic_version SET version_num = '{schema}'")
    assert start(written).applied_index == 106


def test_a_folder_where_the_file_should_be(path: Path) -> None:
    path.mkdir(parents=True)
    refusal(path, DatabaseUnusable)
