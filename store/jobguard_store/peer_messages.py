"""What nodes say to each other besides Raft: who they are, commands handed on, questions to a leader.

Place in the house   replica, reads, proposals, transport -> peer_messages
Never                changes the code of a message: both builds of a rolling upgrade read them

All of these may be lost. Questions are harmless to repeat and are repeated; a Forward never is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import count

from jobguard_store.raft.configuration import FIRST_LEVEL
from jobguard_store.raft.messages import MESSAGES, Message, SnapshotOffer

REFUSED = -1


def numbers(boot: int) -> Iterator[int]:
    """Numbers for what a node sends in one of its lives, the `boot`-th, that no other life of it gives out.

    An answer may come after we crashed and started again. Did two lives count alike, an old read point would
    end the wait of somebody who came since, an old renewal would be another lease's, and the refusal of an
    old Forward would hand on a command twice.
    """
    return count(boot << 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """First frame of a connection, from the one who dialled.

    `disk` is a number drawn when the sender's file was made, `boot` the durable count of its starts, `nonce`
    names this one of them. At `peer_urls` it is dialled by a receiver whose log does not name it yet.
    `level`: of commands that its build can read; one that does not say so can read the first.
    """

    cluster_id: int
    sender: int
    to: int
    boot: int
    nonce: int
    name: str
    disk: int = 0
    peer_urls: tuple[str, ...] = ()
    level: int = FIRST_LEVEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The connection may be used. `level` as in Hello."""

    sender: int
    level: int = FIRST_LEVEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwelcome:
    """The connection is closed after this; `fatal` says that asking again can never help.

    `too_old`: who asked ends until it is upgraded. Not fatal, which it would write down and heed ever after.
    """

    reason: str
    fatal: bool = False
    too_old: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """First frame of a connection that brings a state, and nothing else: Welcome, Parts, Whole, Taken.

    The state is a file of `size` bytes, as storage.snapshot describes it, and `offer` names it.
    """

    hello: Hello
    offer: SnapshotOffer
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The next bytes of the file."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """That was all of it; the SHA-256 of its bytes."""

    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The receiver lives by the state, or by a later one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhoIsThere:
    """Asked by a node that has been added and has no id yet, in place of an introduction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """Its answer: the configuration that the sender has applied, as raft.configuration spells it.

    `index` is the entry up to which it has applied: of two that differ, the one ahead is right.
    """

    cluster_id: int
    configuration: bytes
    index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """Commands for the leader of `term`, and for no other term.

    The fence on the term is what makes a lost leader's commands answerable: once an entry of a newer
    term is applied, a command sent to an older term that was not applied before it never will be.
    """

    sender: int
    to: int
    term: int
    sequences: tuple[int, ...]
    commands: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardRefused:
    """None of these was appended, and none will be."""

    sender: int
    to: int
    sequences: tuple[int, ...]


class Question(IntEnum):
    BARRIER = 0
    RENEW = 1
    REMAINING = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A question the leader answers after a ReadIndex round begun once it has arrived there."""

    sender: int
    to: int
    context: int
    question: Question
    lease_id: int = 0

    def reply(self, index: int, *, remaining: int = 0, granted: int = 0) -> Told:
        return Told(
            sender=self.to,
            to=self.sender,
            context=self.context,
            question=self.question,
            index=index,
            remaining=remaining,
            granted=granted,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """`index`: what the asker must have applied before it may use the rest; REFUSED from a non-leader."""

    sender: int
    to: int
    context: int
    question: Question
    index: int
    remaining: int = 0
    granted: int = 0


class Step(IntEnum):
    """What is to change about a member. ADD: it is to vote once it has caught up."""

    ADD = 0
    ADD_LEARNER = 1
    PROMOTE = 2
    REMOVE = 3
    MOVE = 4  # to other peer URLs
    INTRODUCE = 5  # its own name and client URLs


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconfigure:
    """A change of the members, for the leader of `term`, and for no other term."""

    sender: int
    to: int
    term: int
    sequence: int
    step: Step
    member: int
    peer_urls: tuple[str, ...] = ()
    name: str = ""
    client_urls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconfigured:
    """Appended at `index`, in the term it was meant for; or not at all, and `refusal` says why.

    With neither the next leader is to be asked.
    """

    sender: int
    to: int
    sequence: int
    index: int = 0
    refusal: str = ""


PeerMessage = Message | Forward | ForwardRefused | Ask | Told | Reconfigure | Reconfigured

# Type codes on the wire: Raft's own from 0, ours from 64, the handshake's from 128. Only ever added to.
CODES: dict[int, type] = {
    **dict(enumerate(MESSAGES)),
    **dict(enumerate((Forward, ForwardRefused, Ask, Told, Reconfigure, Reconfigured), start=64)),
    **dict(
        enumerate((Hello, Welcome, Unwelcome, Delivery, Part, Whole, Taken, WhoIsThere, Roster), start=128)
    ),
}
