"""A node that leaves out its syncs: python -m tests.processes.unsynced, with a node's flags.

Place in the house   test_fsync -> unsynced -> jobguard_store
Gives                proof that the test would notice
"""

import sqlite3
from pathlib import Path

from jobguard_store.__main__ import store
from jobguard_store.storage import file

_prepare = file._prepare_writer


def _prepare_unsynced(dbapi: sqlite3.Connection, path: Path) -> None:
    _prepare(dbapi, path)
    dbapi.execute("PRAGMA synchronous = OFF")


if __name__ == "__main__":
    file._prepare_writer = _prepare_unsynced
    store()
