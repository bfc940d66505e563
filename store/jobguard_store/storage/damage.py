"""What is wrong with a node's file, said to its operator in one sentence.

Place in the house   file, raft_log, state, database -> damage -> errors
Gives                StartupErrors that name the file, the fault and the way out
Never                repairs: a node that has lost what it promised its peers must not go on as if it had not
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from jobguard_store.errors import DatabaseDamaged, DatabaseNewer, DatabaseUnusable


class Damage(Exception):
    """A row, or the absence of one, that no batch can have written."""


class Newer(Exception):
    """Something only a newer build can have written."""


class Unusable(Exception):
    """Something around the file that its operator can change."""


class DiskFull(Exception):
    """Nothing of the batch was written; keep it and try again when there is space."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what a damaged, newer or unusable file makes SQLite and us raise into the operator's sentence."""
    try:
        yield
    except Damage as damage:
        raise damaged(path, str(damage)) from damage
    except Newer as newer:
        found = _one_line(newer)
        raise DatabaseNewer(
            f"{path} was written by a newer jobguard ({found}): start this node with that version again"
        ) from newer
    except (Unusable, OSError) as unusable:
        raise _unusable(path, f"cannot be used ({unusable})") from unusable
    except UnicodeDecodeError as error:  # the driver's: of a text in it, or of what SQLite says
        raise damaged(path, f"what should be text is none: {error.reason}") from error
    except (sqlite3.Error, DBAPIError) as error:
        raise _explained(path, error) from error


def damaged(path: Path, reason: str) -> DatabaseDamaged:
    return DatabaseDamaged(
        f"{path} is damaged ({_one_line(reason)}): move it away and bring this node back as a new member"
        " (`member remove`, then `member add`), its peers have the data"
    )


def _one_line(reason: object) -> str:
    """SQLite quotes what it cannot read, a CREATE TABLE of ten lines say."""
    return " ".join(str(reason).split())


def sqlite_code(error: Exception) -> int:
    """SQLite's primary result code, 0 if the error does not come from SQLite."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    return getattr(origin, "sqlite_errorcode", 0) & 0xFF


_UNUSABLE = {
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_PERM: "may not be opened",
    sqlite3.SQLITE_READONLY: "may not be written to",
    sqlite3.SQLITE_FULL: "has no space left on its disk",
    sqlite3.SQLITE_IOERR: "cannot be read",
    sqlite3.SQLITE_BUSY: "is locked by another program",
    sqlite3.SQLITE_LOCKED: "is locked by another program",
}


def _explained(path: Path, error: sqlite3.Error | DBAPIError) -> DatabaseDamaged | DatabaseUnusable:
    reason = str(error.orig if isinstance(error, DBAPIError) else error)
    unusable = _UNUSABLE.get(sqlite_code(error))
    if unusable:
        return _unusable(path, f"{unusable} ({reason})")
    return damaged(path, reason)


def _unusable(path: Path, what: str) -> DatabaseUnusable:
    return DatabaseUnusable(f"{path} {_one_line(what)}: see to that, then start the node again")
