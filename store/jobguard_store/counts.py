"""What a member counts of its own work, from its start on: plain integers, where the work is done.

Place in the house   node, replica, applier, storage, api -> counts; node -> api.metrics
Never                locks; lets a duration decide anything

A count is an addition, an observation a bisection and two. Each number belongs to one thread, the writer's
or the loop's; whoever looks takes it as it is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable
from dataclasses import dataclass, field
from time import perf_counter

from jobguard_store.machine.results import (
    Applied,
    DeleteResult,
    ExpireResult,
    GrantResult,
    OpResult,
    PutResult,
    RevokeResult,
    TxnResult,
)

GRPC_CODES = 17

clock = perf_counter
"""In seconds, for durations. The loop's clock stands still while the loop works."""


class Histogram:
    """How many observations fell under each bound; each bound is twice the one before."""

    __slots__ = ("bounds", "buckets", "sum")

    def __init__(self, first: float, bounds: int) -> None:
        self.bounds = [first * 2**power for power in range(bounds)]
        self.buckets = [0] * (bounds + 1)  # the last for what is beyond all of them
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.buckets[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Calls:
    """Of one method: how often it was called, and how those calls ended, by gRPC code."""

    __slots__ = ("handled", "started")

    def __init__(self) -> None:
        self.started = 0
        self.handled = [0] * GRPC_CODES


class Traffic:
    """With one peer: bytes of messages, and how long an answer takes. States go by other connections."""

    __slots__ = ("_asked", "received", "round_trips", "sent")

    def __init__(self) -> None:
        self.sent = self.received = 0
        self.round_trips = Histogram(0.0001, 16)
        self._asked: tuple[int, float] | None = None

    def asked(self, context: int) -> None:
        """A heartbeat leaves. Only one at a time is timed, or its answer could pass for another's."""
        if self._asked is None:
            self._asked = context, clock()

    def answered(self, context: int) -> None:
        if self._asked is not None and self._asked[0] == context:
            self.round_trips.observe(clock() - self._asked[1])
            self._asked = None

    def lost(self) -> None:
        """What was asked may never be answered."""
        self._asked = None


@dataclass(slots=True)
class Counts:
    """Of keys and leases as etcd counts them: what was applied on every member, reads where they are read."""

    ranges: int = 0
    puts: int = 0
    deletes: int = 0
    txns: int = 0
    granted: int = 0
    revoked: int = 0
    healthy: int = 0
    unhealthy: int = 0
    received: int = 0  # bytes of requests, and of answers, without their heads
    sent: int = 0
    calls: dict[Hashable, Calls] = field(default_factory=dict)  # by method

    def applied(self, applied: Applied) -> None:
        match applied.result:
            case PutResult():
                self.puts += 1
            case TxnResult() as result:
                self.txn(result)
            case DeleteResult():
                self.deletes += 1
            case GrantResult():
                self.granted += 1
            case RevokeResult() | ExpireResult(expired=True):
                self.revoked += 1
                self.deletes += len(applied.events)
                self.txns += len(applied.events) > 1

    def txn(self, result: TxnResult) -> None:
        """What is counted as a txn is more than one operation at once."""
        self.txns += self._ran(result) > 1

    def _ran(self, result: OpResult) -> int:
        """How many operations `result` is the answer of."""
        match result:
            case TxnResult():
                return sum([self._ran(response) for response in result.responses])
            case PutResult():
                self.puts += 1
            case DeleteResult():
                self.deletes += 1
            case _:
                self.ranges += 1
        return 1
