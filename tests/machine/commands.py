"""Strategies for commands: few keys, few leases, small revisions, so that everything meets everything."""

from hypothesis import strategies as st

from jobguard_store.machine.commands import (
    Compact,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    ExpireLease,
    GrantLease,
    Put,
    Range,
    RevokeLease,
    SortOrder,
    SortTarget,
    Txn,
)

TERM = 3

keys = st.sampled_from([b"a", b"a\0", b"ab", b"b", b"c", b"\xff"])
range_ends = st.sampled_from([b"\0", b"", b"b", b"c", b"d", b"\0"])
values = st.sampled_from([b"", b"1", b"2", b"\x00\xff"])
leases = st.sampled_from([0, 1, 2, 0, 1, 2, -7])
revisions = st.integers(min_value=-1, max_value=25)
bounds = st.sampled_from([0, 0, 0, 0, 0, 0, 0, 3, 5])

puts = st.builds(
    Put,
    key=keys,
    value=values,
    lease=leases,
    prev_kv=st.booleans(),
    ignore_value=st.sampled_from([False, False, False, False, True]),
    ignore_lease=st.sampled_from([False, False, False, False, True]),
)
deletes = st.builds(DeleteRange, key=keys, range_end=range_ends, prev_kv=st.booleans())
ranges = st.builds(
    Range,
    key=keys,
    range_end=range_ends,
    limit=st.integers(min_value=-1, max_value=4),
    revision=st.one_of(st.just(0), st.just(0), st.just(0), revisions),
    sort_order=st.sampled_from(SortOrder),
    sort_target=st.sampled_from(SortTarget),
    keys_only=st.booleans(),
    count_only=st.sampled_from([False, False, False, True]),
    min_mod_revision=bounds,
    max_mod_revision=bounds,
    min_create_revision=bounds,
    max_create_revision=bounds,
)
compares = st.builds(
    Compare,
    key=keys,
    range_end=range_ends,
    target=st.sampled_from(CompareTarget),
    result=st.sampled_from(CompareResult),
    number=st.integers(min_value=0, max_value=6),
    value=values,
)


def txns_of(ops: st.SearchStrategy[Range | Put | DeleteRange | Txn]) -> st.SearchStrategy[Txn]:
    branch = st.lists(ops, max_size=3).map(tuple)
    return st.builds(Txn, compare=st.lists(compares, max_size=2).map(tuple), success=branch, failure=branch)


simple_ops = st.one_of(puts, puts, deletes, ranges)
flat_txns = txns_of(simple_ops)
txns = txns_of(st.one_of(simple_ops, flat_txns))

commands = st.one_of(
    puts,
    puts,
    deletes,
    ranges,
    txns,
    st.builds(GrantLease, id=st.sampled_from([1, 2, -7, 0]), ttl=st.sampled_from([2, 60, 9_000_000_001])),
    st.builds(RevokeLease, id=st.sampled_from([1, 2, -7])),
    st.builds(ExpireLease, id=st.sampled_from([1, 2, -7]), term=st.sampled_from([TERM, TERM - 1])),
    st.builds(Compact, revision=revisions),
)

# Most histories start with something there: keys on leases and off, changed and unchanged.
PRELUDE = [
    GrantLease(1, 60),
    Put(b"c", b"1", lease=1),
    Put(b"a", b"2", lease=1),
    GrantLease(2, 60),
    Put(b"b", b"1", lease=2),
    Put(b"ab", b"0"),
    Put(b"a", b"", lease=1),
]
histories = st.builds(
    list.__add__,
    st.sampled_from([PRELUDE, PRELUDE, PRELUDE, []]),
    st.lists(commands, min_size=1, max_size=25),
)
