"""Raft as a plain object: messages, ticks and proposals in, a Ready out.

Place in the house   node, transport, storage  ->  raft
Never                reads a clock, opens anything, awaits, or draws its own randomness
"""

from jobguard_store.raft.configuration import NOBODY, Configuration, Member
from jobguard_store.raft.core import HandingOver, NotLeader, Raft, Role
from jobguard_store.raft.leading import Limits
from jobguard_store.raft.membership import (
    AddLearner,
    AddVoter,
    Change,
    ChangeRefused,
    Promote,
    Refusal,
    Remove,
    Update,
)
from jobguard_store.raft.messages import (
    MESSAGES,
    NOTHING,
    AppendEntries,
    AppendRefusal,
    AppendReply,
    Commit,
    Entry,
    EntryId,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatReply,
    Message,
    PreVote,
    PreVoteRequest,
    ReadReady,
    Ready,
    Snapshot,
    SnapshotOffer,
    TimeoutNow,
    Vote,
    VoteRequest,
)
from jobguard_store.raft.transfer import TransferRefused

__all__ = [
    "MESSAGES",
    "NOBODY",
    "NOTHING",
    "AddLearner",
    "AddVoter",
    "AppendEntries",
    "AppendRefusal",
    "AppendReply",
    "Change",
    "ChangeRefused",
    "Commit",
    "Configuration",
    "Entry",
    "EntryId",
    "EntryKind",
    "HandingOver",
    "HardState",
    "Heartbeat",
    "HeartbeatReply",
    "Limits",
    "Member",
    "Message",
    "NotLeader",
    "PreVote",
    "PreVoteRequest",
    "Promote",
    "Raft",
    "ReadReady",
    "Ready",
    "Refusal",
    "Remove",
    "Role",
    "Snapshot",
    "SnapshotOffer",
    "TimeoutNow",
    "TransferRefused",
    "Update",
    "Vote",
    "VoteRequest",
]
