"""Lease time on the leader, by a clock that the test moves."""

from jobguard_store.lessor import EXPIRIES_PER_TICK_MAX, Lessor
from jobguard_store.machine.commands import ExpireLease, GrantLease, RevokeLease
from jobguard_store.machine.results import Applied, ExpireResult, GrantResult, RevokeResult, Rows
from jobguard_store.peer_messages import REFUSED, Ask, Question

NOTHING = Rows(revision=1)


def grant(lessor: Lessor, lease: int, ttl: int, now: float) -> None:
    lessor.applied(GrantLease(lease, ttl), Applied(GrantResult(1, lease, ttl), 1, NOTHING), now)


def expire(lessor: Lessor, lease: int, *, expired: bool = True) -> None:
    lessor.applied(ExpireLease(lease, 1), Applied(ExpireResult(1, expired), 1, NOTHING), 0.0)


def test_never_early_and_named_once() -> None:
    lessor = Lessor()
    lessor.start(1, [], now=100.0)
    grant(lessor, 7, 5, now=100.0)
    assert lessor.expired(104.999) == []
    assert lessor.expired(105.0) == [7]
    assert lessor.expired(106.0) == []


def test_a_renewal_begins_the_ttl_again() -> None:
    lessor = Lessor()
    lessor.start(1, [(7, 5)], now=100.0)
    assert lessor.renew(7, 104.0) == 5
    assert lessor.remaining(7, 104.5) == (4, 5)
    assert lessor.expired(105.0) == []
    assert lessor.expired(109.0) == [7]


def test_what_has_run_out_is_not_renewed_even_before_it_was_noticed() -> None:
    lessor = Lessor()
    lessor.start(1, [(7, 5)], now=100.0)
    assert lessor.renew(7, 105.0) == 0
    assert lessor.remaining(7, 106.0) == (0, 5)
    assert lessor.expired(106.0) == [7]


def test_gone_is_gone_and_may_be_granted_anew() -> None:
    lessor = Lessor()
    lessor.start(1, [(7, 5), (8, 5)], now=100.0)
    assert sorted(lessor.expired(105.0)) == [7, 8]
    expire(lessor, 7)
    lessor.applied(RevokeLease(8), Applied(RevokeResult(1), 1, NOTHING), 105.0)
    assert lessor.renew(7, 105.0) == 0
    assert lessor.remaining(8, 105.0) == (-1, 0)
    grant(lessor, 7, 3, now=106.0)
    assert lessor.renew(7, 107.0) == 3
    assert lessor.expired(110.0) == [7]


def test_an_expiry_of_another_term_leaves_it_alone() -> None:
    lessor = Lessor()
    lessor.start(2, [(7, 5)], now=100.0)
    expire(lessor, 7, expired=False)
    assert lessor.renew(7, 101.0) == 5


def test_a_new_leader_starts_every_ttl_again() -> None:
    lessor = Lessor()
    lessor.start(1, [(7, 5)], now=100.0)
    lessor.stop()
    assert lessor.term == 0
    lessor.start(3, [(7, 5)], now=104.0)
    assert lessor.expired(108.9) == []
    assert lessor.expired(109.0) == [7]


def test_ten_thousand_at_once_come_in_portions() -> None:
    lessor = Lessor()
    lessor.start(1, [(lease, 5) for lease in range(1, 10_001)], now=0.0)
    seen: list[int] = []
    ticks = 0
    while portion := lessor.expired(5.0):
        assert len(portion) <= EXPIRIES_PER_TICK_MAX
        seen += portion
        ticks += 1
    assert sorted(seen) == list(range(1, 10_001))
    assert ticks == 10_000 / EXPIRIES_PER_TICK_MAX


def test_only_who_counts_answers() -> None:
    lessor = Lessor()
    renew = Ask(sender=2, to=1, context=9, question=Question.RENEW, lease_id=7)
    assert lessor.answer(renew, 40, 0.0).index == REFUSED
    lessor.start(1, [(7, 5)], now=0.0)
    told = lessor.answer(renew, 40, 1.0)
    assert (told.sender, told.to, told.context, told.index, told.granted) == (1, 2, 9, 40, 5)
    asked = Ask(sender=2, to=1, context=10, question=Question.REMAINING, lease_id=7)
    assert lessor.answer(asked, 40, 3.5).remaining == 2
    barrier = Ask(sender=2, to=1, context=11, question=Question.BARRIER)
    assert lessor.answer(barrier, 41, 3.5).index == 41
