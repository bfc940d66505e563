"""What a node answers with, besides the machine's own results.

Place in the house   node -> answers -> api
Never                does anything: these are nouns
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobguard_store.counts import Histogram


@dataclass(frozen=True, slots=True)
class Header:
    """What every response's header says about the member that answers, at this moment."""

    cluster_id: int
    member_id: int
    revision: int
    term: int  # the newest durable term: it never goes back, not even over a crash


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request came to: the machine's result, and the store's revision right after it."""

    result: Any
    revision: int


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """Seconds left (floor; -1: no such lease), the TTL it was granted, the keys attached to it."""

    remaining: int
    granted: int
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """What this member holds and has to do at this moment; and, since its start, how that went."""

    keys: int
    compact_revision: int
    watchers: int
    slow_watchers: int  # those that read history
    pending_events: int  # that watchers have not taken yet
    proposals: int
    proposals_failed: int
    reads_slow: int
    reads_failed: int
    applies_slow: int
    heartbeats_late: int
    leases_renewed: int
    leaders_seen: int
    fsyncs: Histogram
    commits: Histogram


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What this member knows by itself; asks nobody."""

    db_size: int
    db_size_in_use: int
    leader: int | None
    raft_index: int
    raft_term: int
    applied_index: int
    errors: tuple[str, ...]
    is_learner: bool
