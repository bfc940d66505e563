"""What a range finds, and the order of its steps: fetch, filter, sort, cut, strip."""

import pytest

from jobguard_store.errors import Compacted, FutureRevision
from jobguard_store.machine.commands import Compact, Put, Range, SortOrder, SortTarget
from jobguard_store.machine.results import HistoricRange, Record
from tests.machine.started import Started

ALL = (b"\0", b"\0")


@pytest.mark.parametrize(
    ("key", "range_end", "found"),
    [
        (b"b", b"", ["b"]),
        (b"x", b"", []),
        (b"b", b"\0", ["b", "ba", "c"]),
        (b"a", b"c", ["a", "b", "ba"]),
        (b"b", b"c", ["b", "ba"]),
        (b"c", b"a", []),
        (b"b", b"b", []),
        (b"\0", b"\0", ["a", "b", "ba", "c"]),
    ],
)
def test_intervals(store: Started, key: bytes, range_end: bytes, found: list[str]) -> None:
    store.put("c", "a", "ba", "b")
    assert store.keys(Range(key, range_end)) == found
    assert store.range(Range(key, range_end)).count == len(found)
    assert store.range(Range(key, range_end, count_only=True)).count == len(found)


def test_keys_are_ordered_as_bytes(store: Started) -> None:
    for key in (b"\xff", b"a\xff", b"a", b"a\x00", b"B"):
        store.do(Put(key))
    assert [record.key for record in store.range(Range(*ALL)).kvs] == [
        b"B",
        b"a",
        b"a\x00",
        b"a\xff",
        b"\xff",
    ]


def test_a_limit_says_more_only_if_it_cut_something_and_count_ignores_it(store: Started) -> None:
    store.put("a", "b", "c")
    two, three = store.range(Range(*ALL, limit=2)), store.range(Range(*ALL, limit=3))
    assert ([record.key for record in two.kvs], two.more, two.count) == ([b"a", b"b"], True, 3)
    assert (len(three.kvs), three.more, three.count) == (3, False, 3)
    assert len(store.range(Range(*ALL, limit=-1)).kvs) == 3


def test_count_only_brings_no_pairs_and_never_more(store: Started) -> None:
    store.put("a", "b")
    counted = store.range(Range(*ALL, count_only=True, limit=1))
    assert (list(counted.kvs), counted.count, counted.more) == ([], 2, False)


def test_keys_only_strips_the_value_after_sorting_by_it(store: Started) -> None:
    store.do(Put(b"a", b"2"))
    store.do(Put(b"b", b"1"))
    asked = Range(*ALL, keys_only=True, sort_order=SortOrder.ASCEND, sort_target=SortTarget.VALUE)
    assert [(record.key, record.value) for record in store.range(asked).kvs] == [(b"b", b""), (b"a", b"")]


@pytest.mark.parametrize(
    ("target", "ascending"),
    [
        (SortTarget.KEY, ["a", "b", "c"]),
        (SortTarget.VERSION, ["b", "c", "a"]),
        (SortTarget.CREATE, ["c", "a", "b"]),
        (SortTarget.MOD, ["c", "b", "a"]),
        (SortTarget.VALUE, ["c", "a", "b"]),
    ],
)
def test_sorting(store: Started, target: SortTarget, ascending: list[str]) -> None:
    for key, value in ((b"c", b"1"), (b"a", b"9"), (b"b", b"3"), (b"a", b"2")):
        store.do(Put(key, value))
    up = Range(*ALL, sort_order=SortOrder.ASCEND, sort_target=target)
    down = Range(*ALL, sort_order=SortOrder.DESCEND, sort_target=target, limit=2)
    assert store.keys(up) == ascending
    if target is not SortTarget.VERSION:  # b and c tie there: ties keep the order of keys, both ways
        assert store.keys(down) == ascending[:0:-1]


def test_a_target_without_an_order_sorts_what_the_limit_left_as_etcd_does(store: Started) -> None:
    """The limit (and the one pair more that tells `more`) cuts in key order first."""
    for key, value in ((b"a", b"3"), (b"b", b"2"), (b"c", b"1")):
        store.do(Put(key, value))
    assert store.keys(Range(*ALL, sort_target=SortTarget.VALUE, limit=1)) == ["b"]
    ordered = Range(*ALL, sort_target=SortTarget.VALUE, sort_order=SortOrder.ASCEND, limit=1)
    assert store.keys(ordered) == ["c"]


def test_filters_by_revision_come_before_the_limit_and_after_the_count(store: Started) -> None:
    store.put("a", "b", "c", "a")  # a: created 2, modified 5
    modified = store.range(Range(*ALL, min_mod_revision=4, limit=1))
    assert ([record.key for record in modified.kvs], modified.count, modified.more) == ([b"a"], 3, True)
    assert store.keys(Range(*ALL, max_mod_revision=4)) == ["b", "c"]
    assert store.keys(Range(*ALL, min_create_revision=3)) == ["b", "c"]
    assert store.keys(Range(*ALL, max_create_revision=3, min_create_revision=3)) == ["b"]


def test_an_older_revision_is_history(store: Started) -> None:
    store.put("a", "b", "c")
    asked = Range(b"a", revision=3)
    assert store.machine.range(asked) == HistoricRange(revision=4, request=asked, at=3)
    assert store.keys(Range(*ALL, revision=4)) == ["a", "b", "c"]
    assert store.keys(Range(*ALL, revision=-3)) == ["a", "b", "c"]


def test_a_revision_to_come_and_a_compacted_one_are_refused(store: Started) -> None:
    store.put("a", "b", "c")
    store.do(Compact(3))
    with pytest.raises(FutureRevision):
        store.machine.range(Range(b"a", revision=5))
    with pytest.raises(Compacted) as refused:
        store.machine.range(Range(b"a", revision=2))
    assert refused.value.compact_revision == 3
    assert isinstance(store.machine.range(Range(b"a", revision=3)), HistoricRange)


def test_reading_a_great_many_keys_hands_out_the_records_themselves(store: Started) -> None:
    for number in range(1000):
        store.do(Put(b"%04d" % number, b"v"))
    one, other = store.range(Range(*ALL)).kvs, store.range(Range(*ALL)).kvs
    assert all(first is second for first, second in zip(one, other, strict=True))


class Looked(dict[bytes, Record]):
    """Records that count how often one of them is looked at."""

    looks = 0

    def __getitem__(self, key: bytes) -> Record:
        self.looks += 1
        return super().__getitem__(key)


@pytest.mark.parametrize(
    ("order", "target", "first"),
    [
        (SortOrder.NONE, SortTarget.KEY, 0),
        (SortOrder.ASCEND, SortTarget.KEY, 0),
        (SortOrder.DESCEND, SortTarget.KEY, 999),
        (SortOrder.NONE, SortTarget.MOD, 0),
    ],
)
def test_a_limit_in_key_order_costs_the_limit_and_not_the_keyspace(
    store: Started, order: SortOrder, target: SortTarget, first: int
) -> None:
    store.put(*(f"{number:03d}" for number in range(1000)))
    keys = store.machine.keys
    looked = keys._records = Looked(keys._records)
    result = store.range(Range(*ALL, limit=5, sort_order=order, sort_target=target))
    assert [int(record.key) for record in result.kvs] == [abs(first - number) for number in range(5)]
    assert (result.count, result.more) == (1000, True)
    assert looked.looks == 6
    everything = Range(*ALL, limit=1000, sort_order=order, sort_target=target)
    assert not store.range(everything).more
