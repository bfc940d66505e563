"""A call's turn at its task's key: stand in line, look, leave, and say that it completed. Pure transitions.

Place in the house   celery.turn  ->  turns  ->  steps, records
Takes                a Turn as it is to be written, the lease it stands on, what the caller saw
Gives                a Transaction and the reader of its answer: the Line, as of one revision
Never                reads a clock, draws a nonce, or talks to the store

    enter ──▶ in line ──── fewer than `most` before us ────▶ ours ──leave──▶ gone
      │          └─leave──▶ gone (waited long enough)          └──complete──▶ gone, and completed/<name>
      └──▶ not entered: somebody is there, or it completed lately

The line is that of any lock of this name: places under locks/<name>/, the oldest first. Only who holds can
complete, by its token. So who is first at a revision without a completion stays alone until it leaves.
"""

from dataclasses import dataclass

import msgspec

from jobguard.ops import (
    compare_absent,
    compare_created,
    compare_mod,
    compare_none,
    delete_op,
    get_op,
    get_prefix_op,
    prefix_end,
    put_op,
)
from jobguard.records import Completed, Keys, Turn, decode, encode
from jobguard.steps import Seen, Transaction, first, kvs, see
from jobguard.wire import KeyValue, TxnResponse


@dataclass(frozen=True, slots=True)
class Stood:
    """A place in line. `turn` is None for one that no task of ours wrote: it counts all the same."""

    key: bytes
    token: int
    turn: Turn | None

    @property
    def holder(self) -> str:
        return self.turn.holder if self.turn else "an unknown process"


@dataclass(frozen=True, slots=True)
class Line:
    """Who stands in line, the oldest first; where we do, and what completed last."""

    revision: int
    stood: tuple[Stood, ...]
    ours: Stood | None
    completed: Seen[Completed] | None

    @property
    def before(self) -> tuple[Stood, ...]:
        """Those before us; all, if we are not in line."""
        return self.stood[: self.stood.index(self.ours)] if self.ours else self.stood

    def without_us(self) -> "Line":
        return Line(self.revision, self.before, None, self.completed)


def enter(
    keys: Keys, turn: Turn, *, lease: int, only_if_free: bool, used: int | None = None
) -> Transaction[Line]:
    """Stand in line; with `only_if_free` not behind anybody.

    `used` is for `once`: the mod_revision of a completion that is over, 0 where none was seen. Another one
    meanwhile, and we do not enter.
    """
    own, line, completed = (
        keys.turn(turn.name, lease, turn.nonce),
        keys.line(turn.name),
        keys.completed(turn.name),
    )
    unused = () if used is None else (compare_mod(completed, used) if used else compare_absent(completed),)
    free = (compare_none(line, prefix_end(line)),) if only_if_free else ()
    reads = (get_prefix_op(line), get_op(completed))
    return Transaction(
        compare=(compare_absent(own), *unused, *free),
        success=(put_op(own, encode(turn), lease), *reads),
        failure=(get_op(own), *reads),
        read=lambda answer: _line(answer, own),
    )


def look(keys: Keys, name: str, own: bytes) -> Transaction[Line]:
    """The same line, unchanged."""
    return Transaction(
        compare=(),
        success=(get_op(own), get_prefix_op(keys.line(name)), get_op(keys.completed(name))),
        failure=(),
        read=lambda answer: _line(answer, own),
    )


def leave(own: bytes, token: int) -> Transaction[bool]:
    """Give the place up. False: it was gone before, or an earlier sending had done it."""
    return Transaction(
        compare=(compare_created(own, token),),
        success=(delete_op(own),),
        failure=(),
        read=lambda answer: answer.succeeded,
    )


def withdraw(own: bytes) -> Transaction[bool]:
    """The same for a place whose token nobody knows: nobody else ever has this key."""
    return Transaction(
        compare=(), success=(delete_op(own),), failure=(), read=lambda answer: answer.succeeded
    )


def complete(keys: Keys, own: bytes, token: int, completed: Completed, *, lease: int) -> Transaction[bool]:
    """The call returned. False: the key was not its own any more, so it counts for nothing."""
    key = keys.completed(completed.name)

    def read(answer: TxnResponse) -> bool:
        if answer.succeeded:
            return True
        there = see(first(answer, 0), Completed)
        return there is not None and there.record.nonce == completed.nonce

    return Transaction(
        compare=(compare_created(own, token),),
        success=(delete_op(own), put_op(key, encode(completed), lease)),
        failure=(get_op(key),),
        read=read,
    )


def _line(answer: TxnResponse, own: bytes) -> Line:
    found = sorted(kvs(answer, 1), key=lambda kv: kv.create_revision)
    stood = tuple(Stood(kv.key, int(kv.create_revision), _turn(kv)) for kv in found)
    ours = next((each for each in stood if each.key == own), None)
    return Line(int(answer.revision), stood, ours, see(first(answer, 2), Completed))


def _turn(kv: KeyValue) -> Turn | None:
    try:
        return decode(kv.value, Turn)
    except msgspec.DecodeError:
        return None
