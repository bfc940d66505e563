"""Who was in the cluster where the log begins, so that what came before may be forgotten.

Revision ID: 0004
Revises: 0003
"""

from zlib import crc32

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

META = (
    "cluster_id, member_id, name, initial_members, boot, term, voted_for, base_index, base_term,"
    " applied_index, revision, compact_revision, swept_revision, disk, expelled, indexed_revision"
)


def upgrade() -> None:
    op.add_column("meta", sa.Column("base_configuration", sa.Text))
    tx = op.get_bind()
    for *values, noted in tx.exec_driver_sql(f"SELECT {META}, checksum FROM meta").all():
        # One that does not fit is damage, and has to stay one.
        if crc32(msgspec.msgpack.encode(values)) == noted:
            longer = crc32(msgspec.msgpack.encode([*values, None]))
            tx.exec_driver_sql("UPDATE meta SET checksum = ?", (longer,))
