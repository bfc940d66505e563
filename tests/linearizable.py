"""Was there one moment for each operation, within its call, in whose order all answers are right?

Place in the house   tests -> linearizable
Takes                the operations on one key, as their callers saw them: begin, end, answer
Gives                None, or a Stuck that says how far an order could be found and what fits nowhere
Never                runs anything, reads a clock, or knows HTTP

The search is Wing and Gong's with Lowe's memory of where it has been: next in the order may be any operation
that began before any of those still to come has ended. An operation whose outcome is unknown may have its
moment at any time after it began, or never. What definitely did not happen does not belong in the record.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import assert_never


@dataclass(frozen=True, slots=True)
class Put:
    value: str


@dataclass(frozen=True, slots=True)
class Delete:
    """`deleted`: whether there was something; None if the outcome is unknown."""

    deleted: bool | None = None


@dataclass(frozen=True, slots=True)
class Swap:
    """Put `value` if the key holds `expected`. `found`: what it held, known when it was not that."""

    expected: str | None
    value: str
    succeeded: bool | None = None
    found: str | None = None


@dataclass(frozen=True, slots=True)
class Read:
    found: str | None


Action = Put | Delete | Swap | Read


@dataclass(frozen=True, slots=True)
class Operation:
    """`end` is infinite if the caller never learned the outcome."""

    action: Action
    begin: float
    end: float = inf

    @property
    def is_known(self) -> bool:
        return self.end < inf


Held = str | None | object  # the object is IMPOSSIBLE or NONE_OWED


@dataclass(frozen=True, slots=True)
class Stuck:
    """The longest order that was found, what the key held after it, and what could not be next."""

    placed: int
    holds: Held
    candidates: tuple[Operation, ...]


IMPOSSIBLE = object()
NONE_OWED = object()
UNSEEN = "a value that nobody saw"
Config = tuple[int, int, int, Held, Held]


def check(operations: Sequence[Operation]) -> Stuck | None:
    """None if the operations are linearizable; the key holds nothing before the first."""
    return _Search(operations).run()


def after(action: Action, holds: Held, *, known: bool) -> Held:
    """What the key holds after `action`; IMPOSSIBLE if its answer cannot be right where `holds` is held."""
    match action:
        case Put(value):
            return value
        case Delete(deleted):
            return IMPOSSIBLE if known and deleted is not (holds is not None) else None
        case Swap(expected, value, succeeded, found):
            fits = holds == expected
            if known and (succeeded is not fits or not (fits or holds == found)):
                return IMPOSSIBLE
            return value if fits else holds
        case Read(found):
            return holds if holds == found else IMPOSSIBLE
        case never:
            assert_never(never)


class _Search:
    """`known` operations must all find a place, `unknown` ones may.

    An order that needs the fewest unknown ones has each of them right before an operation that would have
    gone otherwise without it: else it could be left out. No other places, of which there are too many, are
    tried.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        by_begin = sorted(operations, key=lambda operation: operation.begin)
        self._known = [each for each in by_begin if each.is_known]
        seen = set(_seen(by_begin))
        unknown = [each for each in by_begin if not each.is_known and not isinstance(each.action, Read)]
        self._unknown = [_plain(each, seen) for each in unknown]
        self._expected = {each.action.expected for each in self._unknown if isinstance(each.action, Swap)}

    def run(self) -> Stuck | None:
        # A configuration: all known operations before `low` are placed, and of those from it on the ones in
        # the bits of `beyond`; of the unknown ones those in `maybe`; and then the key holds `holds`. If an
        # unknown one came last, `without` it the key would hold that, and the next must make a difference.
        start: Config = (0, 0, 0, None, NONE_OWED)
        been = {start}
        ways = [self._next(start)]
        stuck = self._stuck(start)
        while ways:
            config = next(ways[-1], None)
            if config is None:
                ways.pop()
            elif config not in been:
                been.add(config)
                found = self._stuck(config)
                if found.placed > stuck.placed:
                    stuck = found
                if found.placed == len(self._known):
                    return None
                ways.append(self._next(config))
        return stuck if self._known else None

    def _stuck(self, config: Config) -> Stuck:
        low, beyond, _, holds, _ = config
        candidates = tuple(self._known[at] for at in self._candidates(low, beyond))
        return Stuck(low + beyond.bit_count(), holds, candidates)

    def _candidates(self, low: int, beyond: int) -> Iterator[int]:
        """The known operations that may be next: begun before any that is still to come has ended."""
        first_end = inf
        for at in range(low, len(self._known)):
            if self._known[at].begin > first_end:
                return
            if not beyond >> (at - low) & 1:
                first_end = min(first_end, self._known[at].end)
                yield at

    def _next(self, config: Config) -> Iterator[Config]:
        low, beyond, maybe, holds, without = config
        candidates = list(self._candidates(low, beyond))
        for at in candidates:
            then = _after(self._known[at], holds)
            if then is not IMPOSSIBLE and then != _after(self._known[at], without):
                yield (*_placed(low, beyond, at), maybe, then, NONE_OWED)
        first_end = min((self._known[at].end for at in candidates), default=inf)
        alike = set()
        for at, operation in enumerate(self._unknown):
            if operation.begin > first_end:
                return
            if maybe >> at & 1 or operation.action in alike:
                continue  # of those alike the earliest will do
            alike.add(operation.action)
            then = _after(operation, holds)
            if then == holds or then == _after(operation, without):
                continue
            if then in self._expected or any(self._differs(each, then, holds) for each in candidates):
                yield low, beyond, maybe | 1 << at, then, holds

    def _differs(self, at: int, here: Held, there: Held) -> bool:
        then = _after(self._known[at], here)
        return then is not IMPOSSIBLE and then != _after(self._known[at], there)


def _after(operation: Operation, holds: Held) -> Held:
    return NONE_OWED if holds is NONE_OWED else after(operation.action, holds, known=operation.is_known)


def _placed(low: int, beyond: int, at: int) -> tuple[int, int]:
    beyond |= 1 << (at - low)
    while beyond & 1:
        low, beyond = low + 1, beyond >> 1
    return low, beyond


def _seen(operations: Sequence[Operation]) -> Iterator[str | None]:
    """What answers, or swaps of unknown outcome, speak of."""
    for operation in operations:
        match operation.action:
            case Read(found):
                yield found
            case Swap(expected, _, _, found):
                yield expected
                yield found


def _plain(operation: Operation, seen: set[str | None]) -> Operation:
    """Values that nobody speaks of are alike."""
    match operation.action:
        case Put(value) if value not in seen:
            return replace(operation, action=Put(UNSEEN))
        case Swap(expected, value) if value not in seen:
            return replace(operation, action=Swap(expected, UNSEEN))
        case _:
            return operation
