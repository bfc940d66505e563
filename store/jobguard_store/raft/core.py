"""Elections and replication: Raft's rules as a plain object.

Place in the house   node  ->  raft.core  ->  raft.log, raft.progress, raft.quorum
Takes                ticks, peers' messages, proposals, word of what became durable
Gives                Ready: what to send, persist, then send, then apply
Never                reads a clock, opens anything, awaits, or draws its own randomness
"""

from collections.abc import Collection, Sequence
from enum import Enum
from typing import Protocol

from jobguard_store.raft.messages import NOTHING, Entry, EntryId, HardState, Message, Ready


class Role(Enum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class NotLeader(Exception):
    """Nothing was appended and no read was begun; ask `leader`, when one is known."""

    def __init__(self, leader: int | None) -> None:
        super().__init__(f"not the leader; the leader is {leader}")
        self.leader = leader


class Randomness(Protocol):
    """The one thing drawn: a number in [start, stop). random.Random fits."""

    def randrange(self, start: int, stop: int, /) -> int: ...


class Raft:
    """One voter. Ask `has_ready()` after every turn, and carry out each Ready in its order."""

    def __init__(
        self,
        *,
        node_id: int,
        voters: Collection[int],
        hard_state: HardState,
        entries: Sequence[Entry],
        applied_index: int,
        random: Randomness,
        election_ticks: int = 10,
        heartbeat_ticks: int = 1,
        base: EntryId = NOTHING,
    ) -> None:
        """Start from what the disk holds: `entries` follow `base`, and all of it is durable.

        The commit index starts at the durable `applied_index`; the leader tells the rest.
        """

    # What it knows

    node_id: int
    term: int
    role: Role
    leader: int | None
    commit_index: int
    applied_index: int

    @property
    def last_index(self) -> int:
        raise NotImplementedError

    # What happens to it

    def tick(self) -> None:
        """One unit of time passed: elections, heartbeats, and a leader's check that it still has a quorum."""

    def step(self, message: Message) -> None:
        """Take in one peer message. May be late, doubled, reordered or of another age."""

    def propose(self, data: Sequence[bytes]) -> EntryId:
        """Append one entry per item and return the id of the first. Raises NotLeader."""
        raise NotImplementedError

    def read_index(self, context: int) -> None:
        """Begin a linearizable read; it comes back in Ready.reads or Ready.reads_lost. Raises NotLeader."""

    def persisted(self, last: EntryId) -> None:
        """The entries of a Ready, up to `last`, are durable. Ignored if the log no longer holds them."""

    def hard_state_persisted(self, hard_state: HardState) -> None:
        """The hard state of a Ready is durable. Report it before `persisted` of the same Ready."""

    def applied(self, index: int) -> None:
        """The state machine has applied everything up to `index`."""

    def peer_lost(self, peer: int) -> None:
        """The connection to `peer` closed: a hint, which may be wrong."""

    # What it wants done

    def has_ready(self) -> bool:
        """Whether ready() would hold anything."""
        raise NotImplementedError

    def ready(self) -> Ready:
        """Take all pending work. What is taken is taken: the node carries it out, in order, or stops."""
        raise NotImplementedError
