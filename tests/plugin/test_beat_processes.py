"""Beats as their operators run them: killed, stopped, cut off from the store; beside workers old and new."""

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from jobguard import Client, schedules
from jobguard.operate import Actor
from jobguard.records import Done, Occurrence, Open, Verdict, decode, encode, task_id
from tests.plugin.beats import BeatProcess, Beats, beats
from tests.plugin.bench import PATIENCE_S, WORLDS, Bench, until
from tests.stopwatch import Stopwatch, best_of
from tests.stores import etcd

TTL_S = 4
LONG_TTL_S = 30
"""Where a lead must end by resignation, or not at all."""


@pytest.fixture
def stage(bench: Bench) -> Iterator[Beats]:
    with beats(bench) as found:
        yield found


def two_beats(stage: Beats, **environment: Any) -> tuple[BeatProcess, BeatProcess]:
    """The one that leads, and the other; each started where it does not run yet."""
    while len(alive := [beat for beat in stage.beats if beat.process.poll() is None]) < 2:
        stage.start(**environment)
    by_pid = {beat.process.pid: beat for beat in alive}
    line = until(lambda: found if (found := in_line(stage)).keys() == by_pid.keys() else None, "both stand")
    leader, follower = (by_pid[pid] for pid in line)
    until(lambda: leader.leads, "one beat leads")
    return leader, follower


def in_line(stage: Beats) -> dict[int, int]:
    """The candidates' process ids with their places, the leader's first: as of one revision."""
    found = stage.bench.client.prefix(stage.bench.keys.prefix("elections", "beat")).kvs
    places = {int(json.loads(kv.value)["pid"]): kv.create_revision for kv in found}
    return dict(sorted(places.items(), key=lambda each: each[1]))


def planned(stage: Beats) -> list[datetime]:
    """Every occurrence of "work", open or done, in order: as of one revision, for between two it may end."""
    keys = stage.bench.keys
    found = stage.bench.client.prefix(keys.prefix(), keys_only=True).kvs
    each = [keys.occurrence(kv.key) for kv in found if keys.parts(kv.key)[0] in ("open", "done")]
    return sorted(occurrence.nominal for occurrence in each if occurrence.job == "work")


def assert_every_second_once(stage: Beats) -> None:
    times = planned(stage)
    assert {b - a for a, b in pairwise(times)} == {timedelta(seconds=1)}


def assert_no_message_twice(stage: Beats) -> None:
    counted = Counter(message.occurrence for message in stage.messages())
    assert set(counted.values()) <= {1}, counted


def test_one_beat_publishes_each_occurrence_under_its_nominal_time(stage: Beats) -> None:
    stage.start(TEST_SCHEDULE={"work": 1.0, 'tricky/name "50 %"': 1.0})
    messages = stage.wait_for_messages(5)
    assert {message.header.job for message in messages} == {"work", 'tricky/name "50 %"'}
    for message in messages:
        assert message.task_id == task_id(stage.bench.namespace, message.occurrence, 1)
        assert message.headers["celery_beat_task"]
        assert message.headers["expires"]
        late = datetime.now(UTC) - message.occurrence.nominal
        assert timedelta(0) <= late < timedelta(minutes=1)
    assert stage.opened()[messages[0].occurrence].published == 1
    assert_no_message_twice(stage)


def test_a_pause_holds_at_once_outlives_the_beat_and_leaves_no_backlog(stage: Beats) -> None:
    actor = Actor(by="ann", via="test", reason="mail moves")
    beat = stage.start()
    stage.wait_for_messages(1)
    with Client([stage.bench.store.url], namespace=stage.bench.namespace, timeout=30) as client:
        schedules.pause(client, "work", actor=actor)
        open_then = set(stage.opened())
        until(lambda: ended(stage) & {Verdict.SKIPPED}, "one is skipped")
        by_hand = schedules.trigger(client, "work", actor=actor)
        until(lambda: by_hand in {each.occurrence for each in stage.messages()}, "the start by hand")
        beat.terminate()
        skipped = len(stage.bench.client.prefix(stage.bench.keys.prefix("done", "work")).kvs)
        stage.start()
        done = stage.bench.keys.prefix("done", "work")
        until(lambda: len(stage.bench.client.prefix(done).kvs) > skipped, "the next beat skips too")
        assert set(stage.opened()) == {*open_then, by_hand}
        schedules.resume(client, "work", actor=actor)
    stage.wait_for_messages(len(open_then) + 2)
    assert ended(stage) <= {Verdict.SKIPPED, Verdict.MISSED}  # missed: between the two beats
    assert_no_message_twice(stage)


def ended(stage: Beats) -> set[Verdict]:
    found = stage.bench.client.prefix(stage.bench.keys.prefix("done", "work")).kvs
    return {decode(kv.value, Done).verdict for kv in found}


def taken_over_s(stage: Beats, end: Callable[[BeatProcess], Any], **environment: Any) -> float:
    """Seconds from the end of the leading beat until the other one leads."""
    leader, follower = two_beats(stage, **environment)
    stage.wait_for_messages(2)
    led = follower.terms  # it may have lost one to a host that stood still
    with Stopwatch() as watch:
        end(leader)
        until(lambda: follower.terms > led, "the other beat leads")
        return watch.seconds


def test_when_the_leader_is_killed_another_beat_goes_on_within_the_ttl(stage: Beats) -> None:
    best_of(3, lambda: taken_over_s(stage, BeatProcess.kill), under=TTL_S + 1, each_under=3 * TTL_S)
    stage.wait_for_messages(len(stage.messages()) + 2)
    assert_every_second_once(stage)  # those between the two are told, as missed
    assert_no_message_twice(stage)


def test_when_the_leader_is_stopped_politely_another_goes_on_within_a_second(stage: Beats) -> None:
    ended: list[BeatProcess] = []

    def tell(leader: BeatProcess) -> None:
        leader.process.terminate()
        ended.append(leader)

    best_of(4, lambda: taken_over_s(stage, tell, TEST_TTL=LONG_TTL_S), under=1, each_under=LONG_TTL_S / 2)
    assert {beat.process.wait(PATIENCE_S) for beat in ended} == {0}
    stage.wait_for_messages(len(stage.messages()) + 2)
    assert_every_second_once(stage)
    assert_no_message_twice(stage)


def test_a_follower_that_is_stopped_leaves_the_queue_at_once(stage: Beats) -> None:
    """Else the next takeover would wait for the lease of a candidate that is long gone."""
    leader, follower = two_beats(stage, TEST_TTL=LONG_TTL_S)
    assert follower.terminate() == 0
    until(lambda: in_line(stage).keys() == {leader.process.pid}, "only the leader's key is left", 10)


def test_a_leader_that_was_frozen_plans_nothing_more(stage: Beats) -> None:
    """SIGSTOP past the lease, then SIGCONT: its fence is gone, whatever its own memory says."""
    leader, follower = two_beats(stage)
    stage.wait_for_messages(1)
    leader.process.send_signal(signal.SIGSTOP)
    until(lambda: follower.leads, "the other beat leads")
    stage.wait_for_messages(len(stage.messages()) + 1)
    leader.process.send_signal(signal.SIGCONT)
    until(lambda: "does not lead any more" in leader.log, "the frozen one follows")
    stage.wait_for_messages(len(stage.messages()) + 2)
    assert leader.process.poll() is None
    assert_every_second_once(stage)
    assert_no_message_twice(stage)


def test_without_the_store_nothing_is_published_and_with_it_again_it_goes_on(bench: Bench) -> None:
    with etcd() as nodes, beats(Bench(bench.directory, nodes[0], bench.broker)) as stage:
        beat = stage.start()
        stage.wait_for_messages(2)
        before = len(beat.log)
        nodes[0].pause()
        until(lambda: "while the store does not answer" in beat.log[before:], "the beat says so")
        sent = len(stage.messages())
        until(lambda: "lease" in (said := beat.log[before:]) and "is lost" in said, "the lead lapses")
        assert len(stage.messages()) == sent
        nodes[0].resume()
        until(lambda: "this beat leads" in beat.log[before:], "it leads again")
        stage.wait_for_messages(sent + 2)
        assert beat.process.poll() is None
        assert_every_second_once(stage)
        assert_no_message_twice(stage)


def test_a_schedule_that_cannot_be_planned_ends_beat_with_a_sentence(stage: Beats) -> None:
    beat = stage.start(TEST_SCHEDULE={"work": 0.01})
    assert beat.process.wait(PATIENCE_S) != 0
    assert "beat entry 'work' cannot be planned: an interval of 0.01 s is below 0.1 s" in beat.log


def test_a_misspelt_policy_ends_beat_with_a_suggestion(stage: Beats) -> None:
    beat = stage.start(TEST_JOBS={"werk": {}})
    assert beat.process.wait(PATIENCE_S) != 0
    assert "did you mean 'work'?" in beat.log


# --- with workers ---


def verdicts(stage: Beats) -> list[Done]:
    keys, client = stage.bench.keys, stage.bench.client
    return [decode(kv.value, Done) for kv in client.prefix(keys.prefix("done", "work")).kvs]


def told(stage: Beats, verdict: Verdict) -> dict[str, str]:
    """The reasons of those that ended so, by nominal time."""
    return {each.occurrence.stamp: each.reason for each in verdicts(stage) if each.verdict is verdict}


def runs_per_occurrence(stage: Beats) -> Counter[str]:
    return Counter(line["nominal"] for line in stage.bench.journal())


@WORLDS
def test_a_run_whose_worker_is_killed_is_dispatched_again_from_the_store(stage: Beats) -> None:
    """The broker got its acknowledgement before the body began: only the store remembers."""
    gate = stage.bench.gate("first")
    guarded = {"TEST_GUARD": "1", "TEST_GATE": str(gate)}
    victim = stage.bench.worker(app="tests.plugin.beat_app", **guarded)
    jobs = {"work": {"on_lost": {"rerun": 3}, "overlap": "skip"}}
    beat = stage.start(TEST_SCHEDULE={"work": 1.0}, TEST_JOBS=jobs)
    first = until(lambda: next(iter(stage.bench.journal()), None), "the first run")
    victim.kill()
    gate.touch()
    stage.bench.worker(app="tests.plugin.beat_app", **guarded)
    again = until(
        lambda: next((line for line in stage.bench.journal() if line["n"] == 2), None), "the second attempt"
    )
    assert again["nominal"] == first["nominal"]
    assert again["id"] != first["id"]
    keys = stage.bench.keys
    occurrence = next(each for each in planned(stage) if f"{each:%Y-%m-%dT%H:%M:%SZ}" == first["nominal"])
    done = stage.bench.verdict(Occurrence("work", occurrence))
    assert (done.verdict, done.n, done.lost) == (Verdict.RAN, 2, 1)
    beat.terminate()
    assert stage.bench.client.get(keys.running(Occurrence("work", occurrence))) is None
    assert max(runs_per_occurrence(stage).values()) == 2
    assert_every_second_once(stage)


def test_what_a_dead_leader_perhaps_published_is_sent_again_among_guarded_workers(stage: Beats) -> None:
    nominal = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=30)
    left = Open(n=1, r=0, job="work", nominal=nominal, task="beats.work", planner="a leader that died")
    stage.bench.client.put(stage.bench.keys.open(left.occurrence), encode(left))
    stage.bench.worker(app="tests.plugin.beat_app", TEST_GUARD="1")
    beat = stage.start(TEST_SCHEDULE={"work": 3e7})
    assert stage.bench.verdict(left.occurrence).verdict is Verdict.RAN
    assert "not claimed yet; sent again" in beat.log
    assert set(runs_per_occurrence(stage).values()) == {1}


# --- the roll-out: a run must never happen more often than under stock beat ---


def test_beat_first_each_is_published_once_and_the_unguarded_worker_is_named(stage: Beats) -> None:
    stage.bench.worker(app="tests.plugin.beat_app")
    beat = stage.start(TEST_SCHEDULE={"work": 1.0}, TEST_JOBS={"work": {"start_deadline": 1}})
    until(lambda: len(told(stage, Verdict.UNCLAIMED)) >= 2, "two verdicts")
    assert "w1@test answers but does not guard" in beat.log
    beat.terminate()
    unclaimed = told(stage, Verdict.UNCLAIMED)
    assert all("w1@test" in reason for reason in unclaimed.values())
    ran = runs_per_occurrence(stage)
    assert set(ran.values()) == {1}
    # A host that stands still for a second plans too late, or hears of no worker. It says which.
    others = {**told(stage, Verdict.LATE), **told(stage, Verdict.MISSED)}
    assert len(verdicts(stage)) == len(unclaimed) + len(others)
    assert all("none answers" in others[stamp] for stamp in ran if stamp in others)


def test_half_upgraded_each_runs_once_wherever_it_lands(stage: Beats) -> None:
    stage.bench.worker(app="tests.plugin.beat_app")
    stage.bench.worker(app="tests.plugin.beat_app", TEST_GUARD="1")
    jobs = {"work": {"start_deadline": 1, "overlap": "allow"}}
    beat = stage.start(TEST_SCHEDULE={"work": 0.5}, TEST_JOBS=jobs)
    until(lambda: len({line["worker"] for line in stage.bench.journal()}) == 2, "both had some")
    both = {Verdict.RAN, Verdict.UNCLAIMED}
    until(lambda: {each.verdict for each in verdicts(stage)} >= both, "both kinds of verdict")
    beat.terminate()
    assert set(runs_per_occurrence(stage).values()) == {1}
    ran = {each.occurrence.stamp for each in verdicts(stage) if each.verdict is Verdict.RAN}
    by = {line["nominal"]: line["worker"] for line in stage.bench.journal()}
    assert {by[stamp] for stamp in ran} == {"w2@test"}


def test_workers_first_a_stock_beat_runs_every_occurrence_once(stage: Beats) -> None:
    stage.bench.worker(app="tests.plugin.beat_app", TEST_GUARD="1")
    stage.start(TEST_STOCK_BEAT="1", TEST_SCHEDULE={"work": 0.5})
    until(lambda: len(stage.bench.journal()) >= 4, "runs")
    assert set(Counter(line["id"] for line in stage.bench.journal()).values()) == {1}
