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
from jobguard_store.machine.commands import DeleteRange
from jobguard_store.storage import file, meta
from jobguard_store.storage.database import Database
from jobguard_store.storage.tables import metadata
from tests.storage.member import Member, sql

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
    killed = subprocess.run([sys.executable, "-c", START, member.path, package], check=False, timeout=60)
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
