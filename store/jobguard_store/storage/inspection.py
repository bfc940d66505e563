"""All pages of a file at work, walked beside its writer: what a start leaves out, so that it is soon over.

Place in the house   database, replica -> inspection -> file
Takes                the path of the file in force
Gives                DatabaseDamaged, if a page is not what SQLite wrote
Never                holds up writer or loop: SQLite walks without the interpreter
"""

from pathlib import Path

from jobguard_store.storage import file
from jobguard_store.storage.damage import explained
from jobguard_store.storage.tables import driver


class Inspection:
    """On a connection of its own. The write-ahead log cannot start over meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine = file.reader_engine(path)
        with explained(path):
            self._connection = self._engine.connect()

    def walk(self) -> None:
        """Raises DatabaseDamaged."""
        with explained(self._path), self._connection.begin():
            file.check(self._connection)

    def interrupt(self) -> None:
        """From another thread: have `walk` raise soon."""
        driver(self._connection).interrupt()

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()
