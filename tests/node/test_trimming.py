"""How much of the log stays: some for peers that lag, never more than memory bears."""

from jobguard_store import trimming
from jobguard_store.raft.messages import Entry, EntryKind
from jobguard_store.trimming import Trimming

ALL = 1 << 60


def entries(first: int, last: int, size: int = 0) -> list[Entry]:
    return [Entry(index, 1, EntryKind.NORMAL, bytes(size)) for index in range(first, last + 1)]


def one_by_one(trimming: Trimming, first: int, last: int, size: int = 0) -> None:
    for entry in entries(first, last, size):
        trimming.applied([entry])


def test_half_of_the_count_stays() -> None:
    trimming = Trimming(10, 0, entries(1, 5))
    one_by_one(trimming, 6, 10)
    assert trimming.take(10, ALL) is None
    one_by_one(trimming, 11, 11)
    assert trimming.take(11, ALL) == 6
    assert trimming.take(11, ALL) is None
    one_by_one(trimming, 12, 17)
    assert trimming.take(17, ALL) == 12


def test_only_what_the_file_holds_applied_goes() -> None:
    trimming = Trimming(10, 0, [])
    one_by_one(trimming, 1, 100)
    assert trimming.take(9, ALL) is None
    assert trimming.take(20, ALL) == 15
    assert trimming.take(20, ALL) is None


def test_a_peer_that_catches_up_holds_it_up_but_not_for_ever() -> None:
    trimming = Trimming(10, 0, [])
    one_by_one(trimming, 1, 30)
    assert trimming.take(30, 3) == 3
    assert trimming.take(30, 3) is None
    one_by_one(trimming, 31, 170, 1 << 20)
    goal = trimming.take(170, 3)
    assert goal is not None
    assert 30 < goal < 170, "as much as memory bears, and no more"


def test_large_entries_go_sooner() -> None:
    heavy = Trimming(1000, 0, [])
    size = 1 << 20
    one_by_one(heavy, 1, 60, size)
    assert heavy.take(60, ALL) is None
    one_by_one(heavy, 61, 70, size)
    kept = trimming.WEIGHT_KEPT // (size + trimming.ENTRY_WEIGHT)
    assert heavy.take(70, ALL) == 70 - kept - 1


def test_a_state_in_the_logs_place_begins_anew() -> None:
    trimming = Trimming(10, 0, entries(1, 9))
    trimming.begin(1000)
    one_by_one(trimming, 1001, 1010)
    assert trimming.take(1010, ALL) is None
    one_by_one(trimming, 1011, 1011)
    assert trimming.take(1011, ALL) == 1006
