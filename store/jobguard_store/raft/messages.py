"""What Raft nodes say to each other, and what a node must do next: the nouns of consensus.

Place in the house   transport, storage, node, raft.core  ->  raft.messages
Gives                entries, hard state, peer messages, Ready
Never                decides anything

Everything here is a frozen value. The peer messages travel as [code, fields], where the code is the
position in MESSAGES: that tuple is a format, only ever appended to.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from jobguard_store.raft.configuration import Configuration


class EntryKind(IntEnum):
    """What an entry is for. Stored in the log for ever: only ever added to."""

    NORMAL = 0  # a command of the state machine
    NOOP = 1  # a new leader's first entry: commits what earlier terms left behind (Raft 5.4.2, 8)
    CONFIG = 2  # who is in the cluster from here on, as raft.configuration spells it


@dataclass(frozen=True, slots=True, order=True)
class EntryId:
    """Where an entry sits. Field order is the rule of 5.4.1: a later term wins, then a longer log."""

    term: int
    index: int


NOTHING = EntryId(term=0, index=0)
"""What precedes the very first entry."""


class Entry(NamedTuple):
    """One line of the log. A named tuple, because one is made per proposal on every node.

    On the wire and in a row it is its four fields, in this order.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which says nothing about an entry
    term: int
    kind: EntryKind
    data: bytes

    @property
    def id(self) -> EntryId:
        return EntryId(term=self.term, index=self.index)


@dataclass(frozen=True, slots=True)
class HardState:
    """What a node must not forget: forgetting either would let it vote twice in one term."""

    term: int = 0
    voted_for: int | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The name of a state: what the log up to `last` leads to, and who is in the cluster by then.

    The state itself is the node's. Hard state is no part of it: that is what *this* node promised.
    """

    last: EntryId
    configuration: Configuration


# -- Between peers. `term` is the sender's term, but for the two pre-vote messages (see there). ----


@dataclass(frozen=True, slots=True, kw_only=True)
class PreVoteRequest:
    """Would you vote for me? `term` is the term the sender *would* campaign in: it has not moved yet."""

    sender: int
    to: int
    term: int
    last: EntryId


@dataclass(frozen=True, slots=True, kw_only=True)
class PreVote:
    """The answer. Granted: `term` is the one asked about. Refused: it is the refuser's own,

    which a candidate that fell behind adopts; otherwise it would ask about a past term for ever.
    """

    sender: int
    to: int
    term: int
    granted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteRequest:
    """Vote for me. `at_leaders_wish`: the leader that may still be heard told me to stand."""

    sender: int
    to: int
    term: int
    last: EntryId
    at_leaders_wish: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    sender: int
    to: int
    term: int
    granted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendEntries:
    """The entries after `previous`. Without entries it only asks whether the logs match up to there."""

    sender: int
    to: int
    term: int
    previous: EntryId
    entries: tuple[Entry, ...]
    commit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendReply:
    """My log equals yours up to `match`, and that much of it is on my disk."""

    sender: int
    to: int
    term: int
    match: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendRefusal:
    """I do not hold `previous`. Our logs can agree at most up to `hint`: whole terms are skipped."""

    sender: int
    to: int
    term: int
    previous: int
    hint: EntryId


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """I lead. `commit` never exceeds what the receiver acknowledged; `context` names a read round, or 0."""

    sender: int
    to: int
    term: int
    commit: int
    context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatReply:
    """You led when I heard round `context`. To a leader of the past it only tells the newer term."""

    sender: int
    to: int
    term: int
    context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """The commit index moved and there is nothing else to say. Not answered: a heartbeat repeats it."""

    sender: int
    to: int
    term: int
    commit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotOffer:
    """You lack entries that I have forgotten: here is the state they led to, or a later one.

    It goes with the state, and the receiver's core is told of it once all of that is there, checked and on
    disk beside what it had.
    """

    sender: int
    to: int
    term: int
    snapshot: Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutNow:
    """Your log holds all that mine does: stand at once, I want to lead no more (thesis 3.10)."""

    sender: int
    to: int
    term: int


Message = (
    PreVoteRequest
    | PreVote
    | VoteRequest
    | Vote
    | AppendEntries
    | AppendReply
    | AppendRefusal
    | Heartbeat
    | HeartbeatReply
    | Commit
    | SnapshotOffer
    | TimeoutNow
)

MESSAGES: tuple[type[Message], ...] = (
    PreVoteRequest,
    PreVote,
    VoteRequest,
    Vote,
    AppendEntries,
    AppendReply,
    AppendRefusal,
    Heartbeat,
    HeartbeatReply,
    Commit,
    SnapshotOffer,
    TimeoutNow,
)
"""The peer messages in wire order. Only ever appended to."""


# -- From the core to its node ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadReady:
    """The read named `context` is linearizable once everything up to `index` is applied."""

    context: int
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The node's next work, in the order it must happen. The order is the safety argument.

    Several may be in flight. Their steps 2 happen in the order the Readies were taken, and step 3 of one
    waits for step 2 of *all* before it, even when it persists nothing itself: its acknowledgements may be
    about entries an earlier one is still writing.
    """

    messages: tuple[Message, ...] = ()  # 1. may leave before we are durable: a leader's appends, heartbeats
    offers: tuple[SnapshotOffer, ...] = ()  # .. and peers owed a state this old or newer (Raft.snapshot_sent)
    snapshot: Snapshot | None = None  # 2. the state we were offered takes the place of ours, log and all;
    hard_state: HardState | None = None  # .. this and the entries are durable, in one transaction;
    entries: tuple[Entry, ...] = ()  # .. whatever the disk holds from entries[0].index on gives way to them
    messages_after_persist: tuple[Message, ...] = ()  # 3. votes and acks: peers rely on 2 from here on
    committed: tuple[Entry, ...] = ()  # 4. apply, in index order; may be entries of 2 not yet durable here
    reads: tuple[ReadReady, ...] = ()  # 5. answer once applied that far
    reads_lost: tuple[int, ...] = ()  # the contexts of reads nobody will confirm: leadership was lost
