"""A hash of all that can be read up to a revision: equal on members that agree on it.

Place in the house   database -> hashkv -> state (rows)
Takes                a way to begin a short read transaction
Gives                Hash; or Compacted; or Damage for a row that is not what was written
Never                looks at what compaction has made unreadable: on some members it is gone sooner
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from zlib import crc32

from sqlalchemy import Connection, text

from jobguard_store.storage.history import refuse_compacted
from jobguard_store.storage.state import COLUMNS, Position, version_of

_STRETCH_ROWS = 1000

_END = text("""
    SELECT mod_revision, sub FROM history
    WHERE (mod_revision, sub) > (:revision, :sub) AND mod_revision <= :upto
    ORDER BY mod_revision, sub LIMIT 1 OFFSET :rows
""")
# Everything from the compact revision on; before it the newest version of each key, if that is no tombstone.
_READABLE = text(f"""
    SELECT {", ".join(COLUMNS)} FROM history AS here
    WHERE (mod_revision, sub) > (:revision, :sub) AND (mod_revision, sub) <= (:end_revision, :end_sub)
    AND (mod_revision >= :compact OR (version > 0 AND NOT EXISTS (
        SELECT 1 FROM versions AS newer WHERE newer.key = here.key AND newer.mod_revision <= :compact
        AND (newer.mod_revision, newer.sub) > (here.mod_revision, here.sub))))
    ORDER BY mod_revision, sub
""")


@dataclass(frozen=True, slots=True)
class Hash:
    """Comparable between members whose `compact_revision` and revision are equal."""

    value: int
    compact_revision: int
    revision: int


def hash_kv(reading: Callable[[], AbstractContextManager[Connection]], revision: int) -> Hash:
    """Of the file: what is not durable is not in it, and all that compaction made unreadable must be indexed.

    Begins anew when compaction overtakes it.
    """
    while True:
        found = _hash_kv(reading, revision)
        if found is not None:
            return found


def _hash_kv(reading: Callable[[], AbstractContextManager[Connection]], revision: int) -> Hash | None:
    compact: int | None = None
    place: Position | None = Position(-1, -1)
    value = 0
    while place is not None:
        with reading() as tx:
            now, indexed = refuse_compacted(tx, revision)
            assert now <= indexed, "index before hashing"
            compact = now if compact is None else compact
            if now != compact:
                return None
            start = {"revision": place.mod_revision, "sub": place.sub}
            end = tx.execute(_END, {**start, "upto": revision, "rows": _STRETCH_ROWS - 1}).first()
            upto = Position(*end) if end else Position(revision, 1 << 62)
            stretch = {**start, "end_revision": upto.mod_revision, "end_sub": upto.sub, "compact": compact}
            for row in tx.execute(_READABLE, stretch):
                version_of(row)
                value = crc32(b"%d" % row.checksum, value)
        place = upto if end else None
    assert compact is not None
    return Hash(value, compact, revision)
