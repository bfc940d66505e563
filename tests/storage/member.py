"""One member's machine and file, without the node between them: what the loop does, step by step."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jobguard_store.machine.apply import Machine
from jobguard_store.machine.commands import Command, Origin, Put, encode
from jobguard_store.machine.results import ChangeEvent
from jobguard_store.raft.messages import Entry, EntryKind, HardState
from jobguard_store.storage.batch import Batch
from jobguard_store.storage.database import Database, Loaded

TERM = 3


def normal(index: int, command: Command, term: int = TERM) -> Entry:
    return Entry(index, term, EntryKind.NORMAL, encode(Origin(1, 1, index), command))


class Member:
    """Applies commands at once and writes them when told to; until they are indexed, they are the tail."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start()

    def _start(self) -> None:
        self.database = Database.open(self.path)
        self.loaded: Loaded = self.database.load()
        self.machine: Machine = self.loaded.machine
        self.index = self.loaded.applied_index
        self.batch = Batch()
        self._events: list[ChangeEvent] = []

    def do(self, *commands: Command) -> Any:
        for command in commands:
            self.index += 1
            self.batch.append([normal(self.index, command)])
            applied = self.machine.apply(command, TERM)
            self.batch.apply(self.index, applied.rows)
            self._events += applied.events
        return applied.result

    def put(self, *keys: str) -> None:
        self.do(*(Put(key.encode(), b"value of " + key.encode()) for key in keys))

    @property
    def tail(self) -> tuple[ChangeEvent, ...]:
        return tuple(each for each in self._events if each.revision > self.database.indexed_revision)

    def flush(self) -> None:
        self.batch.hard_state = HardState(term=TERM, voted_for=1)
        self.database.write(self.batch)
        self.batch = Batch()

    def index_all(self) -> None:
        """Let the file find by key whatever was flushed."""
        while self.database.index():
            pass

    def sweep(self) -> int:
        """Remove all that compaction has made unreadable; in how many steps."""
        steps = 0
        while self.database.compact():
            steps += 1
        return steps

    def restart(self) -> None:
        """Stop, forget everything, read the file."""
        self.database.close()
        self._start()

    def writer_sql(self, statement: str) -> None:
        """Run a statement on the writer's own connection."""
        self.database._writer.exec_driver_sql(statement)
        self.database._writer.commit()


# Where there is such a place: a property's hundreds of files wait for no disk, which others may keep busy.
IN_MEMORY = Path("/dev/shm")


@contextmanager
def member_on_a_new_file() -> Iterator[Member]:
    with TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as folder:
        member = Member(Path(folder) / "node.sqlite")
        try:
            yield member
        finally:
            member.database.close()


def sql(path: Path, *statements: str) -> list[Any]:
    """Have another hand change the file, with no node running on it."""
    with closing(sqlite3.connect(path)) as connection, connection:
        rows: list[Any] = []
        for statement in statements:
            rows = connection.execute(statement).fetchall()
        return rows


def bytes_of(paths: Iterable[Path]) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in paths if path.exists()}
