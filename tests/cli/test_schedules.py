"""jobguard schedules: what is planned, its next times, and pausing, resuming and starting by hand."""

import json
from collections.abc import Callable
from datetime import timedelta

import pytest
from click.testing import Result

from jobguard import Client
from jobguard.records import Audit, Control, Deploy, Keys, Open, Schedule, decode
from tests.faces import NOW, put

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def planned(client: Client) -> None:
    keys = Keys(client.namespace)
    for job, times in (("digest", "cron 30 2 * * * Europe/Berlin skip"), ("poll", "every 5000000 us")):
        definition = Schedule(
            job=job, task=f"tasks.{job}", text=times, fingerprint=times, since=NOW - timedelta(days=1)
        )
        put(client, keys.schedule(job), definition)


def control(client: Client, job: str) -> Control:
    kv = client.get(Keys(client.namespace).control(job))
    assert kv
    return decode(kv.value, Control)


def test_the_list_says_when_each_is_due_and_who_paused_it(client: Client, run: Run) -> None:
    run("schedules", "pause", "digest", "--reason", "mail moves")
    heads, digest, poll = run("schedules", "list").stdout.splitlines()
    assert heads.split() == ["JOB", "DUE", "NEXT", "TIMES", "TASK", "FROM", "PAUSED"]
    assert digest.endswith(": mail moves")
    assert poll.split()[-2:] == ["tasks.poll", "code"]
    listed = json.loads(run("schedules", "list", "-o", "json").stdout)["items"]
    assert [(each["job"], each["paused"]) for each in listed] == [("digest", True), ("poll", False)]
    assert [each["due_next"] is None for each in listed] == [True, False]


def test_what_is_due_at_the_end_of_a_pause_is_due_next(run: Run) -> None:
    run("schedules", "pause", "poll", "--reason", "mail moves", "--until", "2199-01-01T00:00:05Z")
    _, poll = json.loads(run("schedules", "list", "-o", "json").stdout)["items"]
    assert (poll["due_next"], poll["paused_until"]) == ("2199-01-01T00:00:05Z",) * 2


def test_a_preview_shows_utc_and_the_wall(run: Run) -> None:
    heads, *rows = run("schedules", "preview", "digest", "-n", "400").stdout.splitlines()
    assert heads.split() == ["UTC", "ON", "THE", "WALL", "NOTE"]
    assert len(rows) == 400
    assert all("T02:30:00+0" in row for row in rows)
    assert any("02:30 does not exist and is left out" in row for row in rows)


def test_a_job_is_paused_until_a_time_and_resumed(client: Client, run: Run) -> None:
    answer = run("schedules", "pause", "poll", "--reason", "moves", "--until", "2199-01-01T01:00+01:00")
    assert answer.stdout == "poll is paused until 2199-01-01T00:00:00Z.\n"
    assert control(client, "poll").paused
    assert run("schedules", "resume", "poll").stdout == "poll is planned again.\n"
    assert not control(client, "poll").paused
    entries = client.prefix(Keys(client.namespace).prefix("audit")).kvs
    assert [decode(kv.value, Audit).action for kv in entries] == ["pause", "resume"]


@pytest.mark.parametrize(
    ("until", "text"),
    [
        ("soon", "--until soon is no moment, such as 2026-12-01T06:00Z"),
        ("2199-01-01", "--until 2199-01-01 needs a time and an offset: 2199-01-01T00:00Z in UTC"),
        ("2199-01-01T01:00", "--until 2199-01-01T01:00 needs an offset: 2199-01-01T01:00Z for UTC"),
        ("2020-01-01T01:00Z", "would be over already."),
    ],
)
def test_an_end_that_is_no_moment_to_come_is_refused(client: Client, run: Run, until: str, text: str) -> None:
    answer = run("schedules", "pause", "poll", "--reason", "moves", "--until", until)
    assert answer.exit_code == 2
    assert answer.stderr.rstrip().endswith(text)
    assert client.get(Keys(client.namespace).control("poll")) is None


def test_a_job_is_started_now(client: Client, run: Run) -> None:
    answer = json.loads(run("schedules", "trigger", "poll", "-o", "json").stdout)
    (kv,) = client.prefix(Keys(client.namespace).prefix("open", "poll")).kvs
    record = decode(kv.value, Open)
    assert (record.trigger, record.task, record.planner) == ("manual", "tasks.poll", "")
    assert answer["job"] == "poll"


@pytest.mark.parametrize("words", [("preview",), ("pause", "--reason", "r"), ("resume",), ("trigger",)])
def test_a_job_that_nobody_plans_is_exit_code_3(run: Run, words: tuple[str, ...]) -> None:
    answer = run("schedules", words[0], "nothing", *words[1:])
    assert (answer.exit_code, answer.stdout) == (3, "")
    assert "no job 'nothing' is planned" in answer.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("preview", "digets"),
        ("pause", "digets", "--reason", "r"),
        ("trigger", "digets"),
        ("remove", "digets"),
        ("backfill", "digets", "--from", "2026-11-01T00:00Z", "--to", "2026-11-08T00:00Z"),
    ],
)
def test_the_nearest_name_is_suggested(run: Run, words: tuple[str, ...]) -> None:
    assert run("schedules", *words).stderr == "Error: no job 'digets' is planned; did you mean 'digest'?\n"


def test_what_was_done_by_hand_is_told_too(run: Run) -> None:
    run("schedules", "pause", "poll", "--reason", "mail moves", "--until", "2199-01-01T00:00Z")
    run("schedules", "pause", "poll", "--reason", "for good")
    run("schedules", "resume", "poll")
    run("schedules", "trigger", "poll", "--reason", "to see it")
    window = ("--from", "2026-11-01T00:00Z", "--to", "2026-11-01T00:00:10Z", "--confirm", "2")
    run("schedules", "backfill", "poll", *window)
    told = json.loads(run("schedules", "changes", "poll", "-o", "json").stdout)["items"]
    assert [(each["action"], each["reason"]) for each in told] == [
        ("backfill", ""),
        ("trigger", "to see it"),
        ("resume", ""),
        ("pause", "for good"),
        ("pause", "mail moves"),
    ]
    backfill, trigger, resume, good, until = (each["what"] for each in told)
    assert backfill.startswith("1 to 2 of 2: 2026-11-01T00:00:00.000001Z to ")
    assert trigger.startswith("the run of 20")
    assert [resume, good, until] == ["", "until it is resumed", "until 2199-01-01T00:00:00Z"]


def test_a_schedule_is_made_changed_and_removed_and_each_is_told(run: Run) -> None:
    made = run("schedules", "add", "nightly", "--task", "t.nightly", "--cron", "30 2 * * *", "--args", "[1]")
    assert made.stdout.startswith("nightly is planned 30 2 * * * UTC, next ")
    later = ("--zone", "Europe/Berlin", "--policy", '{"overlap": "allow"}', "--reason", "moved")
    assert "30 2 * * * Europe/Berlin" in run("schedules", "change", "nightly", *later).stdout
    listed = {
        each["job"]: each for each in json.loads(run("schedules", "list", "-o", "json").stdout)["items"]
    }
    nightly = listed["nightly"]
    assert (nightly["source"], nightly["args"], nightly["policy"]["overlap"]) == ("run time", [1], "allow")
    assert nightly["by"]
    assert run("schedules", "remove", "nightly").stdout == "nightly is no longer planned.\n"
    heads, remove, change, add = run("schedules", "changes", "nightly").stdout.splitlines()
    assert heads.split() == ["AT", "JOB", "ACTION", "BY", "WHY", "WHAT"]
    assert "remove" in remove
    assert "moved" in change
    assert "overlap from skip to allow" in change
    assert "add" in add


def test_once_and_every(run: Run) -> None:
    once = json.loads(
        run("schedules", "add", "once", "--task", "t", "--at", "2199-01-01T01:00+01:00", "-o", "json").stdout
    )
    assert (once["text"], once["due_next"]) == ("once, 2199-01-01T00:00:00Z", "2199-01-01T00:00:00Z")
    changed = json.loads(run("schedules", "change", "once", "--every", "30", "-o", "json").stdout)
    assert changed["text"] == "every 30 s"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("add", "poll", "--task", "t", "--every", "5"), 4, "comes from the code"),
        (("change", "poll", "--every", "5"), 2, "comes from the code"),
        (("remove", "poll"), 2, "comes from the code"),
        (("remove", "nothing"), 3, "no job 'nothing' is planned"),
        (("add", "new", "--every", "5"), 2, "the name of a task"),
        (("add", "new", "--task", "t"), 2, "exactly one of"),
        (("add", "new", "--task", "t", "--every", "5", "--cron", "* * * * *"), 2, "choose one of"),
        (("add", "new", "--task", "t", "--every", "5", "--kwargs", "[1]"), 2, "JSON"),
        (("add", "new", "--task", "t", "--at", "2199-01-01T01:00"), 2, "--at 2199-01-01T01:00 needs"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(
    run: Run, words: tuple[str, ...], code: int, text: str
) -> None:
    answer = run("schedules", *words)
    assert (answer.exit_code, answer.stdout) == (code, "")
    assert text in answer.stderr


def test_a_version_is_rolled_back_only_by_force(client: Client, run: Run) -> None:
    put(client, Keys(client.namespace).deploy(), Deploy(version=6, registered=NOW))
    refused = run("schedules", "install", "--version", "5")
    assert refused.exit_code == 4
    assert "version 6 is in force; only --force puts version 5 in its place" in refused.stderr
    forced = run("schedules", "install", "--version", "5", "--force", "--reason", "the deploy was bad")
    assert "the next beat of version 5 that leads" in forced.stdout.lower()
    assert "from version 6 to version 5" in run("schedules", "changes").stdout


def test_a_backfill_is_counted_first_and_confirmed_by_the_count(client: Client, run: Run) -> None:
    window = ("backfill", "digest", "--from", "2026-11-01T00:00Z", "--to", "2026-11-08T00:00Z")
    counted = run("schedules", *window)
    assert counted.stdout == (
        "7 runs of digest, 2026-11-01T01:30:00Z to 2026-11-07T01:30:00Z, one after the other.\n"
    )
    assert "--confirm 7" in counted.stderr
    assert run("schedules", *window, "--confirm", "6").exit_code == 4
    assert run("schedules", *window, "--confirm", "7").stdout == "7 runs of digest are planned.\n"
    assert len(client.prefix(Keys(client.namespace).prefix("open", "digest")).kvs) == 7


def test_what_is_behind_is_listed(client: Client, run: Run) -> None:
    heads, row = (line.split() for line in run("schedules", "late").stdout.splitlines()[:2])
    assert heads == ["JOB", "DUE", "STATE", "BEHIND", "WHY"]
    assert row[2:4] == ["not", "planned"]
    late = json.loads(run("schedules", "late", "-o", "json").stdout)["items"]
    assert "no beat leads" in late[0]["why"]


def test_secrets_are_shown_to_nobody(run: Run) -> None:
    said = '{"password": "s3cr3t", "to": "all"}'
    added = run("schedules", "add", "x", "--task", "t", "--every", "60", "--kwargs", said, "-o", "json")
    moved = run("schedules", "change", "x", "--every", "90", "-o", "json")
    listed = run("schedules", "list", "-o", "json")
    removed = run("schedules", "remove", "x", "-o", "json")
    for answer in (added, moved, listed, removed):
        assert '"to": "all"' in answer.stdout
        assert "s3cr3t" not in answer.stdout
