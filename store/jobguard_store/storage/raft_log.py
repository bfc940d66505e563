"""The Raft log in its table.

Place in the house   database -> raft_log -> tables
Takes                the transaction it works in
Gives                entries as they were appended, or Damage
Never                commits; decides what belongs in the log
"""

from collections.abc import Sequence
from typing import Any
from zlib import crc32

from sqlalchemy import Connection, delete, func, select

from jobguard_store.raft.messages import Entry, EntryId, EntryKind
from jobguard_store.storage.damage import Damage, Newer
from jobguard_store.storage.tables import insert_rows, log


def append(tx: Connection, entries: Sequence[Entry], last_index: int) -> None:
    """Write `entries`, the suffix after the first conflict; our tail from there on gives way.

    `last_index` is that of our last durable entry: an append behind it, the usual case, deletes nothing.
    """
    first = entries[0].index
    if first <= last_index:
        tx.execute(delete(log).where(log.c.index >= first))
    values: list[Any] = []
    for entry in entries:
        values += (entry.index, entry.term, int(entry.kind), entry.data, checksum(entry))
    insert_rows(tx, log, values)


def load(tx: Connection, base: EntryId) -> list[Entry]:
    """The whole log after `base`. Raises Damage for what cannot be one, Newer.

    Rows up to `base` may still be there: `trim` removes them, and need not have come to its end.
    """
    entries: list[Entry] = []
    before = base
    rows = select(log).where(log.c.index > base.index).order_by(log.c.index)
    for index, term, kind, data, noted in tx.execute(rows):
        if index != before.index + 1:
            raise Damage(f"log entry {before.index + 1} is missing")
        entry = Entry(index, term, kind, data)
        if checksum(entry) != noted:
            raise Damage(f"log entry {index} is not what was written")
        if term < before.term:
            raise Damage(f"log entry {index} is of an earlier term than the one before it")
        entries.append(entry._replace(kind=_known(index, kind)))
        before = entry.id
    return entries


def trim(tx: Connection, base_index: int, rows: int) -> bool:
    """Remove up to `rows` of those up to `base_index`, oldest first; False when there are none."""
    first = tx.execute(select(func.min(log.c.index)).where(log.c.index <= base_index)).scalar()
    if first is None:
        return False
    tx.execute(delete(log).where(log.c.index <= min(base_index, first + rows - 1)))
    return True


def _known(index: int, kind: int) -> EntryKind:
    try:
        return EntryKind(kind)
    except ValueError:
        raise Newer(f"log entry {index} is of an unknown kind, {kind}") from None


def checksum(entry: Entry) -> int:
    """Over the whole entry, its place included."""
    return crc32(entry.data, crc32(b"%d %d %d" % (entry.index, entry.term, entry.kind)))
