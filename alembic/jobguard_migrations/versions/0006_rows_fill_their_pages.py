"""Lay rows out so that a page holds as many as fit, and keep a long value once.

Revision ID: 0006
Revises: 0005

A table without rowids keeps at most a quarter of a page of each row; the rest takes whole pages of its own.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SHORT = 512  # bytes: values up to here stand in `live` as well


def upgrade() -> None:
    op.execute("DROP TRIGGER live_follows")
    op.execute("DROP TRIGGER versions_follow")
    for table in ("history", "live"):
        op.rename_table(table, f"old_{table}")
    op.create_table(
        "history",
        sa.Column("mod_revision", sa.Integer, primary_key=True),
        sa.Column("sub", sa.Integer, primary_key=True),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.Column("create_revision", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("lease", sa.Integer, nullable=False),
        sa.Column("checksum", sa.Integer, nullable=False),
    )
    op.create_table(
        "live",
        sa.Column("key", sa.LargeBinary, primary_key=True),
        sa.Column("value", sa.LargeBinary),
        sa.Column("create_revision", sa.Integer, nullable=False),
        sa.Column("mod_revision", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("lease", sa.Integer, nullable=False),
        sa.Column("sub", sa.Integer, nullable=False),
        sa.Column("checksum", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO history (mod_revision, sub, key, value, create_revision, version, lease, checksum)"
        " SELECT mod_revision, sub, key, value, create_revision, version, lease, checksum"
        " FROM old_history ORDER BY mod_revision, sub"
    )
    op.execute(
        "INSERT INTO live (key, value, create_revision, mod_revision, version, lease, sub, checksum)"
        f" SELECT key, CASE WHEN length(value) <= {SHORT} THEN value END,"
        " create_revision, mod_revision, version, lease, sub, checksum FROM old_live ORDER BY key"
    )
    for table in ("history", "live"):
        op.drop_table(f"old_{table}")
    # As in 0003, but for the length.
    op.execute(
        "CREATE TRIGGER live_follows AFTER INSERT ON versions BEGIN"
        " DELETE FROM live WHERE key = NEW.key;"
        " INSERT INTO live (key, value, create_revision, mod_revision, version, lease, sub, checksum)"
        f" SELECT key, CASE WHEN length(value) <= {SHORT} THEN value END,"
        " create_revision, mod_revision, version, lease, sub, checksum FROM history"
        " WHERE mod_revision = NEW.mod_revision AND sub = NEW.sub AND version > 0; END"
    )
    op.execute(
        "CREATE TRIGGER versions_follow AFTER DELETE ON history BEGIN"
        " DELETE FROM versions WHERE key = OLD.key AND mod_revision = OLD.mod_revision AND sub = OLD.sub; END"
    )
