"""Raft as a plain object: messages, ticks and proposals in, a Ready out.

Place in the house   node, transport, storage  ->  raft
Never                reads a clock, opens anything, awaits, or draws its own randomness

What a node owes the core, beyond carrying out each Ready in its order (messages.Ready):

Log       compact(index) up to what its *file* holds applied, some way behind the last entry, so that a slow
          peer needs no state. The file trims its log likewise, and records what compact() returned as base;
          the node starts from that: base=, configuration=.
Snapshot  For each of Ready.offers: cut the state of one read transaction, as of the offer's entry or a later
          one; send it and the offer, with that state's name put in (dataclasses.replace), by a way of
          its own; then say snapshot_sent or snapshot_failed, once per offer. The receiver stages and checks
          it, and only then step()s the offer. If Ready.snapshot comes back, that state takes the place of
          file, log and machine, before the entries and `committed` of the same Ready. The new file holds this
          node's own hard state and identity. persisted(snapshot.last) reports it, in its place among the
          writes. If it does not come back the staged state is dropped.
Members   change_membership() appends a configuration, which counts at once: after each turn the transport
          dials and admits `configuration`'s members, whoever they are. In `committed` a CONFIG entry says
          what is so for good: Configuration.decode(entry.data). Who finds its own id in `removed` stops;
          nobody lets it in again. A node that joins starts with voters=() and is told. Ids are used once.
Levels    A node that finds `configuration.level` beyond what it can read stops before it persists or sends
          anything more. An entry of a level is proposed once a configuration of that level is *applied*
          where it is proposed: then all leaders to come hold that configuration before the entry.
Transfer  transfer(successor) before a leader stops. While not accepts_proposals nothing is proposed, and what
          has gathered waits: it is forwarded to whoever leads next.
"""

from jobguard_store.raft.configuration import FIRST_LEVEL, NOBODY, Configuration, Member
from jobguard_store.raft.core import HandingOver, NotLeader, Raft, Role
from jobguard_store.raft.leading import Limits
from jobguard_store.raft.membership import (
    AddLearner,
    AddVoter,
    Change,
    ChangeRefused,
    Promote,
    Raise,
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
    "FIRST_LEVEL",
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
    "Raise",
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
