"""How much of the log stays behind what is applied, so that a peer which lags a little needs no snapshot.

Place in the house   replica -> trimming
Takes                applied entries; how far the file holds them applied, and how far the peers have come
Gives                the index up to which the log may be forgotten, when it is time
Never                forgets anything itself; lets the log outgrow memory, whoever may still need it
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from jobguard_store.raft.messages import Entry

# In bytes, about: what an entry's own objects take besides its data.
ENTRY_WEIGHT = 200
# The log is as much memory. Above the first it is trimmed to the second, however few entries that leaves.
WEIGHT_MAX = 64 << 20
WEIGHT_KEPT = 32 << 20
# For a peer that answers and catches up it may be more: else it would need one snapshot after the other.
WEIGHT_FOR_PEERS_MAX = 128 << 20


class Trimming:
    """When more than `count_max` applied entries are held, half of them go."""

    def __init__(self, count_max: int, base_index: int, applied: Sequence[Entry]) -> None:
        """`applied` are the entries behind the base that are applied already."""
        self._count_max = count_max
        self.begin(base_index)
        for entry in applied:
            self.applied((entry,))

    def begin(self, base_index: int) -> None:
        """The log is empty, and begins behind `base_index`. `weight` is about what it takes, in bytes."""
        self._base = base_index
        self.weight = 0
        self._held: deque[tuple[int, int]] = deque()  # stretches of it: last index, weight

    def applied(self, entries: Sequence[Entry]) -> None:
        weight = ENTRY_WEIGHT * len(entries) + sum([len(entry.data) for entry in entries])
        self._held.append((entries[-1].index, weight))
        self.weight += weight

    def take(self, durable: int, held_by_peers: int) -> int | None:
        """The index to forget up to, if it is time. Whoever takes it does so.

        `durable`: up to here the file holds entries applied.
        """
        if durable - self._base <= self._count_max and self.weight <= WEIGHT_MAX:
            return None
        base = self._base
        while self._held and self._may_go(*self._held[0], durable, held_by_peers):
            self._base, weight = self._held.popleft()
            self.weight -= weight
        return self._base if self._base > base else None

    def _may_go(self, last: int, weight: int, durable: int, held_by_peers: int) -> bool:
        if last > durable:
            return False
        if last > held_by_peers and self.weight <= WEIGHT_FOR_PEERS_MAX:
            return False
        return last <= durable - self._count_max // 2 or self.weight - weight >= WEIGHT_KEPT
