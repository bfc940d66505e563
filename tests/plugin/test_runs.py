"""The life of an occurrence on both stores: who may do what, once, and what a lost answer hides."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec
import pytest

from jobguard import planning, runs
from jobguard.client import Client
from jobguard.records import (
    Active,
    Attempt,
    Audit,
    Cursor,
    Done,
    Keys,
    Occurrence,
    Open,
    Record,
    Verdict,
    decode,
    encode,
    header,
    read_header,
    task_id,
)
from jobguard.runs import Claimed, Gone, Moved, Refusal, Refused, Written
from jobguard.steps import Deposed, Fence, Seen, Transaction, seen

T = TypeVar("T")
R = TypeVar("R", bound=Record)

TWO = datetime(2026, 11, 24, 2, tzinfo=UTC)


class World:
    """One namespace, with a leader and a worker's lease in it."""

    numbers = itertools.count()

    def __init__(self, client: Client) -> None:
        self.client = client
        self.keys = Keys(f"world {next(self.numbers)}")
        self.lease = client.grant(60).id
        self.client.put(self.keys.child(self.lease, "c1"), b"{}")
        self.fence = self.elect()
        self.occurrence = Occurrence("nightly/digest", TWO)
        self.cursor_mod = 0

    def elect(self) -> Fence:
        key = self.keys.key("elections", "beat", "x")
        self.client.delete(key)
        return Fence(key, self.client.put(key, b"leader").revision)

    def do(self, step: Transaction[T]) -> T:
        return step.read(self.client.txn(step.compare, step.success, step.failure))

    def do_twice(self, step: Transaction[T]) -> T:
        """Send it, lose the answer, and send it again: the second answer must say the same."""
        first = self.do(step)
        second = self.do(step)
        assert second == first
        return second

    def read(self, key: bytes, kind: type[R]) -> R | None:
        kv = self.client.get(key)
        return decode(kv.value, kind) if kv else None

    def exists(self, key: bytes) -> bool:
        return self.client.get(key) is not None

    # --- steps ---

    def plan(self, minute: int = 0, **facts: Any) -> Seen[Open]:
        record = Open(
            n=1, r=0, job=self.occurrence.job, nominal=TWO + timedelta(minutes=minute), task="t", **facts
        )
        cursor = Cursor(nominal=record.nominal, nonce=f"plan {minute}")
        outcome = self.do(planning.plan(self.keys, self.fence, cursor, self.cursor_mod, [record], []))
        assert isinstance(outcome, Written)
        self.cursor_mod = outcome.revision
        return Seen(record, outcome.revision, outcome.revision)

    def attempt(self, nonce: str, n: int = 1, r: int = 0, child: str = "c1") -> Attempt:
        return Attempt(n=n, r=r, host="h1", pid=7, nonce=nonce, since=TWO, child=child)

    def claim(
        self, nonce: str, n: int = 1, r: int = 0, minute: int = 0, overlap: str = "skip", child: str = "c1"
    ) -> Claimed | Refused:
        occurrence = Occurrence(self.occurrence.job, TWO + timedelta(minutes=minute))
        return self.do(
            runs.claim(
                self.keys, occurrence, self.attempt(nonce, n, r, child), lease=self.lease, overlap=overlap
            )
        )

    def claimed(self, nonce: str, **where: Any) -> Claimed:
        outcome = self.claim(nonce, **where)
        assert isinstance(outcome, Claimed), outcome
        return outcome

    def refused(self, nonce: str, **where: Any) -> Refused:
        outcome = self.claim(nonce, **where)
        assert isinstance(outcome, Refused), outcome
        return outcome

    def done(self, nonce: str = "n1", verdict: Verdict = Verdict.RAN, minute: int = 0) -> Done:
        nominal = TWO + timedelta(minutes=minute)
        return Done(job=self.occurrence.job, nominal=nominal, verdict=verdict, nonce=nonce, finished=TWO)

    def finish(self, claimed: Claimed, nonce: str = "n1", minute: int = 0) -> Written | Gone:
        occurrence = claimed.open.record.occurrence
        return self.do(
            runs.finish(self.keys, occurrence, token=claimed.token, done=self.done(nonce, minute=minute))
        )

    def open(self) -> Seen[Open]:
        kv = self.client.get(self.keys.open(self.occurrence))
        assert kv is not None
        return seen(kv, Open)


@pytest.fixture
def world(client: Client) -> World:
    return World(client)


# --- formats ---


def test_keys_hold_any_name_and_give_it_back() -> None:
    keys = Keys("my/space")
    occurrence = Occurrence('tasks.send("a/b") %2F ü', TWO + timedelta(microseconds=250_000))
    for key in (keys.open(occurrence), keys.active(occurrence), keys.attempt(occurrence, 12, 3)):
        assert keys.occurrence(key) == occurrence
    assert keys.attempt_of(keys.attempt(occurrence, 12, 3)) == (12, 3)
    assert keys.attempt_of(keys.attempt(occurrence, 1)) == (1, 0)
    assert keys.open(Occurrence("a", TWO)) == b"/jobguard/my%2Fspace/open/a/2026-11-24T02:00:00Z"


def test_an_open_record_begins_with_version_attempt_and_retry() -> None:
    """A claim compares these bytes; nothing may ever be put before or between them."""
    record = Open(n=3, r=2, job="a", nominal=TWO, task="t", published=5, lost=2)
    assert encode(record).startswith(b'{"v":1,"n":3,"r":2,"job":')


def test_a_record_of_an_unknown_version_is_not_guessed_at() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(b'{"v":2,"nominal":"2026-11-24T02:00:00Z","nonce":"x"}', Cursor)


def test_a_record_with_fields_of_later_code_is_read() -> None:
    assert decode(b'{"v":1,"nominal":"2026-11-24T02:00:00Z","nonce":"x","later":1}', Cursor).nonce == "x"


def test_the_header_survives_a_round_trip_and_foreign_ones_are_none() -> None:
    occurrence = Occurrence("a", TWO)
    read = read_header(header("ns", occurrence, 2, "allow"))
    assert read is not None
    assert (read.occurrence, read.n, read.ns, read.overlap) == (occurrence, 2, "ns", "allow")
    for foreign in (None, {}, "x", {"v": 2, "job": "a", "nominal": "2026-11-24T02:00:00Z", "n": 1}):
        assert read_header(foreign) is None
    assert read_header({"v": 1, "job": "a", "nominal": "yesterday", "n": 1}) is None


def test_task_ids_differ_by_namespace_job_time_and_dispatch_only() -> None:
    occurrence = Occurrence("a", TWO)
    ids = {
        task_id("x", occurrence, 1),
        task_id("y", occurrence, 1),
        task_id("x", occurrence, 2),
        task_id("x", Occurrence("b", TWO), 1),
        task_id("x", Occurrence("a", TWO + timedelta(seconds=1)), 1),
    }
    assert len(ids) == 5
    assert task_id("x", Occurrence("a", TWO), 1) in ids


# --- planning ---


def test_an_occurrence_is_planned_once_even_when_the_answer_was_lost(world: World) -> None:
    record = Open(n=1, r=0, job="j", nominal=TWO, task="t")
    step = planning.plan(world.keys, world.fence, Cursor(nominal=TWO, nonce="a"), 0, [record], [])
    assert isinstance(world.do_twice(step), Written)


def test_two_leaders_plan_it_once(world: World) -> None:
    world.plan()
    record = Open(n=1, r=0, job=world.occurrence.job, nominal=TWO, task="t")
    again = planning.plan(world.keys, world.fence, Cursor(nominal=TWO, nonce="other"), 0, [record], [])
    assert world.do(again) == Moved(Cursor(nominal=TWO, nonce="plan 0"))


def test_a_deposed_leader_plans_publishes_and_reopens_nothing(world: World) -> None:
    planned, old = world.plan(), world.fence
    world.elect()
    record = Open(n=1, r=0, job=world.occurrence.job, nominal=TWO + timedelta(minutes=1), task="t")
    cursor = Cursor(nominal=record.nominal, nonce="z")
    steps: list[Transaction[Any]] = [
        planning.plan(world.keys, old, cursor, world.cursor_mod, [record], []),
        planning.mark_published(world.keys, old, planned, TWO),
        planning.reopen(world.keys, old, planned, attempt=None, not_before=TWO),
        planning.close(world.keys, old, planned, world.done()),
    ]
    assert [world.do(step) for step in steps] == [Deposed()] * 4
    assert not world.do(planning.trim(world.keys, old, [world.occurrence]))
    assert world.open() == planned


def test_a_full_plan_fits_into_one_transaction(world: World) -> None:
    opens = [Open(n=1, r=0, job="j", nominal=TWO + timedelta(hours=i), task="t") for i in range(50)]
    dones = [world.done(minute=i + 1) for i in range(61)]
    cursor = Cursor(nominal=TWO, nonce="full")
    assert isinstance(world.do(planning.plan(world.keys, world.fence, cursor, 0, opens, dones)), Written)


# --- claiming ---


def test_the_first_delivery_runs_and_the_second_is_told_where(world: World) -> None:
    world.plan()
    claimed = world.claimed("n1")
    active = world.client.get(world.keys.active(world.occurrence))
    assert active is not None
    assert (active.create_revision, active.lease) == (claimed.token, world.lease)
    refused = world.refused("n2")
    assert refused.reason is Refusal.RUNNING
    assert (refused.text, refused.token) == ("already running on h1 pid 7", claimed.token)


def test_a_claim_whose_answer_was_lost_is_recognised(world: World) -> None:
    world.plan()
    step = runs.claim(world.keys, world.occurrence, world.attempt("n1"), lease=world.lease)
    assert isinstance(world.do_twice(step), Claimed)


def test_a_claim_that_won_and_lost_its_lease_meanwhile_is_not_a_claim(world: World) -> None:
    world.plan()
    claimed = world.claimed("n1")
    world.client.delete(world.keys.active(world.occurrence))
    refused = world.refused("n1")
    assert (refused.reason, refused.token) == (Refusal.CLAIMED, claimed.token)


def test_what_was_never_planned_does_not_run(world: World) -> None:
    assert world.refused("n1").reason is Refusal.UNKNOWN


def test_a_completed_occurrence_gives_its_record_to_a_late_delivery(world: World) -> None:
    world.plan()
    world.finish(world.claimed("n1"))
    refused = world.refused("n2")
    assert refused.reason is Refusal.DONE
    assert refused.done
    assert refused.done.verdict is Verdict.RAN


def test_a_child_given_up_by_its_parent_can_claim_no_more(world: World) -> None:
    world.plan()
    world.client.delete(world.keys.child(world.lease, "c1"))
    assert world.refused("n1").reason is Refusal.CHILD


@pytest.mark.parametrize("noted", [False, True])
def test_a_claim_does_not_care_what_the_leader_noted_meanwhile(world: World, noted: bool) -> None:
    opened = world.plan()
    if noted:
        world.do(planning.mark_published(world.keys, world.fence, opened, TWO))
    assert world.claimed("n1").open.record.published == int(noted)


def test_attempt_one_is_not_attempt_ten(world: World) -> None:
    """The compare is on bytes: 1 must not match 10."""
    opened = world.plan()
    for _ in range(9):
        world.do(planning.reopen(world.keys, world.fence, opened, attempt=None, not_before=TWO))
        opened = world.open()
    assert opened.record.n == 10
    assert world.refused("n1", n=1).reason is Refusal.SUPERSEDED
    world.claimed("n1", n=10)


# --- overlap ---


def test_another_occurrence_of_the_job_is_refused_and_told_who_runs(world: World) -> None:
    world.plan(0)
    world.plan(1)
    claimed = world.claimed("n1", minute=0)
    refused = world.refused("n2", minute=1)
    assert (refused.reason, refused.token) == (Refusal.OVERLAP, claimed.token)
    assert refused.text == "2026-11-24T02:00:00Z is running on h1 pid 7 since 2026-11-24T02:00:00Z"


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0)])
def test_overlap_is_refused_whichever_is_older(world: World, first: int, second: int) -> None:
    world.plan(0)
    world.plan(1)
    world.claimed("n1", minute=first)
    assert world.refused("n2", minute=second).reason is Refusal.OVERLAP


def test_with_allow_both_run(world: World) -> None:
    world.plan(0)
    world.plan(1)
    world.claimed("n1", minute=0, overlap="allow")
    world.claimed("n2", minute=1, overlap="allow")


def test_a_job_whose_name_begins_like_another_does_not_overlap_with_it(world: World) -> None:
    world.plan()
    world.claimed("n1")
    world.occurrence, world.cursor_mod = Occurrence(world.occurrence.job + "s", TWO), 0
    world.plan()
    world.claimed("n2")


def test_a_pending_retry_and_a_pending_rerun_count_as_running(world: World) -> None:
    world.plan(0)
    world.plan(1)
    claimed = world.claimed("n1")
    attempt = msgspec.structs.replace(world.attempt("n1"), outcome="retry", ended=TWO)
    world.do(runs.retry(world.keys, claimed.open, token=claimed.token, attempt=attempt, eta=TWO))
    assert world.refused("n2", minute=1).reason is Refusal.OVERLAP
    second = world.claimed("n3", r=1)
    world.client.delete(world.keys.active(world.occurrence))  # the lease lapsed
    assert world.refused("n2", minute=1).reason is Refusal.OVERLAP
    world.do(planning.reopen(world.keys, world.fence, world.open(), attempt=None, not_before=TWO))
    assert world.refused("n2", minute=1).reason is Refusal.OVERLAP
    assert isinstance(world.finish(second), Gone)
    world.finish(world.claimed("n4", n=2), "n4")
    world.claimed("n2", minute=1)


def test_a_skip_is_settled_once_with_its_reason(world: World) -> None:
    world.plan(0)
    world.plan(1)
    world.claimed("n1")
    second = Occurrence(world.occurrence.job, TWO + timedelta(minutes=1))
    done = world.done("n2", Verdict.SKIPPED, minute=1)
    assert isinstance(world.do_twice(runs.settle(world.keys, second, 1, 0, done)), Written)
    assert world.read(world.keys.done(second), Done) == done
    assert world.exists(world.keys.running(world.occurrence))


def test_what_runs_already_cannot_be_settled(world: World) -> None:
    world.plan()
    world.claimed("n1")
    done = world.done("n2", Verdict.EXPIRED)
    assert world.do(runs.settle(world.keys, world.occurrence, 1, 0, done)) == Moved(None)


# --- the end of a run ---


def test_it_completes_once(world: World) -> None:
    world.plan()
    claimed = world.claimed("n1")
    step = runs.finish(world.keys, world.occurrence, token=claimed.token, done=world.done())
    assert isinstance(world.do_twice(step), Written)
    for gone in (world.keys.open, world.keys.active, world.keys.running):
        assert not world.exists(gone(world.occurrence))


def test_a_late_holder_cannot_complete(world: World) -> None:
    """Its lease lapsed, attempt 2 runs: the first one's token is refused, and nothing of it is written."""
    world.plan()
    late = world.claimed("n1")
    world.client.delete(world.keys.active(world.occurrence))
    world.do(planning.reopen(world.keys, world.fence, world.open(), attempt=None, not_before=TWO))
    now = world.claimed("n2", n=2)
    assert now.token > late.token
    refused = world.finish(late)
    assert isinstance(refused, Gone)
    assert refused.holder
    assert refused.holder.n == 2
    assert isinstance(world.finish(now, "n2"), Written)


def test_a_dead_childs_claim_is_freed_and_its_attempt_says_why(world: World) -> None:
    world.plan()
    claimed = world.claimed("n1")
    attempt = msgspec.structs.replace(world.attempt("n1"), outcome="lost", ended=TWO, error="killed")
    assert world.do(runs.abandon(world.keys, world.occurrence, token=claimed.token, attempt=attempt))
    assert not world.do(runs.abandon(world.keys, world.occurrence, token=claimed.token, attempt=attempt))
    assert not world.exists(world.keys.active(world.occurrence))
    assert world.read(world.keys.attempt(world.occurrence, 1), Attempt) == attempt


# --- retries ---


def retry(world: World, claimed: Claimed, nonce: str = "n1", r: int = 0) -> Any:
    attempt = msgspec.structs.replace(world.attempt(nonce, r=r), outcome="retry", ended=TWO)
    return runs.retry(world.keys, claimed.open, token=claimed.token, attempt=attempt, eta=TWO)


def test_the_successor_waits_for_the_hand_over_and_then_runs(world: World) -> None:
    world.plan()
    claimed = world.claimed("n1")
    assert world.refused("n2", r=1).reason is Refusal.PREDECESSOR
    assert isinstance(world.do_twice(retry(world, claimed)), Written)
    successor = world.claimed("n2", r=1)
    assert successor.token > claimed.token
    assert successor.open.record.retry_at == TWO
    assert world.refused("n3", r=0).reason is Refusal.CLAIMED  # the first message, delivered again


def test_a_lost_answer_to_a_retry_is_resolved_even_after_the_successor_ran(world: World) -> None:
    world.plan()
    claimed = world.claimed("n1")
    step = retry(world, claimed)
    world.do(step)
    world.finish(world.claimed("n2", r=1), "n2")
    assert isinstance(world.do(step), Written)


def test_a_note_of_the_leader_between_claim_and_retry_does_no_harm(world: World) -> None:
    """It publishes, the worker claims at once, then comes the note that it was published."""
    opened = world.plan()
    claimed = world.claimed("n1")
    world.do(planning.mark_published(world.keys, world.fence, opened, TWO))
    moved = world.do(retry(world, claimed))
    assert isinstance(moved, Moved)
    assert isinstance(world.do(retry(world, Claimed(claimed.token, moved.now))), Written)
    assert world.open().record.published == 1


def test_a_retry_of_an_attempt_that_was_lost_meanwhile_is_superseded(world: World) -> None:
    """retry() publishes before it raises: killed in between, the message is out and nothing handed over."""
    world.plan()
    claimed = world.claimed("n1")
    world.client.delete(world.keys.active(world.occurrence))
    world.do(planning.reopen(world.keys, world.fence, world.open(), attempt=None, not_before=TWO))
    assert world.refused("n2", r=1).reason is Refusal.SUPERSEDED
    assert isinstance(world.do(retry(world, claimed)), Gone)


# --- the leader finds one lost ---


def test_attempt_two_is_opened_once_and_only_while_nothing_is_active(world: World) -> None:
    world.plan()
    world.claimed("n1")
    opened = world.open()
    step = planning.reopen(
        world.keys, world.fence, opened, attempt=world.attempt("n1"), not_before=TWO + timedelta(seconds=10)
    )
    assert world.do(step) == Moved(opened)
    world.client.delete(world.keys.active(world.occurrence))
    assert isinstance(world.do_twice(step), Written)
    record = world.open().record
    assert (record.n, record.r, record.lost, record.published, record.planner) == (2, 0, 1, 0, "")


def test_a_verdict_of_the_leader_does_not_overrule_a_claim_in_flight(world: World) -> None:
    opened = world.plan()
    world.claimed("n1")
    late = planning.close(world.keys, world.fence, opened, world.done("x", Verdict.LATE))
    assert world.do(late) == Moved(opened)
    assert world.exists(world.keys.active(world.occurrence))


def test_a_verdict_of_the_leader_is_final(world: World) -> None:
    opened = world.plan()
    step = planning.close(world.keys, world.fence, opened, world.done("x", Verdict.LATE))
    assert isinstance(world.do_twice(step), Written)
    assert world.refused("n1").reason is Refusal.DONE


def test_trimmed_history_lets_nothing_run_again(world: World) -> None:
    world.plan()
    world.finish(world.claimed("n1"))
    assert world.do(planning.trim(world.keys, world.fence, [world.occurrence]))
    assert not world.exists(world.keys.attempt(world.occurrence, 1))
    assert world.refused("n2").reason is Refusal.UNKNOWN


# --- by hand ---


def released(world: World, token: int, done: Done | None) -> Any:
    audit = Audit(at=TWO, by="ada", action="release", target=world.occurrence.job, reason="stuck")
    return runs.release(
        world.keys, world.open(), token=token, audit=audit, nonce="a1", done=done, attempt=world.attempt("n1")
    )


def test_an_operator_ends_a_run_and_the_audit_entry_shares_the_transaction(world: World) -> None:
    world.plan()
    claimed = world.claimed("n1")
    assert isinstance(
        world.do_twice(released(world, claimed.token, world.done("a1", Verdict.RELEASED))), Written
    )
    assert world.exists(world.keys.audit(TWO, "a1"))
    assert isinstance(world.finish(claimed), Gone)
    assert world.client.time_to_live(world.lease).TTL > 0


def test_an_operator_who_saw_an_older_holder_changes_nothing(world: World) -> None:
    world.plan()
    claimed = world.claimed("n1")
    assert isinstance(world.do(released(world, claimed.token - 1, None)), Moved)
    assert not world.exists(world.keys.audit(TWO, "a1"))
    assert isinstance(world.finish(claimed), Written)


def test_an_operator_may_have_it_run_again(world: World) -> None:
    world.plan()
    claimed = world.claimed("n1")
    assert isinstance(world.do(released(world, claimed.token, None)), Written)
    assert isinstance(world.finish(claimed), Gone)
    assert world.open().record.n == 2
    world.claimed("n2", n=2)


def test_active_is_what_the_pages_show(world: World) -> None:
    world.plan()
    world.claimed("n1")
    active = world.read(world.keys.active(world.occurrence), Active)
    assert active
    assert active.holder == "h1 pid 7"
