"""The life of a key: created, changed, deleted, created again."""

from jobguard_store.errors import KeyNotFound, LeaseNotFound
from jobguard_store.machine.commands import DeleteRange, GrantLease, Put
from jobguard_store.machine.results import ChangeEvent, ChangeKind, Record, tombstone
from tests.machine.started import Started


def test_a_fresh_store_is_at_revision_1_and_its_first_write_makes_2(store: Started) -> None:
    assert store.revision == 1
    assert store.do(Put(b"k")).revision == 2


def test_a_key_counts_its_versions_from_its_creation(store: Started) -> None:
    store.do(Put(b"k", b"a"))
    store.do(Put(b"other"))
    store.do(Put(b"k", b"b"))
    assert store.get(b"k") == Record(b"k", b"b", create_revision=2, mod_revision=4, version=2, lease=0)


def test_a_deleted_key_starts_again_at_version_1(store: Started) -> None:
    store.put("k", "k")
    store.do(DeleteRange(b"k"))
    store.do(Put(b"k"))
    assert store.get(b"k") == Record(b"k", b"", create_revision=5, mod_revision=5, version=1, lease=0)


def test_prev_kv_is_the_pair_before_the_put_and_absent_for_a_create(store: Started) -> None:
    assert store.do(Put(b"k", b"a", prev_kv=True)).prev is None
    assert store.do(Put(b"k", b"b", prev_kv=True)).prev.value == b"a"
    assert store.do(Put(b"k", b"c")).prev is None


def test_ignore_value_keeps_the_value_and_ignore_lease_the_lease(store: Started) -> None:
    store.do(GrantLease(7, 60))
    store.do(Put(b"k", b"a", lease=7))
    store.do(Put(b"k", b"b", ignore_lease=True))
    assert (store.record(b"k").value, store.record(b"k").lease) == (b"b", 7)
    store.do(Put(b"k", ignore_value=True))
    assert (store.record(b"k").value, store.record(b"k").lease) == (b"b", 0)


def test_ignoring_what_is_not_there_is_refused(store: Started) -> None:
    assert store.refusal(Put(b"k", ignore_value=True)) is KeyNotFound
    assert store.refusal(Put(b"k", ignore_lease=True)) is KeyNotFound


def test_a_put_on_an_unknown_lease_is_refused(store: Started) -> None:
    assert store.refusal(Put(b"k", lease=9)) is LeaseNotFound
    assert store.refusal(Put(b"k", lease=9, ignore_value=True)) is LeaseNotFound


def test_watchers_are_told_of_a_put_with_what_was_before(store: Started) -> None:
    (created,) = store.apply(Put(b"k", b"a")).events
    assert (created.kind, created.revision, created.previous) == (ChangeKind.PUT, 2, None)
    (changed,) = store.apply(Put(b"k", b"b")).events
    assert changed.previous == created.record


def test_a_delete_leaves_only_key_and_revision(store: Started) -> None:
    store.put("k")
    before = store.get(b"k")
    (event,) = store.apply(DeleteRange(b"k")).events
    assert event == ChangeEvent(tombstone(b"k", 3), before)
    assert event.kind is ChangeKind.DELETE
    assert store.get(b"k") is None


def test_all_deletions_of_one_call_share_a_revision_in_key_order(store: Started) -> None:
    store.put("b", "a", "c", "d")
    applied = store.apply(DeleteRange(b"a", b"d", prev_kv=True))
    assert (applied.result.deleted, applied.revision) == (3, 6)
    assert [event.record.key for event in applied.events] == [b"a", b"b", b"c"]
    assert [record.key for record in applied.result.prevs] == [b"a", b"b", b"c"]
    assert {event.revision for event in applied.events} == {6}


def test_deleting_nothing_takes_no_revision(store: Started) -> None:
    store.put("k")
    applied = store.apply(DeleteRange(b"x", b"z"))
    assert (applied.result.deleted, applied.revision, applied.events) == (0, 2, ())
