"""One node of a cluster whose others are the test: what it is told, and what it says.

Place in the house   test_paper, test_core  ->  alone  ->  jobguard_store.raft
"""

import random
from collections.abc import Sequence
from typing import Any, TypeVar

from jobguard_store.raft import (
    AppendEntries,
    AppendReply,
    Entry,
    EntryId,
    EntryKind,
    HardState,
    Message,
    PreVote,
    Raft,
    Ready,
    Role,
    Vote,
    VoteRequest,
)

M = TypeVar("M")


def log_of(*terms: int) -> tuple[Entry, ...]:
    """A log, told by its entries' terms."""
    return tuple(Entry(i, term, EntryKind.NORMAL, f"{term}/{i}".encode()) for i, term in enumerate(terms, 1))


def node(
    *, voters: int = 3, terms: Sequence[int] = (), term: int = 0, vote: int | None = None, **more: Any
) -> Raft:
    """Node 1, just started from such a disk."""
    return Raft(
        node_id=1,
        voters=range(1, voters + 1),
        hard_state=HardState(max([term, *terms]), vote),
        entries=log_of(*terms),
        applied_index=more.pop("applied", 0),
        random=random.Random(more.pop("seed", 1)),
        **more,
    )


def carry_out(raft: Raft) -> list[Message]:
    """Do all it asks, at once, on a disk that is never late; what it sent."""
    sent: list[Message] = []
    while raft.has_ready():
        ready = raft.ready()
        finish(raft, ready)
        sent += ready.messages + ready.messages_after_persist
    return sent


def finish(raft: Raft, ready: Ready) -> None:
    """The disk is done with what `ready` brought, and what it committed is applied."""
    if ready.hard_state:
        raft.hard_state_persisted(ready.hard_state)
    if ready.entries:
        raft.persisted(ready.entries[-1].id)
    if ready.committed:
        raft.applied(ready.committed[-1].index)


def tell(raft: Raft, *messages: Message) -> list[Message]:
    """Give it these, one after the other; what it sent."""
    sent: list[Message] = []
    for message in messages:
        raft.step(message)
        sent += carry_out(raft)
    return sent


def of(kind: type[M], sent: Sequence[Message]) -> list[M]:
    return [message for message in sent if isinstance(message, kind)]


def candidate(**how: Any) -> Raft:
    """It has waited, asked ahead, been told yes, and stands."""
    raft = node(**how)
    while raft.role is not Role.PRE_CANDIDATE:
        raft.tick()
    carry_out(raft)
    term = raft.term + 1
    for peer in raft._electorate.others:
        raft.step(PreVote(sender=peer, to=1, term=term, granted=True))
    assert (raft.role, raft.term) == (Role.CANDIDATE, term)
    return raft


def leader(**how: Any) -> Raft:
    """It stood and won. Its no-op is on its own disk, and on nobody else's yet."""
    raft = candidate(**how)
    carry_out(raft)
    for peer in raft._electorate.others:
        raft.step(Vote(sender=peer, to=1, term=raft.term, granted=True))
    assert raft.role is Role.LEADER
    carry_out(raft)
    return raft


def settled_leader(**how: Any) -> Raft:
    """.. and everybody holds its no-op."""
    raft = leader(**how)
    for peer in raft._electorate.others:
        tell(raft, reply(raft, peer))
    assert raft.commit_index == raft.last_index
    return raft


def reply(raft: Raft, peer: int, match: int | None = None) -> AppendReply:
    return AppendReply(sender=peer, to=1, term=raft.term, match=raft.last_index if match is None else match)


def append(
    previous: EntryId, entries: Sequence[Entry] = (), *, term: int, sender: int = 2, commit: int = 0
) -> AppendEntries:
    return AppendEntries(
        sender=sender, to=1, term=term, previous=previous, entries=tuple(entries), commit=commit
    )


def vote_request(sender: int = 2, *, term: int, last: EntryId) -> VoteRequest:
    return VoteRequest(sender=sender, to=1, term=term, last=last)


def terms_of(raft: Raft) -> list[int]:
    return [entry.term for entry in raft.log.slice(1, raft.last_index)]
