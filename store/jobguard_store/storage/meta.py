"""The one row of `meta`: who this node is, how it voted, and how far its log and its state reach.

Place in the house   database -> meta -> tables
Takes                the transaction it works in
Gives                the row as it was written, or Damage
Never                commits
"""

from dataclasses import dataclass, fields, replace
from typing import Any
from zlib import crc32

import msgspec
from sqlalchemy import Connection, insert, select

from jobguard_store.raft.messages import Snapshot
from jobguard_store.storage import tables
from jobguard_store.storage.damage import Damage


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """Field by field the columns of the table, where ids are hexadecimal: SQLite's integers have a sign."""

    cluster_id: str | None
    member_id: str | None
    name: str | None
    initial_members: str | None
    boot: int
    term: int
    voted_for: str | None
    base_index: int
    base_term: int
    applied_index: int
    revision: int
    compact_revision: int
    swept_revision: int
    disk: int | None
    expelled: str | None
    indexed_revision: int
    base_configuration: str | None


_NAMES = tuple(field.name for field in fields(Meta))
_COLUMNS = tuple(tables.meta.c[name] for name in (*_NAMES, "checksum"))
_WRITE = f"UPDATE meta SET {', '.join(f'{column.name} = ?' for column in _COLUMNS)}"


def read(tx: Connection) -> Meta:
    """Raises Damage."""
    rows = tx.execute(select(*_COLUMNS)).all()
    if len(rows) != 1:
        raise Damage(f"its table meta has {len(rows)} rows, not one")
    *values, noted = rows[0]
    if checksum(values) != noted:
        raise Damage("its table meta is not what was written")
    return Meta(**dict(zip(_NAMES, values, strict=True)))


NEW = Meta(
    cluster_id=None,
    member_id=None,
    name=None,
    initial_members=None,
    boot=0,
    term=0,
    voted_for=None,
    base_index=0,
    base_term=0,
    applied_index=0,
    revision=1,
    compact_revision=-1,
    swept_revision=-1,
    disk=None,
    expelled=None,
    indexed_revision=1,
    base_configuration=None,
)
"""The row of a node that has never run."""

# What is about the state, and goes with it to another node. All else is the node's own, or what it promised.
_OF_THE_STATE = (
    "base_index",
    "base_term",
    "applied_index",
    "revision",
    "compact_revision",
    "swept_revision",
    "indexed_revision",
    "base_configuration",
)


def with_state_of(node: Meta, state: Meta) -> Meta:
    """`node`'s row, once it lives by the state that `state` is about."""
    return replace(node, **{name: getattr(state, name) for name in _OF_THE_STATE})


def anew(name: Snapshot, revision: int) -> dict[str, Any]:
    """The columns of a state that goes on, as `name`, at a revision beyond all that its cluster had."""
    return {
        "base_index": name.last.index,
        "base_term": name.last.term,
        "base_configuration": name.configuration.encode().decode(),
        "revision": revision,
        "compact_revision": revision,
        "indexed_revision": revision,
    }


def create(tx: Connection, row: Meta = NEW) -> None:
    values = [getattr(row, name) for name in _NAMES]
    named = dict(zip(_NAMES, values, strict=True))
    tx.execute(insert(tables.meta).values(id=1, **named, checksum=checksum(values)))


def write(tx: Connection, meta: Meta) -> None:
    """The whole row, by one statement."""
    values = [getattr(meta, name) for name in _NAMES]
    tables.driver(tx).execute(_WRITE, (*values, checksum(values)))


def checksum(values: list[Any]) -> int:
    """Over the whole row. A migration that adds a column writes it anew."""
    return crc32(msgspec.msgpack.encode(values))


def to_hex(number: int | None) -> str | None:
    return None if number is None else f"{number:x}"


def from_hex(text: str | None) -> int | None:
    return None if text is None else int(text, 16)
