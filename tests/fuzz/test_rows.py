"""A node's file, and the states it is sent, with anything in any place: one sentence, or no difference."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jobguard_store.errors import StartupError
from jobguard_store.machine.commands import (
    Access,
    AddRole,
    AddUser,
    AlarmKind,
    Compact,
    DeleteRange,
    GrantLease,
    GrantPermission,
    GrantRole,
    Put,
    RaiseAlarm,
    Range,
)
from jobguard_store.machine.results import HistoricRange
from jobguard_store.raft.configuration import Configuration
from jobguard_store.raft.messages import EntryId, Snapshot
from jobguard_store.storage import file
from jobguard_store.storage.damage import DiskFull
from jobguard_store.storage.database import Database, Identity, InitialMember
from jobguard_store.storage.lives import Life
from jobguard_store.storage.snapshot import Unfit, stage
from jobguard_store.storage.tables import metadata
from tests.fuzz.garbage import damaged, fuzzed
from tests.storage.member import TERM, Member, sql

REVISIONS = range(12, 33)
COLUMNS = [(table.name, column.name) for table in metadata.sorted_tables for column in table.columns]
# Nothing vouches for the places of rows: for `versions`, by which the past is read, and for where a change
# stands in history, by which it is told. See decision 0022.
PLACES = [
    (table.name, column.name)
    for table in metadata.sorted_tables
    if table.name in ("history", "versions")
    for column in table.primary_key
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows")


@pytest.fixture(scope="module")
def written(folder: Path) -> Path:
    """The file of a member that has lived a little: no table is empty."""
    member = Member(folder / "written.sqlite")
    founder = InitialMember(2, "m1", ("http://127.0.0.1:1",))
    member.database.found(Identity(cluster_id=1, member_id=2, name="m1", initial_members=(founder,)))
    member.database.remember(3, Life(disk=5, boot=1, nonce=8))
    member.do(GrantLease(7, 60), Put(b"leased", b"v", lease=7))
    member.put(*(f"key{number % 5}" for number in range(25)))
    member.do(DeleteRange(b"key3"), RaiseAlarm(2, AlarmKind.CORRUPT, by_hand=True))
    member.do(AddUser("u", b"hash"), AddRole("r"), GrantRole("u", "r"))
    member.do(GrantPermission("r", Access.WRITE, b"key"))
    member.flush()
    member.index_all()
    member.do(Compact(REVISIONS[0]))
    member.put("late", "later", "latest", "last")
    member.flush()
    member.database.close()
    return member.path


class Found:
    """What a start finds, and all that can be read of the past."""

    def __init__(self, path: Path) -> None:
        database = Database.open(path)
        try:
            self.loaded = database.load()
            newest, everything = self.loaded.machine.revision, Range(b"\0", b"\0")
            self.past: list[Any] = [
                database.range_at(HistoricRange(newest, everything, at)) for at in (*REVISIONS, newest)
            ]
            self.changes = database.changes(b"\0", b"\0", REVISIONS[0], newest)
        finally:
            database.close()


def renewed(folder: Path, content: bytes) -> Path:
    path = folder / "node.sqlite"
    file.remove(path)
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def sound(folder: Path, written: Path) -> "Found":
    return Found(renewed(folder, written.read_bytes()))


def is_one_sentence(refusal: str, path: Path) -> None:
    assert str(path) in refusal
    assert "\n" not in refusal


def is_refused_or_the_same(path: Path, sound: "Found", *, past: bool, changes: bool) -> None:
    try:
        found = Found(path)
    except StartupError as refusal:
        is_one_sentence(str(refusal), path)
        return
    assert found.loaded.machine.fingerprint() == sound.loaded.machine.fingerprint()
    for name in ("identity", "hard_state", "base", "entries", "applied_index", "configuration", "lives"):
        assert getattr(found.loaded, name) == getattr(sound.loaded, name), name
    assert found.past == sound.past or not past
    assert found.changes == sound.changes or not changes


odd = st.one_of(
    st.sampled_from(
        [0, 1, -1, 2, 2**62, 2**63 - 1, -(2**63), 1e300, "", "2", "x", "nan", b"", b"\0", b"key1"]
    ),
    st.integers(-100, 100),
    st.text(max_size=4),
    st.binary(max_size=4),
)


@given(st.sampled_from(COLUMNS), st.integers(0, 30), odd)
@fuzzed(150)
def test_any_value_in_any_column(
    folder: Path, written: Path, sound: Found, column: tuple[str, str], row: int, value: Any
) -> None:
    path = renewed(folder, written.read_bytes())
    table, name = column
    with closing(sqlite3.connect(path)) as connection:
        keys = [each[1] for each in connection.execute(f'PRAGMA table_info("{table}")') if each[5]]
        place = ", ".join(f'"{key}"' for key in keys)
        (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        chosen = f"({place}) = (SELECT {place} FROM {table} ORDER BY 1 LIMIT 1 OFFSET {row % rows})"
        try:
            connection.execute(f'UPDATE {table} SET "{name}" = ? WHERE {chosen}', (value,))
            connection.commit()
        except (sqlite3.IntegrityError, sqlite3.OperationalError):
            assume(False)
    in_place = column not in PLACES
    is_refused_or_the_same(path, sound, past=in_place or table != "versions", changes=in_place)


@given(data=st.data())
@fuzzed(60)
def test_any_bytes_of_the_file(folder: Path, written: Path, sound: Found, data: st.DataObject) -> None:
    path = renewed(folder, data.draw(damaged(st.just(written.read_bytes()))))
    is_refused_or_the_same(path, sound, past=False, changes=False)


# --- a state that a peer sends --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sent(folder: Path, written: Path) -> "Sent":
    member = Member(renewed(folder, written.read_bytes()))
    name = Snapshot(EntryId(TERM, member.index), Configuration.of((1, 2)))
    cut = member.database.cut(member.database.leaving_path)
    cut.copy(name)
    cut.close()
    content = member.database.leaving_path.read_bytes()
    member.database.close()
    return Sent(content, name, member.machine.fingerprint())


class Sent:
    def __init__(self, content: bytes, name: Snapshot, fingerprint: str) -> None:
        self.content, self.name, self.fingerprint = content, name, fingerprint

    def is_unfit_or_the_same(self, path: Path) -> None:
        try:
            staged = stage(path, self.name)
        except (Unfit, DiskFull):
            return
        assert staged.machine.fingerprint() == self.fingerprint


@given(data=st.data())
@fuzzed(60)
def test_any_bytes_of_a_state(folder: Path, sent: Sent, data: st.DataObject) -> None:
    sent.is_unfit_or_the_same(renewed(folder, data.draw(damaged(st.just(sent.content)))))


@given(st.sampled_from(COLUMNS), odd)
@fuzzed(60)
def test_any_value_in_any_column_of_a_state(folder: Path, sent: Sent, column: Any, value: Any) -> None:
    path = renewed(folder, sent.content)
    table, field = column
    try:
        sql(path, f'UPDATE {table} SET "{field}" = {literal(value)}')
    except (sqlite3.IntegrityError, sqlite3.OperationalError):
        assume(False)
    sent.is_unfit_or_the_same(path)


def literal(value: Any) -> str:
    match value:
        case bytes():
            return f"x'{value.hex()}'"
        case str():
            return f"CAST(x'{value.encode().hex()}' AS TEXT)"
    return repr(value)
