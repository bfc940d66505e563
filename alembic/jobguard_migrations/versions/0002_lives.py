"""Whom a node has met, and on which disk each of them ran; which disk it runs on itself.

Revision ID: 0002
Revises: 0001
"""

from zlib import crc32

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

META = (
    "cluster_id, member_id, name, initial_members, boot, term, voted_for, base_index, base_term,"
    " applied_index, revision, compact_revision, swept_revision"
)


def upgrade() -> None:
    op.create_table(
        "lives",
        sa.Column("member_id", sa.Text, primary_key=True),
        sa.Column("disk", sa.Integer, nullable=False),
        sa.Column("boot", sa.Integer, nullable=False),
        sa.Column("nonce", sa.Integer, nullable=False),
        sa.Column("checksum", sa.Integer, nullable=False),
    )
    op.add_column("meta", sa.Column("disk", sa.Integer))
    op.add_column("meta", sa.Column("expelled", sa.Text))
    tx = op.get_bind()
    for *values, noted in tx.exec_driver_sql(f"SELECT {META}, checksum FROM meta").all():
        # One that does not fit is damage, and has to stay one.
        if crc32(msgspec.msgpack.encode(values)) == noted:
            longer = crc32(msgspec.msgpack.encode([*values, None, None]))
            tx.exec_driver_sql("UPDATE meta SET checksum = ?", (longer,))
