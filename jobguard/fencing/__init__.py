"""Refuse a stale holder in the user's own resource: `jobguard.fencing.sqlalchemy`, `jobguard.fencing.redis`.

A lock alone cannot stop a holder that was paused past its lease and goes on. The resource can: it remembers
the largest fencing token it has seen, and refuses a smaller one, in the same transaction as the write itself.

Two rules make that complete:

1. Advance the guard before the first *read* of the resource, not only before the write. Otherwise a late
   holder can still write between the newcomer's read and its write, which then overwrites or repeats it.
2. Tokens of one cluster only are compared, so a guard remembers the cluster's id. Moving to another cluster
   is an act of the operator (`move`), once nothing of the old one runs any more.
"""

from typing import Protocol


class Holder(Protocol):
    """A held Lock, a leading Election, or the run that `jobguard.current()` gives."""

    @property
    def fencing_token(self) -> int: ...

    @property
    def cluster_id(self) -> int: ...
