"""The schema's history: applied whole or not at all, and the same schema that the code writes to."""

import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from importlib.resources import files
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from jobguard_store.errors import DatabaseDamaged
from jobguard_store.machine.commands import AlarmKind, Compact, DeleteRange, GrantLease, Put, RaiseAlarm
from jobguard_store.raft.configuration import Configuration
from jobguard_store.raft.messages import EntryId, Snapshot
from jobguard_store.storage import file, meta
from jobguard_store.storage.database import Database, Identity
from jobguard_store.storage.lives import Life
from jobguard_store.storage.snapshot import stage
from jobguard_store.storage.tables import metadata
from tests.storage.member import TERM, Member, sql

CREATES_A_TABLE_AND = '''
"""A later build's change."""
import os
import signal

import sqlalchemy as sa
from alembic import op

revision = "0042"
down_revision = "{head}"


def upgrade() -> None:
    op.create_table("later", sa.Column("id", sa.Integer, primary_key=True))
    op.add_column("leases", sa.Column("since", sa.Integer))
    {and_then}
'''

START = """
import sys
from pathlib import Path
from jobguard_store.storage import file
from jobguard_store.storage.database import Database

file.files = lambda _package: Path(sys.argv[2])
Database.open(Path(sys.argv[1]))
"""


HEAD = "0007"


def later_build(folder: Path, and_then: str) -> Path:
    """Our migrations and one more, which does `and_then` after its changes."""
    package = folder / "migrations"
    shutil.copytree(str(files("jobguard_migrations")), package, dirs_exist_ok=True)
    (package / "versions" / "0042_later.py").write_text(
        CREATES_A_TABLE_AND.format(head=HEAD, and_then=and_then)
    )
    return package


def test_the_migrations_make_the_tables_the_code_writes_to(member: Member) -> None:
    context = MigrationContext.configure(member.database._writer, opts={"compare_type": True})
    assert compare_metadata(context, metadata) == []


def test_a_process_killed_in_the_middle_of_a_migration_leaves_the_file_as_it_was(
    member: Member, tmp_path: Path
) -> None:
    member.put("k")
    member.flush()
    before = member.machine.fingerprint()
    member.database.close()

    package = later_build(tmp_path, and_then="os.kill(os.getpid(), signal.SIGKILL)")
    killed = subprocess.run([sys.executable, "-c", START, member.path, package], check=False, timeout=280)
    assert killed.returncode == -signal.SIGKILL
    assert sql(member.path, "SELECT version_num FROM alembic_version") == [(HEAD,)]
    assert sql(member.path, "SELECT name FROM sqlite_master WHERE name = 'later'") == []

    member.restart()  # this build goes on as if nothing had been tried
    assert member.machine.fingerprint() == before


def test_the_next_start_of_the_later_build_migrates(
    member: Member, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    member.put("k")
    member.flush()
    before = member.machine.fingerprint()
    monkeypatch.setattr(file, "files", lambda _package: later_build(tmp_path, and_then="1 / 0"))
    with pytest.raises(ZeroDivisionError):
        member.restart()
    monkeypatch.setattr(file, "files", lambda _package: later_build(tmp_path, and_then="pass"))
    member.database.close()
    member.restart()
    assert member.machine.fingerprint() == before
    assert member.database._writer.exec_driver_sql("SELECT count(*) FROM later").scalar() == 0


def test_the_very_first_migration_may_be_cut_off_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def power_cut(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("alembic.op.create_table", power_cut)
        with pytest.raises(KeyboardInterrupt):
            Member(path)
    assert sql(path, "SELECT name FROM sqlite_master") == []
    member = Member(path)
    assert member.loaded.boot == 1
    assert member.database._writer.exec_driver_sql("PRAGMA auto_vacuum").scalar() == 2
    member.database.close()


@pytest.fixture
def first_build(member: Member) -> Path:
    """The file of a node that ran before all later migrations, with the rows that it wrote."""
    member.put("k", "gone", "k")
    member.do(DeleteRange(b"gone"))
    member.flush()
    member.index_all()
    columns = [field.name for field in fields(member.database._meta)]
    columns = columns[: columns.index("swept_revision") + 1]
    checksum = meta.checksum([getattr(member.database._meta, name) for name in columns])
    member.database.close()

    old = member.path.with_name("old.sqlite")
    config = Config()
    config.set_main_option("script_location", str(files("jobguard_migrations")))
    with create_engine(f"sqlite:///{old}").begin() as tx:
        config.attributes["connection"] = tx
        command.upgrade(config, "0001")
    sql(
        old,
        f"ATTACH '{member.path}' AS newer",
        *(f"INSERT INTO {table} SELECT * FROM newer.{table}" for table in ("log", "history", "leases")),
        f"INSERT INTO meta (id, {', '.join(columns)}, checksum)"
        f" SELECT id, {', '.join(columns)}, {checksum} FROM newer.meta",
    )
    assert len(sql(old, "SELECT * FROM live")) == 1
    old.replace(member.path)
    return member.path


def test_a_file_of_the_first_build_is_taken_over_and_becomes_a_disk(
    first_build: Path, member: Member
) -> None:
    before = member.machine.fingerprint()
    member.restart()
    assert member.machine.fingerprint() == before
    disk = member.loaded.disk
    assert disk
    assert set(sql(first_build, "SELECT key, mod_revision FROM versions")) == {
        (b"k", 2),
        (b"gone", 3),
        (b"k", 4),
        (b"gone", 5),
    }
    assert (member.loaded.lives, member.loaded.expelled) == ({}, None)
    member.restart()
    assert member.loaded.disk == disk


def test_a_migration_does_not_make_damage_look_sound(first_build: Path) -> None:
    sql(first_build, "UPDATE meta SET term = term + 1")
    with pytest.raises(DatabaseDamaged, match="meta is not what was written"):
        Database.open(first_build)


# --- rows that filled no page ---------------------------------------------------------------------------


LATER = ("auth", "users", "roles")


def as_of_0005(path: Path) -> None:
    """Have the file be what the build before wrote, each row in its place."""
    tables = [name for (name,) in sql(path, "SELECT name FROM sqlite_master WHERE type = 'table'")]
    tables = [name for name in tables if name not in ("alembic_version", "live", "versions", *LATER)]
    old = path.with_name("old.sqlite")
    config = Config()
    config.set_main_option("script_location", str(files("jobguard_migrations")))
    sql(old, "PRAGMA auto_vacuum = INCREMENTAL", "CREATE TABLE first (id)", "DROP TABLE first")
    with create_engine(f"sqlite:///{old}").begin() as tx:
        config.attributes["connection"] = tx
        command.upgrade(config, "0005")
    # What goes into versions makes live, as it did in that build.
    sql(
        old,
        f"ATTACH '{path}' AS newer",
        *(f"INSERT INTO {name} SELECT * FROM newer.{name}" for name in (*tables, "versions")),
    )
    old.replace(path)


LONG = b"long" * 500


def lived(member: Member) -> dict[bytes, bytes]:
    """All that a file can hold: values of all lengths, a sweep half done, rows that no index knows yet."""
    values = {b"%d" % length: b"v" * length for length in (0, 1, 511, 512, 513, 999, 2000, 5000, 70_000)}
    member.database.found(Identity(7, 2, "m1", ()))
    member.database.remember(1, Life(disk=5, boot=1, nonce=8))
    member.do(GrantLease(5, 60), Put(b"leased", LONG, 5))
    for _ in range(300):
        member.put("often")
    member.do(*(Put(key, b"older") for key in values), *(Put(key, value) for key, value in values.items()))
    member.do(Put(b"gone", LONG), DeleteRange(b"gone"), Compact(member.machine.revision))
    member.flush()
    member.index_all()
    member.database.compact()
    member.do(Put(b"late", LONG), Put(b"often", b"late"), DeleteRange(b"leased"), Put(b"again", LONG, 5))
    member.do(RaiseAlarm(7, AlarmKind.NOSPACE))
    member.flush()
    assert member.database.indexed_revision < member.machine.revision
    return values


NODE = ("identity", "disk", "lives", "hard_state", "base", "entries", "applied_index")


def whole(member: Member) -> tuple[object, ...]:
    member.index_all()
    revisions = range(member.machine.compact_revision, member.machine.revision + 1)
    return (
        member.machine.fingerprint(),
        {record.key: record.value for record in member.machine.keys},
        [member.database.hash_kv(revision) for revision in revisions],
        member.database.changes(b"\0", b"\0", revisions[0], revisions[-1]),
        [getattr(member.loaded, name) for name in NODE],
        member.machine.alarms,
    )


def test_a_file_of_0005_keeps_all_that_it_holds_even_if_its_first_migration_is_cut_off(
    member: Member, tmp_path: Path
) -> None:
    values = lived(member)
    member.database.close()
    shutil.copy(member.path, tmp_path / "copy.sqlite")
    member.restart()
    before = whole(member)
    member.database.close()
    shutil.move(tmp_path / "copy.sqlite", member.path)
    as_of_0005(member.path)
    size = member.path.stat().st_size
    package = later_build(tmp_path, and_then="os.kill(os.getpid(), signal.SIGKILL)")
    killed = subprocess.run([sys.executable, "-c", START, member.path, package], check=False, timeout=280)
    assert killed.returncode == -signal.SIGKILL
    assert sql(member.path, "SELECT version_num FROM alembic_version") == [("0005",)]

    member.restart()
    assert whole(member) == before
    for key, value in values.items():
        (found,) = member.machine.keys.slice(key, b"")
        assert found.value == value
    member.sweep()
    while member.database.reclaim():
        pass
    assert member.database.sizes().total < size
    member.restart()
    assert member.machine.fingerprint() == before[0]


def test_a_backup_of_0005_is_taken_in(member: Member, tmp_path: Path) -> None:
    lived(member)
    backup = tmp_path / "backup.sqlite"
    cut = member.database.cut(backup)
    name = Snapshot(EntryId(TERM, cut.applied_index), Configuration.of((1, 2)))
    cut.copy(name)
    cut.close()
    as_of_0005(backup)
    staged = stage(backup, name)
    assert staged.machine.fingerprint() == member.machine.fingerprint()
    assert list(staged.machine.keys) == list(member.machine.keys)


def test_no_damage_is_carried_over_from_0005(member: Member) -> None:
    """What is copied row by row has sound pages: those it came from are looked at first."""
    lived(member)
    member.database.close()
    as_of_0005(member.path)
    sql(member.path, "DROP INDEX IF EXISTS other", "PRAGMA wal_checkpoint(TRUNCATE)")
    sound = member.path.read_bytes()
    (page,) = sql(member.path, "SELECT rootpage FROM sqlite_master WHERE name = 'versions'")[0]
    torn = bytearray(sound)
    torn[(page - 1) * 4096 + 5 : (page - 1) * 4096 + 7] = b"\0\0"  # where its cells begin
    member.path.write_bytes(torn)
    with pytest.raises(DatabaseDamaged):
        Database.open(member.path)
    assert sql(member.path, "SELECT version_num FROM alembic_version") == [("0005",)]


def test_rows_fill_their_pages(member: Member) -> None:
    """Of a thousand bytes each takes little more than that, once: not a page, and not two."""
    value = b"v" * 1000
    member.do(*(Put(b"/rows/%04d" % number, value) for number in range(1000)))
    member.flush()
    member.index_all()
    member.database.rebase(Snapshot(EntryId(TERM, member.index), Configuration.of((1,))))
    while member.database.trim():
        pass
    assert member.database.sizes().in_use < 1.6 * 1000 * len(value)
    assert sql(member.path, "SELECT sum(length(value)) FROM live") == [(None,)]


def test_a_folder_with_a_percent_sign_and_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alembic reads its settings through ConfigParser, which interpolates; readers open the file by URI."""
    odd = tmp_path / "100% of #1?"
    odd.mkdir()
    package = later_build(odd, and_then="pass")
    monkeypatch.setattr(file, "files", lambda _package: package)
    member = Member(odd / "node.sqlite")
    member.put("k")
    member.flush()
    assert member.database.sizes().total > 0
    member.database.close()
