"""The judge judged: it refuses what must not be, and agrees with trying every order there is."""

from collections.abc import Iterator
from itertools import combinations, permutations
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.linearizable import IMPOSSIBLE, Action, Delete, Held, Operation, Put, Read, Swap, after, check


def op(begin: float, end: float, action: Action) -> Operation:
    return Operation(action, begin, end)


def unknown(begin: float, action: Action) -> Operation:
    return Operation(action, begin)


GOOD = {
    "nothing": [],
    "one after the other": [
        op(0, 1, Put("a")),
        op(2, 3, Read("a")),
        op(4, 5, Delete(True)),
        op(6, 7, Read(None)),
    ],
    "a read during a write sees it": [op(0, 9, Put("a")), op(1, 2, Read("a"))],
    "or does not": [op(0, 9, Put("a")), op(1, 2, Read(None))],
    "two writes at once, either may win": [op(0, 9, Put("a")), op(0, 9, Put("b")), op(10, 11, Read("a"))],
    "one of two swaps": [
        op(0, 1, Put("a")),
        op(2, 9, Swap("a", "b", True)),
        op(2, 9, Swap("a", "c", False, "b")),
    ],
    "an unknown write is seen much later": [
        unknown(0, Put("a")),
        op(1, 2, Read(None)),
        op(3, 4, Put("b")),
        op(5, 6, Read("b")),
        op(7, 8, Read("a")),
    ],
    "or never": [unknown(0, Put("a")), op(1, 2, Read(None))],
    "an unknown swap happens when it can": [
        unknown(0, Swap("a", "b")),
        op(1, 2, Read(None)),
        op(3, 4, Put("a")),
        op(5, 6, Read("b")),
    ],
    "an unknown delete": [
        op(0, 1, Put("a")),
        unknown(2, Delete()),
        op(3, 4, Read("a")),
        op(5, 6, Read(None)),
    ],
    "a delete of nothing": [op(0, 1, Delete(False)), op(2, 3, Put("a")), op(4, 5, Delete(True))],
}

BAD = {
    "a stale read": [op(0, 1, Put("a")), op(2, 3, Put("b")), op(4, 5, Read("a"))],
    "a lost write": [op(0, 1, Put("a")), op(2, 3, Read(None))],
    "a value from nowhere": [op(0, 1, Read("a"))],
    "a write seen before it was begun": [op(0, 1, Read("a")), op(2, 3, Put("a"))],
    "a value seen, and then not yet": [op(0, 9, Put("a")), op(1, 2, Read("a")), op(3, 4, Read(None))],
    "two readers, two orders": [
        op(0, 9, Put("a")),
        op(0, 9, Put("b")),
        op(1, 2, Read("a")),
        op(3, 4, Read("b")),
        op(5, 6, Read("a")),
    ],
    "two swaps of one value": [
        op(0, 1, Put("a")),
        op(2, 9, Swap("a", "b", True)),
        op(2, 9, Swap("a", "c", True)),
    ],
    "a swap refused for no reason": [op(0, 1, Put("a")), op(2, 3, Swap("a", "b", False, "a"))],
    "a swap that names what was not there": [op(0, 1, Put("a")), op(2, 3, Swap("b", "c", False, None))],
    "an unknown write that happened twice": [
        unknown(0, Put("a")),
        op(1, 2, Read("a")),
        op(3, 4, Put("b")),
        op(5, 6, Read("b")),
        op(7, 8, Read("a")),
    ],
    "an unknown write seen before it was begun": [op(0, 1, Read("a")), unknown(2, Put("a"))],
    "a delete that found what was gone": [op(0, 1, Put("a")), op(2, 3, Delete(True)), op(4, 5, Delete(True))],
    "a delete undone": [op(0, 1, Put("a")), op(2, 3, Delete(True)), op(4, 5, Read("a"))],
}


@pytest.mark.parametrize("name", GOOD)
def test_what_can_be_is_accepted(name: str) -> None:
    assert check(GOOD[name]) is None


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_refused(name: str) -> None:
    stuck = check(BAD[name])
    assert stuck is not None
    assert stuck.placed < len(BAD[name])


def test_the_refusal_says_what_fits_nowhere() -> None:
    stale = op(4, 5, Read("a"))
    stuck = check([op(0, 1, Put("a")), op(2, 3, Put("b")), stale])
    assert stuck is not None
    assert (stuck.placed, stuck.holds, stuck.candidates) == (2, "b", (stale,))


def test_a_long_record_with_many_unknown_writes_is_judged_at_once() -> None:
    record = []
    for number in range(1000):
        at = 10.0 * number
        record += [
            op(at, at + 15, Put(f"{number}")),
            unknown(at, Put(f"lost {number}")),
            unknown(at, Delete()),
        ]
        if number % 7 == 0:
            record.append(op(at + 16, at + 17, Read(f"lost {number}")))
    assert check(record) is None
    assert check([*record, op(9000, 9001, Read("0"))]) is not None


values = st.sampled_from(["a", "b", "c"])
seen = st.none() | values
actions = st.one_of(
    st.builds(Put, values),
    st.builds(Delete, st.booleans()),
    st.builds(Swap, seen, values, st.booleans(), seen),
    st.builds(Read, seen),
)
operations = st.builds(
    lambda action, begin, length: Operation(action, begin, begin + length),
    actions,
    st.integers(0, 8),
    st.integers(1, 5) | st.just(inf),
)


@settings(max_examples=1000, deadline=None)
@given(st.lists(operations, max_size=5))
def test_it_agrees_with_trying_every_order(record: list[Operation]) -> None:
    assert (check(record) is None) is any(is_right(order) for order in orders(record))


def orders(record: list[Operation]) -> Iterator[tuple[Operation, ...]]:
    known = [each for each in record if each.is_known]
    others = [each for each in record if not each.is_known and not isinstance(each.action, Read)]
    for count in range(len(others) + 1):
        for some in combinations(others, count):
            yield from permutations([*known, *some])


def is_right(order: tuple[Operation, ...]) -> bool:
    if any(later.end < each.begin for at, each in enumerate(order) for later in order[at + 1 :]):
        return False
    holds: Held = None
    for each in order:
        then = after(each.action, holds, known=each.is_known)
        if then is IMPOSSIBLE:
            return False
        holds = then
    return True
