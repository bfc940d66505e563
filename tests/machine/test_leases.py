"""Leases in the machine: ids, keys, and their end. Time is not here."""

from jobguard_store.errors import LeaseExists, LeaseNotFound, LeaseTTLTooLarge
from jobguard_store.machine.commands import DeleteRange, ExpireLease, GrantLease, Put, RevokeLease, Txn
from jobguard_store.machine.results import ExpireResult, GrantResult, RevokeResult
from tests.machine.started import TERM, Started


def test_a_grant_takes_no_revision(store: Started) -> None:
    assert store.do(GrantLease(7, 60)) == GrantResult(revision=1, id=7, ttl=60)
    assert (store.machine.lease_ids(), store.machine.lease_ttl(7)) == ([7], 60)
    assert store.machine.lease_ttl(8) is None


def test_an_id_in_use_is_refused_until_it_is_free(store: Started) -> None:
    store.do(GrantLease(7, 60))
    assert store.refusal(GrantLease(7, 30)) is LeaseExists
    store.do(RevokeLease(7))
    assert store.do(GrantLease(7, 30)).ttl == 30


def test_a_ttl_beyond_etcds_limit_and_the_id_0_are_refused(store: Started) -> None:
    assert store.refusal(GrantLease(7, 9_000_000_001)) is LeaseTTLTooLarge
    assert store.refusal(GrantLease(0, 60)) is LeaseNotFound


def test_a_key_hangs_on_one_lease_at_most(store: Started) -> None:
    store.do(GrantLease(1, 60))
    store.do(GrantLease(2, 60))
    store.put("k", lease=1)
    assert store.machine.lease_keys(1) == [b"k"]
    store.put("k", lease=2)
    assert (store.machine.lease_keys(1), store.machine.lease_keys(2)) == ([], [b"k"])
    store.put("k")
    assert store.machine.lease_keys(2) == []


def test_a_deleted_key_is_off_its_lease_which_lives_on(store: Started) -> None:
    store.do(GrantLease(1, 60))
    store.put("k", lease=1)
    store.do(DeleteRange(b"k"))
    assert (store.machine.lease_keys(1), store.machine.lease_ids()) == ([], [1])
    store.put("k")
    store.do(RevokeLease(1))
    assert store.get(b"k") is not None


def test_revoking_deletes_the_keys_sorted_in_one_revision(store: Started) -> None:
    store.do(GrantLease(1, 60))
    store.put("c", "a", "b", lease=1)
    store.put("stays")
    applied = store.apply(RevokeLease(1))
    assert applied.result == RevokeResult(revision=6)
    assert [(event.record.key, event.revision) for event in applied.events] == [
        (b"a", 6),
        (b"b", 6),
        (b"c", 6),
    ]
    assert applied.rows.leases == ((1, 0),)
    assert store.get(b"stays") is not None


def test_revoking_a_lease_without_keys_takes_no_revision(store: Started) -> None:
    store.do(GrantLease(1, 60))
    assert store.do(RevokeLease(1)) == RevokeResult(revision=1)
    assert store.refusal(RevokeLease(1)) is LeaseNotFound


def test_an_expiry_counts_only_in_the_term_that_proposed_it(store: Started) -> None:
    """A paused leader's expiry, appended by its successor, must not end a lease the successor renewed."""
    store.do(GrantLease(1, 60))
    store.put("k", lease=1)
    late = store.apply(ExpireLease(1, term=TERM - 1))
    assert late.result == ExpireResult(revision=2, expired=False)
    assert (late.events, store.machine.lease_ids()) == ((), [1])
    assert store.do(ExpireLease(1, term=TERM)) == ExpireResult(revision=3, expired=True)
    assert (store.get(b"k"), store.machine.lease_ids()) == (None, [])
    assert store.refusal(ExpireLease(1, term=TERM)) is LeaseNotFound


def test_a_txn_attaches_and_detaches_like_its_operations_alone(store: Started) -> None:
    store.do(GrantLease(1, 60))
    store.do(Txn(success=(Put(b"a", lease=1), Put(b"b", lease=1), DeleteRange(b"a"))))
    assert store.machine.lease_keys(1) == [b"b"]
