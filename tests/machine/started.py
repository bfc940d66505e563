"""A machine and a short way to talk to it."""

from typing import Any

from jobguard_store.errors import StoreError
from jobguard_store.machine.apply import Machine
from jobguard_store.machine.commands import ANONYMOUS, Caller, Command, Put, Range
from jobguard_store.machine.results import RangeResult, Record

TERM = 5


class Started:
    def __init__(self) -> None:
        self.machine = Machine()

    @property
    def revision(self) -> int:
        return self.machine.revision

    def apply(self, command: Command, term: int = TERM, caller: Caller = ANONYMOUS) -> Any:
        """Applied, with whatever result."""
        return self.machine.apply(command, term, caller)

    def do(self, command: Command, caller: Caller = ANONYMOUS) -> Any:
        """The answer of a command that is not refused."""
        result = self.apply(command, caller=caller).result
        assert not isinstance(result, StoreError), result
        return result

    def refusal(self, command: Command, caller: Caller = ANONYMOUS) -> type[StoreError]:
        """How a command is refused, having changed nothing."""
        before = self.machine.fingerprint()
        applied = self.apply(command, caller=caller)
        assert isinstance(applied.result, StoreError), applied.result
        assert self.machine.fingerprint() == before
        assert (applied.events, applied.rows.leases, applied.rows.compact_revision) == ((), (), None)
        assert applied.rows.auth is None
        return type(applied.result)

    def put(self, *keys: str, lease: int = 0) -> None:
        for key in keys:
            self.do(Put(key.encode(), key.encode(), lease))

    def get(self, key: bytes) -> Record | None:
        found = self.range(Range(key)).kvs
        return found[0] if found else None

    def record(self, key: bytes) -> Record:
        found = self.get(key)
        assert found is not None
        return found

    def range(self, request: Range) -> RangeResult:
        result = self.machine.range(request)
        assert isinstance(result, RangeResult)
        return result

    def keys(self, request: Range) -> list[str]:
        return [record.key.decode() for record in self.range(request).kvs]
