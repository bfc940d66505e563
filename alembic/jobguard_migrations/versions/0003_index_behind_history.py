"""Find a key's versions by a table of their own, which follows history in slices, as `live` does.

Revision ID: 0003
Revises: 0002
"""

from zlib import crc32

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

META = (
    "cluster_id, member_id, name, initial_members, boot, term, voted_for, base_index, base_term,"
    " applied_index, revision, compact_revision, swept_revision, disk, expelled"
)
REVISION = 10  # among these


def upgrade() -> None:
    op.execute("DROP TRIGGER live_put")
    op.execute("DROP TRIGGER live_delete")
    op.drop_index("history_key", "history")
    op.create_table(
        "versions",
        sa.Column("key", sa.LargeBinary, primary_key=True),
        sa.Column("mod_revision", sa.Integer, primary_key=True),
        sa.Column("sub", sa.Integer, primary_key=True),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO versions SELECT key, mod_revision, sub FROM history ORDER BY key, mod_revision, sub"
    )
    # By triggers, so that no statement can forget: `live` holds the version that came last into `versions`,
    # where a key's own arrive in their order, and what leaves history leaves `versions`.
    op.execute(
        "CREATE TRIGGER live_follows AFTER INSERT ON versions BEGIN"
        " DELETE FROM live WHERE key = NEW.key;"
        " INSERT INTO live (key, value, create_revision, mod_revision, version, lease, sub, checksum)"
        " SELECT key, value, create_revision, mod_revision, version, lease, sub, checksum FROM history"
        " WHERE mod_revision = NEW.mod_revision AND sub = NEW.sub AND version > 0; END"
    )
    op.execute(
        "CREATE TRIGGER versions_follow AFTER DELETE ON history BEGIN"
        " DELETE FROM versions WHERE key = OLD.key AND mod_revision = OLD.mod_revision AND sub = OLD.sub; END"
    )
    op.add_column("meta", sa.Column("indexed_revision", sa.Integer, nullable=False, server_default="1"))
    op.execute("UPDATE meta SET indexed_revision = revision")
    tx = op.get_bind()
    for *values, noted in tx.exec_driver_sql(f"SELECT {META}, checksum FROM meta").all():
        # One that does not fit is damage, and has to stay one.
        if crc32(msgspec.msgpack.encode(values)) == noted:
            longer = crc32(msgspec.msgpack.encode([*values, values[REVISION]]))
            tx.exec_driver_sql("UPDATE meta SET checksum = ?", (longer,))
