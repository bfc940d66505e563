"""A leader's term on both stores, with a clock and a broker made of lists: what it plans, sends, mends."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from jobguard import observe, runs, schedules
from jobguard.celery.entries import Job, Plain
from jobguard.celery.lead import LeadLost, Stale
from jobguard.celery.leader import Sent
from jobguard.celery.upkeep import History, Upkeep
from jobguard.operate import Actor
from jobguard.policy import policy_of
from jobguard.records import Attempt, Audit, Control, Done, Occurrence, Open, Verdict, decode
from jobguard.recovery import Workers
from jobguard.schedule import Every
from jobguard.steps import TOGETHER, seen
from tests.plugin.stage import START, Stage, finish, job, operators

# --- planning ---


def test_a_new_job_is_planned_from_now_on_and_tells_the_next_time(stage: Stage) -> None:
    leader = stage.term()
    assert leader.plan_due() == START + timedelta(minutes=1)
    stage.at(60)
    assert leader.plan_due() == START + timedelta(minutes=2)
    stage.at(120)
    leader.plan_due()
    assert stage.sent == [("02:01:00", 1, 0), ("02:02:00", 1, 0)]
    assert [each.published for each in stage.open()] == [1, 1]


def test_the_next_leader_goes_on_where_the_last_one_stood(stage: Stage) -> None:
    first = stage.term()
    stage.at(60)
    first.plan_due()
    stage.at(125)
    stage.term().plan_due()
    assert stage.sent == [("02:01:00", 1, 0), ("02:02:00", 1, 0)]
    with pytest.raises(LeadLost):
        first.plan_due()


def test_a_downtime_ends_in_verdicts_and_one_start(stage: Stage) -> None:
    stage.term()
    stage.at(60 * 5 + 10)
    stage.term().plan_due()
    assert stage.sent == [("02:05:00", 1, 0)]
    assert [(each.verdict, each.nominal.minute) for each in stage.done()] == [
        (Verdict.MISSED, minute) for minute in (1, 2, 3, 4)
    ]


def test_a_start_deadline_holds_for_catching_up_too(stage: Stage) -> None:
    stage.term(job(start_deadline=5))
    stage.at(70)
    stage.term(job(start_deadline=5)).plan_due()
    assert stage.sent == []
    assert [each.reason for each in stage.done()] == ["no beat led before its start_deadline"]


def test_those_caught_up_run_one_after_the_other(stage: Stage) -> None:
    """With overlap skip, the second would otherwise skip itself because the first is running."""
    jobs = job(catch_up={"all": 3})
    stage.term(jobs)
    stage.at(60 * 3 + 10)
    leader = stage.term(jobs)
    leader.plan_due()
    assert stage.sent == []
    stage.upkeep(leader)
    assert stage.sent == [("02:01:00", 1, 0)]
    claimed = stage.claim(1)
    stage.upkeep(leader)
    finish(stage, claimed)
    stage.upkeep(leader)
    assert stage.sent == [("02:01:00", 1, 0), ("02:02:00", 1, 0)]


def test_queue_one_lets_one_wait_and_skips_the_rest(stage: Stage) -> None:
    leader = stage.term(job(overlap="queue-one"))
    stage.at(60)
    leader.plan_due()
    stage.upkeep(leader)
    claimed = stage.claim(1)
    for minute in (2, 3):
        stage.at(60 * minute)
        leader.plan_due()
        stage.upkeep(leader)
    assert [(each.verdict, each.nominal.minute) for each in stage.done()] == [(Verdict.SKIPPED, 3)]
    assert stage.sent == [("02:01:00", 1, 0)]
    finish(stage, claimed)
    stage.upkeep(leader)
    assert stage.sent == [("02:01:00", 1, 0), ("02:02:00", 1, 0)]


def test_someone_elses_cursor_makes_a_leader_read_again(stage: Stage) -> None:
    leader = stage.term()
    kv = stage.client.get(stage.keys.cursor("work"))
    assert kv
    stage.client.put(kv.key, kv.value)
    stage.at(60)
    with pytest.raises(Stale):
        leader.plan_due()
    leader.begin()
    leader.plan_due()
    assert stage.sent == [("02:01:00", 1, 0)]


# --- one bad job among good ones ---


@dataclass(frozen=True)
class BadJob(Job):
    """Its first occurrence cannot even be written down."""

    def opened(self, nominal: datetime, now: datetime, *, several: bool, planner: str) -> Open:
        if nominal <= START + timedelta(minutes=1):
            raise ValueError("a poisonous schedule")
        return super().opened(nominal, now, several=several, planner=planner)


def bad(name: str) -> Job:
    return BadJob(name, "t", Every(timedelta(seconds=60)), policy_of({}, name), 0)


def test_a_job_that_cannot_be_planned_stops_no_other_and_is_tried_again(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    leader = stage.term(bad("a"), job("work"))
    stage.at(60)
    leader.plan_due()
    leader.plan_due()
    assert stage.tried == ["work"]
    assert caplog.text.count("jobguard: a is set aside for 30 s") == 1
    stage.at(120)
    leader.plan_due()
    assert stage.tried == ["work", "a", "work"]
    assert [each.verdict for each in stage.done("a")] == [Verdict.MISSED]


@pytest.mark.parametrize("part", ["schedules", "cursors"])
def test_a_definition_from_a_newer_version_is_left_alone_and_stops_no_other(stage: Stage, part: str) -> None:
    stage.term(job("a"), job("work"))
    unknown = stage.client.put(stage.keys.key(part, "a"), b'{"v":2}')
    leader = stage.term(job("a"), job("work"))
    stage.at(60)
    leader.plan_due()
    assert stage.tried == ["work"]
    kv = stage.client.get(stage.keys.key(part, "a"))
    assert kv
    assert kv.mod_revision == unknown.revision


@pytest.mark.parametrize("part", ["open", "running", "active"])
def test_a_record_from_a_newer_version_is_left_alone_and_stops_no_other(stage: Stage, part: str) -> None:
    leader = stage.term(job("a", reruns=3), job("work", reruns=3))
    stage.at(60)
    leader.plan_due()
    for name in ("a", "work"):
        stage.claim(1, job=name)
        stage.lapse(1, job=name)
    stage.client.put(stage.keys.key(part, "a", "2026-11-24T02:01:00Z"), b'{"v":2}')
    stage.client.put(stage.keys.key(part, "a", "no time"), b"{}")
    stage.upkeep(leader)
    stage.upkeep(leader)
    assert stage.tried == ["a", "work", "work"]


def test_a_definition_that_the_store_refuses_stops_no_other(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    large = replace(job("a"), plain=Plain([], {"text": "x" * 2_000_000}, {}))
    leader = stage.term(large, job("work"), job("z"))
    assert set(leader.jobs) == {"work", "z"}
    assert "a is set aside for 30 s" in caplog.text
    stage.at(60)
    leader.plan_due()
    assert stage.tried == ["work", "z"]


def test_an_occurrence_that_cannot_be_mended_stops_no_other(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    leader = stage.term(job("a"), job("work"))
    stage.broker = Sent.NO
    stage.at(60)
    leader.plan_due()
    stage.broker = Sent.YES
    stage.at(66)

    def publish(record: Open, job: Job) -> Sent:
        if record.job == "a":
            raise ValueError("kwargs that nobody can encode")
        return stage._publish(record, job)

    monkeypatch.setattr(leader, "publish", publish)
    upkeep = Upkeep(leader, stage.fleet)  # type: ignore[arg-type]
    for _ in range(3):
        upkeep.round()
    assert stage.sent == [("02:01:00", 1, 0)]
    assert caplog.text.count("jobguard: a of 2026-11-24T02:01:00Z is set aside for 30 s") == 1


@pytest.mark.parametrize("answer", [Sent.NO, Sent.UNANSWERED])
def test_a_broker_that_is_away_is_not_asked_once_per_job(stage: Stage, answer: Sent) -> None:
    """Each try may take seconds, and while it does nobody plans."""
    leader = stage.term(job("a"), job("b"), job("work"))
    stage.broker = answer
    stage.at(60)
    leader.plan_due()
    stage.upkeep(leader)
    assert len(stage.tried) == 1
    assert len(stage.open("a") + stage.open("b") + stage.open("work")) == 3
    stage.broker = Sent.YES
    stage.at(66 if answer is Sent.NO else 95)
    stage.fleet.state = Workers.GUARDED
    stage.upkeep(leader)
    assert len(stage.sent) == (3 if answer is Sent.NO else 4)  # the first may have been out


def test_of_many_due_at_once_only_those_being_published_may_be_out(stage: Stage) -> None:
    """A leader dies in the middle of its first message: the next one knows that most were never sent."""
    jobs = [job(f"{number:03}") for number in range(TOGETHER + 5)]
    leader = stage.term(*jobs)

    def die(record: Open, job: Job) -> Sent:
        raise KeyboardInterrupt

    leader.publish = die
    stage.at(60)
    with pytest.raises(KeyboardInterrupt):
        leader.plan_due()
    signed = {each.job for job in jobs for each in stage.open(job.name) if each.planner}
    assert signed == {job.name for job in jobs[:TOGETHER]}
    stage.upkeep(stage.term(*jobs))
    assert set(stage.tried) == {job.name for job in jobs[TOGETHER:]}


# --- definitions ---


def test_a_changed_schedule_owes_nothing_for_the_time_before_it(stage: Stage) -> None:
    stage.term(job(every_s=3600))
    stage.at(1000)
    leader = stage.term(job(every_s=60))
    leader.plan_due()
    assert (stage.sent, stage.done()) == ([], [])
    installed = stage.schedule()
    assert installed
    assert installed.since == stage.now
    stage.at(1020)
    leader.plan_due()
    assert stage.sent == [("02:17:00", 1, 0)]


def test_a_changed_policy_does_not_move_the_cursor(stage: Stage) -> None:
    stage.term(job())
    stage.at(130)
    stage.term(job(overlap="allow")).plan_due()
    assert stage.sent == [("02:02:00", 1, 0)]
    installed = stage.schedule()
    assert installed
    assert installed.since == START
    assert installed.policy["overlap"] == "allow"


def test_the_log_says_what_a_deploy_changed(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    stage.term(job())
    assert "changed" not in caplog.text
    stage.term(job(every_s=30, overlap="allow"), version=7)
    assert (
        "work is planned every 30 s, task t; changed: times from every 60 s to every 30 s, "
        "version from 0 to 7, overlap from skip to allow\n"
    ) in caplog.text


def test_a_takeover_by_equal_code_rewrites_nothing(stage: Stage) -> None:
    chosen = job(catch_up={"all": 3}, start_deadline=90, on_lost={"rerun": 2})
    stage.term(chosen)
    before = stage.client.get(stage.keys.schedule("work"))
    stage.at(30)
    stage.term(chosen)
    assert stage.client.get(stage.keys.schedule("work")) == before


def test_older_code_leaves_alone_what_newer_code_installed(stage: Stage) -> None:
    stage.term(job(every_s=60), version=7)
    stage.at(61)
    stage.term(job(every_s=30), version=6).plan_due()
    assert stage.sent == []
    installed = stage.schedule()
    assert installed
    assert (installed.version, installed.text) == (7, "every 60 s")
    stage.term(job(every_s=60), version=6).plan_due()  # the same times: no harm in planning it
    assert stage.sent == [("02:01:00", 1, 0)]


def test_older_code_plans_equal_times_and_still_overwrites_nothing(stage: Stage) -> None:
    stage.term(job(overlap="allow"), version=7)
    stage.at(60)
    stage.term(job(), version=6).plan_due()
    assert stage.sent == [("02:01:00", 1, 0)]
    installed = stage.schedule()
    assert installed
    assert (installed.version, installed.policy["overlap"]) == (7, "allow")


def test_a_job_that_left_the_schedule_is_not_planned_and_may_come_back(stage: Stage) -> None:
    stage.term(job("work"), job("other"))
    stage.at(90)
    stage.term(job("other"))
    assert stage.schedule("work") is None
    stage.at(150)
    stage.term(job("work"), job("other")).plan_due()
    assert [each.job for each in stage.open("work")] == []
    assert stage.done("work") == []


# --- publishing ---


def test_without_a_broker_it_goes_out_later_and_once(stage: Stage) -> None:
    leader = stage.term()
    stage.broker = Sent.NO
    stage.at(60)
    leader.plan_due()
    stage.upkeep(leader)
    stage.broker = Sent.YES
    stage.at(66)
    stage.upkeep(leader)
    stage.upkeep(leader)
    assert stage.sent == [("02:01:00", 1, 0)]
    assert stage.open()[0].published == 1


def test_a_publication_that_failed_half_way_is_repeated_only_among_guarded_workers(stage: Stage) -> None:
    leader = stage.term()
    stage.broker = Sent.MAYBE
    stage.at(60)
    leader.plan_due()
    stage.broker = Sent.YES
    stage.at(95)
    for state in (Workers.UNKNOWN, Workers.MIXED, Workers.NONE):
        stage.fleet.state = state
        stage.upkeep(leader)
        assert len(stage.sent) == 1
    assert stage.fleet.asked == 1
    stage.fleet.state = Workers.GUARDED
    stage.upkeep(leader)
    assert stage.sent == [("02:01:00", 1, 0)] * 2


def test_what_a_dead_leader_planned_and_perhaps_sent_is_not_sent_blindly(stage: Stage) -> None:
    """Killed between the plan and its note: in a mixed fleet a second message could run it twice."""
    dead = stage.term()
    stage.broker = Sent.NO
    stage.at(60)
    dead.plan_due()
    stage.broker = Sent.YES
    stage.at(62)
    leader = stage.term()
    stage.fleet.state = Workers.MIXED
    stage.upkeep(leader)
    assert stage.sent == []
    stage.fleet.state = Workers.GUARDED
    stage.upkeep(leader)
    assert stage.sent == [("02:01:00", 1, 0)]


def test_an_unclaimed_one_ends_with_its_deadline_and_names_the_unguarded_worker(stage: Stage) -> None:
    leader = stage.term(job(start_deadline=10))
    stage.at(60)
    leader.plan_due()
    stage.at(75)
    stage.upkeep(leader)
    assert stage.fleet.asked == 1
    stage.fleet.state = Workers.MIXED
    stage.upkeep(leader)
    (done,) = stage.done()
    assert done.verdict is Verdict.UNCLAIMED
    assert "w9@old" in done.reason
    assert stage.sent == [("02:01:00", 1, 0)]


# --- mending ---


def test_a_lost_run_is_dispatched_again_with_the_next_number(stage: Stage) -> None:
    leader = stage.term(job(reruns=3))
    stage.at(60)
    leader.plan_due()
    stage.claim(1)
    stage.upkeep(leader)
    stage.lapse(1)
    stage.upkeep(leader)
    stage.upkeep(leader)
    assert stage.sent == [("02:01:00", 1, 0), ("02:01:00", 2, 0)]
    kv = stage.client.get(stage.keys.attempt(Occurrence("work", START + timedelta(minutes=1)), 1))
    assert kv
    lost = decode(kv.value, Attempt)
    assert lost.outcome == "lost"
    assert "lease lapsed" in lost.error
    stage.claim(1, n=2)


def test_a_run_that_must_not_repeat_is_reported_lost(stage: Stage) -> None:
    leader = stage.term()
    stage.at(60)
    leader.plan_due()
    stage.claim(1)
    stage.lapse(1)
    stage.upkeep(leader)
    (done,) = stage.done()
    assert (done.verdict, done.reason) == (Verdict.LOST, "attempt 1 on h1 pid 7 was lost")
    assert stage.open() == []
    assert not stage.client.prefix(stage.keys.prefix("running")).kvs


def test_the_crash_loop_is_braked_and_ends(stage: Stage) -> None:
    leader = stage.term(job(every_s=86400, reruns=2))
    stage.now = midnight = datetime(2026, 11, 25, tzinfo=UTC)
    leader.plan_due()
    occurrence = Occurrence("work", midnight)
    for n in (1, 2, 3):
        stage.claim(22 * 60, n=n)
        stage.client.delete(stage.keys.active(occurrence))
        stage.upkeep(leader)
        stage.upkeep(leader)
        if n == 2:
            assert len(stage.sent) == 2, "the second rerun waits"
            stage.now = midnight + timedelta(seconds=11)
            stage.upkeep(leader)
    assert [n for _, n, _ in stage.sent] == [1, 2, 3]
    (done,) = stage.done()
    assert (done.verdict, done.lost) == (Verdict.LOST, 2)


def test_a_retry_between_two_messages_is_not_taken_for_lost(stage: Stage) -> None:
    leader = stage.term(job(reruns=3))
    stage.at(60)
    leader.plan_due()
    stage.retry(stage.claim(1), 1, eta_s=90)
    stage.at(100)
    stage.fleet.state = Workers.GUARDED
    stage.upkeep(leader)
    assert stage.sent == [("02:01:00", 1, 0)]
    stage.at(121)
    stage.upkeep(leader)
    stage.upkeep(leader)
    assert stage.sent == [("02:01:00", 1, 0), ("02:01:00", 1, 1)]
    stage.claim(1, r=1)


def test_an_operators_rerun_is_published_without_asking_the_workers(stage: Stage) -> None:
    leader = stage.term()
    stage.at(60)
    leader.plan_due()
    claimed = stage.claim(1)
    audit = Audit(at=stage.now, by="ada", action="release", target="work", reason="stuck")
    kv = stage.client.get(stage.keys.open(claimed.open.record.occurrence))
    assert kv
    step = runs.release(stage.keys, seen(kv, Open), token=claimed.token, audit=audit, nonce="a", done=None)
    assert stage.client.txn(step.compare, step.success, step.failure).succeeded
    stage.upkeep(leader)
    assert stage.sent == [("02:01:00", 1, 0), ("02:01:00", 2, 0)]


def test_an_operators_rerun_of_an_old_occurrence_has_its_day_too(stage: Stage) -> None:
    leader = stage.term()
    stage.at(60)
    leader.plan_due()
    claimed = stage.claim(1)
    stage.at(2 * 86400)
    audit = Audit(at=stage.now, by="ada", action="release", target="work", reason="stuck")
    kv = stage.client.get(stage.keys.open(claimed.open.record.occurrence))
    assert kv
    step = runs.release(stage.keys, seen(kv, Open), token=claimed.token, audit=audit, nonce="a", done=None)
    assert stage.client.txn(step.compare, step.success, step.failure).succeeded
    stage.upkeep(leader)
    assert stage.sent[-1] == ("02:01:00", 2, 0)


def test_what_a_beat_cannot_publish_is_left_for_another_that_can_and_ends_all_the_same(stage: Stage) -> None:
    """During a deploy a beat without the entry may lead for a while, also over a run that took long."""
    leader = stage.term(job(reruns=3))
    stage.at(60)
    leader.plan_due()
    stage.claim(1)
    stage.lapse(1)
    stage.at(2 * 86400)
    without = stage.term(job("other"))
    for _ in range(3):
        stage.upkeep(without)
    assert [(each.n, each.published) for each in stage.open()] == [(2, 0)]
    stage.upkeep(stage.term(job(reruns=3)))
    assert stage.sent[-1] == ("02:01:00", 2, 0)
    stage.at(3 * 86400 + 1)
    stage.fleet.state = Workers.GUARDED
    stage.upkeep(stage.term(job("other")))
    (done,) = stage.done()
    assert (done.verdict, done.reason) == (Verdict.LOST, "no worker started attempt 2 within a day")


def ended(stage: Stage, minutes: Iterable[int], job: str = "work", **facts: Any) -> None:
    """Verdicts of so many minutes ago."""
    record = Done(job=job, nominal=START, verdict=Verdict.RAN, nonce="x", finished=START)
    for minute in minutes:
        then = START - timedelta(minutes=minute)
        done = msgspec.structs.replace(record, nominal=then, **{"finished": then, **facts})
        stage.client.put(stage.keys.done(done.occurrence), msgspec.json.encode(done))


def left(stage: Stage, job: str = "work") -> list[int]:
    """Of how many minutes ago verdicts are still there."""
    return [int((START - each.nominal).total_seconds() / 60) for each in stage.done(job)]


def trimmed(stage: Stage, **kept: Any) -> None:
    upkeep = Upkeep(stage.term(), stage.fleet, History(**kept))  # type: ignore[arg-type]
    for _ in range(8):
        upkeep.round()


def test_the_history_is_cut_to_a_bounded_length(stage: Stage) -> None:
    ended(stage, range(75))
    trimmed(stage, count=10)
    assert left(stage) == list(reversed(range(25)))


def test_the_history_goes_with_its_age_but_for_the_last_of_a_job_that_is_planned(stage: Stage) -> None:
    ended(stage, [5, 61, 62, 70])
    ended(stage, [80, 90], "quarterly")
    ended(stage, [100], "backfilled", finished=START)  # an old window, run just now
    upkeep = Upkeep(
        stage.term(job(), job("quarterly"), job("backfilled")),
        stage.fleet,  # type: ignore[arg-type]
        History(age=timedelta(minutes=60)),
    )
    for _ in range(8):
        upkeep.round()
    assert [left(stage, each) for each in ("work", "quarterly", "backfilled")] == [[5], [80], [100]]


def test_the_history_of_a_job_that_left_the_schedule_goes_too(stage: Stage) -> None:
    """Schedules made and removed at run time would fill the store otherwise."""
    ended(stage, range(100), "long gone", finished=START)
    ended(stage, [80, 90], "a while ago")
    trimmed(stage, count=10, age=timedelta(minutes=60))
    assert left(stage, "long gone") == list(reversed(range(50)))
    assert left(stage, "a while ago") == []


def audited(stage: Stage, minutes: Iterable[int]) -> None:
    """Entries of so many minutes ago."""
    for minute in minutes:
        at = START - timedelta(minutes=minute)
        entry = Audit(at=at, by="ann", action="pause", target="schedule work", reason=f"{minute}")
        stage.client.put(stage.keys.audit(at, "nonce"), msgspec.json.encode(entry))


@pytest.mark.parametrize(
    ("kept", "left"),
    [
        ({"audits": 10}, range(1, 26)),
        ({"age": timedelta(minutes=60)}, range(1, 61)),
        ({}, range(1, 76)),
    ],
)
def test_the_audit_log_goes_by_count_and_by_age(stage: Stage, kept: dict[str, Any], left: range) -> None:
    audited(stage, range(1, 76))
    trimmed(stage, **kept)
    assert [each.reason for each in stage.audits()] == [str(minute) for minute in reversed(left)]


# --- by hand ---

ANN = Actor(by="ann", via="test", reason="the mail server moves")


def control(stage: Stage, **facts: Any) -> None:
    """An operator's word, with times of this test's clock."""
    record = Control(**{"paused": True, "by": "ann", "why": "the mail server moves", **facts})
    stage.client.put(stage.keys.control("work"), msgspec.json.encode(record))


def test_a_paused_job_starts_nothing_and_says_why(stage: Stage) -> None:
    leader = stage.term()
    with operators(stage) as client:
        schedules.pause(client, "work", actor=ANN)
    stage.at(60)
    with pytest.raises(Stale):  # the plan compares the control, so the pause holds before it is read
        leader.plan_due()
    leader.begin()
    leader.plan_due()
    assert (stage.sent, stage.open()) == ([], [])
    (done,) = stage.done()
    assert done.verdict is Verdict.SKIPPED
    assert done.reason == "the job is paused by ann: the mail server moves"


def test_a_pause_outlives_a_deploy_and_leaves_no_backlog(stage: Stage) -> None:
    stage.term()
    control(stage)
    for minute in (1, 2, 3):
        stage.at(60 * minute)
        stage.term(job(every_s=60, start_deadline=100 + minute)).plan_due()
    with operators(stage) as client:
        schedules.resume(client, "work", actor=ANN)
    leader = stage.term()
    stage.at(60 * 4)
    leader.plan_due()
    assert stage.sent == [("02:04:00", 1, 0)]
    assert [each.verdict for each in stage.done()] == [Verdict.SKIPPED] * 3


def test_a_pause_with_an_end_ends_by_itself(stage: Stage) -> None:
    """The end is compared with the nominal time: a late planning does not start what was still paused."""
    control(stage, until=START + timedelta(seconds=130))
    leader = stage.term(job(catch_up={"all": 3}))
    stage.at(180)
    leader.plan_due()
    assert [each.nominal.minute for each in stage.open()] == [3]
    assert [each.verdict for each in stage.done()] == [Verdict.SKIPPED] * 2


@pytest.mark.parametrize("part", ["schedules", "cursors", "controls"])
def test_a_job_set_aside_for_a_record_it_could_not_read_is_planned_once_it_can(
    stage: Stage, part: str
) -> None:
    stage.term()
    key = stage.keys.key(part, "work")
    readable = stage.client.get(key)
    stage.client.put(key, b'{"v":2}')
    leader = stage.term()
    stage.at(40)
    leader.plan_due()
    assert stage.open() == []
    stage.client.put(key, readable.value) if readable else stage.client.delete(key)
    stage.at(75)
    leader.plan_due()
    assert [each.nominal.minute for each in stage.open()] == [1]


def test_pausing_one_job_leaves_the_others(stage: Stage) -> None:
    leader = stage.term(job(), job("other"))
    control(stage)
    stage.at(60)
    for _ in range(2):
        try:
            leader.plan_due()
        except Stale:
            leader.begin()
    leader.plan_due()
    assert stage.open() == []
    assert len(stage.open("other")) == 1


def test_a_job_started_by_hand_is_published_once_and_moves_no_cursor(stage: Stage) -> None:
    leader = stage.term()
    stage.now = datetime.now(UTC)
    before = stage.client.get(stage.keys.cursor("work"))
    with operators(stage) as client:
        occurrence = schedules.trigger(client, "work", actor=ANN)
        again = schedules.trigger(client, "work", actor=ANN)
    assert len({occurrence, again}) == 2
    stage.now = datetime.now(UTC)
    for _ in range(2):
        stage.upkeep(leader)
    assert len(stage.sent) == 2
    assert {(each.trigger, each.published) for each in stage.open()} == {("manual", 1)}
    after = stage.client.get(stage.keys.cursor("work"))
    assert before
    assert after
    assert before.mod_revision == after.mod_revision
    assert [each.action for each in stage.audits()] == ["trigger", "trigger"]


def test_a_start_by_hand_keeps_the_policies_of_the_job(stage: Stage) -> None:
    stage.term(job(overlap="queue-one", start_deadline=90, reruns=2))
    with operators(stage) as client:
        schedules.trigger(client, "work", actor=ANN)
    (record,) = stage.open()
    assert (record.overlap, record.reruns) == ("wait", 2)
    assert record.deadline == record.nominal + timedelta(seconds=90)


@pytest.mark.parametrize("change", [schedules.pause, schedules.resume, schedules.trigger])
def test_nothing_is_changed_for_a_job_that_nobody_plans(stage: Stage, change: Any) -> None:
    stage.term()
    with operators(stage) as client, pytest.raises(observe.NotFound, match="'wrok'"):
        change(client, "wrok", actor=ANN)
    assert not stage.audits()
    assert not stage.client.prefix(stage.keys.prefix("controls")).kvs
