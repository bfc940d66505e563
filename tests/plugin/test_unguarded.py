"""`no_quorum: run-unguarded`: what goes out and runs while the store is away, and what is known of it."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import Ignore

from jobguard import runs, schedules
from jobguard.celery import claiming
from jobguard.celery.alone import Alone
from jobguard.celery.claiming import Delivery, Unguarded
from jobguard.errors import Unavailable
from jobguard.policy import policy_of
from jobguard.records import Done, Keys, Occurrence, Verdict, decode, header
from jobguard.settings import Settings
from tests.plugin.beats import beats
from tests.plugin.bench import Bench, until
from tests.plugin.stage import START, Stage, finish, job, operators
from tests.plugin.test_beat_processes import assert_every_second_once, runs_per_occurrence
from tests.plugin.test_worker_deaths import silent
from tests.stores import Node, etcd


@pytest.fixture
def own(bench: Bench) -> Iterator[Node]:
    """A store of this test alone, on the bench."""
    with etcd() as nodes:
        bench.store = nodes[0]
        bench.__post_init__()
        yield nodes[0]


def test_runs_go_on_without_the_store_and_have_their_verdicts_after(bench: Bench, own: Node) -> None:
    environment = {"JOBGUARD_CLAIM_TIMEOUT": "0.5", "JOBGUARD_TIMEOUT": "0.5"}
    jobs = '{"work": {"no_quorum": "run-unguarded"}}'
    with beats(bench) as on:
        worker = bench.worker(app="tests.plugin.beat_app", TEST_GUARD="1", TEST_JOBS=jobs, **environment)
        beat = on.start(TEST_GUARD="1", TEST_JOBS=jobs, **environment)
        until(lambda: bench.journal(), "a run under the store")
        with silent(own):
            before = len(beat.log)
            until(lambda: worker.log.count(" runs unguarded: ") >= 4, "runs without it")
            until(lambda: " is lost: " in beat.log[before:], "the lead has lapsed")
            more = len(bench.journal()) + 2
            until(lambda: len(bench.journal()) >= more, "more runs without it")
        until(lambda: "this beat leads and plans" in beat.log[before:], "it leads again")
        done = bench.keys.prefix("done", "work")

        def told() -> list[Done]:
            return [decode(kv.value, Done) for kv in bench.client.prefix(done).kvs]

        until(lambda: len([each for each in told() if not each.reason]) >= 3, "runs under the store again")
        beat.terminate()

        def unguarded() -> list[Done]:
            return [each for each in told() if "unguarded, as the store was away" in each.reason]

        until(lambda: len(unguarded()) >= 4, "those of the runs without it")
    assert {each.verdict for each in unguarded()} == {Verdict.RAN}
    assert set(runs_per_occurrence(on).values()) == {1}
    assert_every_second_once(on)


def test_who_asks_for_a_turn_or_stood_still_itself_is_left_unclaimed() -> None:
    """Else it fails, that is its verdict, and it does not run when the store is back."""
    asked = SimpleNamespace(answers=False)

    def txn(**_: object) -> None:
        if not asked.answers:
            raise Unavailable("it is away")

    child: Any = SimpleNamespace(
        policy=lambda job: policy_of({job: DARING}, job),
        client=SimpleNamespace(txn=txn),
        keys=Keys("default"),
        settings=Settings(),
    )
    task, request = SimpleNamespace(name="t"), SimpleNamespace(id="1", retries=0)

    def without_store() -> object:
        delivery = Delivery.read(task, request, header("default", Occurrence("work", START), 1), "default")  # type: ignore[arg-type]
        return claiming._without_store(child, delivery, Unavailable("it is away"))

    assert isinstance(without_store(), Unguarded)
    asked.answers = True  # it was this process that stood still
    with pytest.raises(Ignore, match="left unclaimed"):
        without_store()
    asked.answers = False
    task.jobguard = {"lock": []}
    with pytest.raises(Ignore, match="left unclaimed"):
        without_store()


# --- the beat's side, with a clock and a broker made of lists ---

DARING = {"no_quorum": "run-unguarded"}


def test_only_what_says_so_is_sent_and_each_once(stage: Stage) -> None:
    known = job("daring", **DARING), job("careful"), job("paused", **DARING)
    stage.term(*known)
    with operators(stage) as client:
        schedules.pause(client, "paused", actor=schedules.Actor(by="ann", via="test", reason="mail moves"))
    alone = Alone(stage.term(*known), {})
    for seconds in (59, 60, 61, 125):
        stage.at(seconds)
        alone.turn()
    assert stage.sent == [("02:01:00", 1, 0), ("02:02:00", 1, 0)]
    assert stage.tried == ["daring", "daring"]


def test_what_was_sent_counts_as_published_unless_it_has_its_verdict_already(stage: Stage) -> None:
    sent: dict[str, set[datetime]] = {}
    alone = Alone(stage.term(job(**DARING)), sent)
    for seconds in (60, 120):
        stage.at(seconds)
        alone.turn()
    ran = Occurrence("work", START + timedelta(minutes=1))
    told = Done(job="work", nominal=ran.nominal, verdict=Verdict.RAN, nonce="w", finished=stage.now)
    step = runs.record_unguarded(stage.keys, ran, 1, 0, told)
    assert step.read(stage.client.txn(step.compare, step.success, step.failure))
    assert not step.read(stage.client.txn(step.compare, step.success, step.failure))
    stage.at(185)
    leader = stage.term(job(**DARING))
    leader.sent_alone = sent
    leader.plan_due()
    assert [nominal for nominal, _, _ in stage.sent] == ["02:01:00", "02:02:00", "02:03:00"]
    assert [f"{each.nominal:%H:%M} {each.published}" for each in stage.open()] == ["02:02 1", "02:03 1"]
    assert [each.nonce for each in stage.done()] == ["w"]
    finish(stage, stage.claim(2))  # its message comes to a worker that reaches the store


def test_another_beat_that_thinks_it_was_missed_does_not_take_its_verdict_away(stage: Stage) -> None:
    stage.term(job(**DARING))
    ran = Occurrence("work", START + timedelta(minutes=1))
    told = Done(job="work", nominal=ran.nominal, verdict=Verdict.RAN, nonce="w", finished=stage.now)
    step = runs.record_unguarded(stage.keys, ran, 1, 0, told)
    stage.client.txn(step.compare, step.success, step.failure)
    stage.at(185)
    stage.term(job(**DARING)).plan_due()
    assert [(f"{each.nominal:%H:%M}", each.verdict) for each in stage.done()] == [
        ("02:01", Verdict.RAN),
        ("02:02", Verdict.MISSED),
    ]
