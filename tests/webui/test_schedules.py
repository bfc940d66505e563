"""Schedules on the pages and in REST: made, changed and removed at run time; whose they are."""

from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from jobguard import Client, schedules
from jobguard.masking import MASK
from jobguard.operate import Actor
from jobguard.records import Deploy, Keys, Schedule
from tests.faces import NOW, put

ANN = Actor(by="ann", via="test", reason="asked for")
NIGHTLY = {"task": "t.nightly", "cron": "30 2 * * *", "kwargs": {"to": "all"}}


def planned_by_code(client: Client, job: str = "poll") -> None:
    times, since = "every 5000000 us", NOW - timedelta(hours=1)
    definition = Schedule(
        job=job, task="t.poll", text="every 5 s", fingerprint=times, since=since, version=7, by="h1"
    )
    put(client, Keys(client.namespace).schedule(job), definition)


def match(answer: Any) -> dict[str, str]:
    return {"If-Match": answer.headers["ETag"]}


def test_made_read_changed_and_removed(client: Client, api: FlaskClient) -> None:
    made = api.post("/api/v1/schedules", json={"job": "a/b nightly", **NIGHTLY, "reason": "asked for"})
    assert (made.status_code, made.json["source"]) == (201, "run time")
    path = made.headers["Location"]
    shown = api.get(path)
    assert shown.headers["ETag"] == made.headers["ETag"]
    assert (shown.json["job"], shown.json["kwargs"]) == ("a/b nightly", {"to": "all"})
    assert shown.json["by"].startswith("api at ")
    changed = api.put(path, json={"task": "t.nightly", "every_seconds": 60}, headers=match(shown))
    assert (changed.status_code, changed.json["text"]) == (200, "every 60 s")
    late = api.put(path, json=NIGHTLY, headers=match(shown))
    assert (late.status_code, late.mimetype) == (412, "application/problem+json")
    assert late.json["type"] == "urn:jobguard:problem:schedule-changed"
    assert late.json["current"]["text"] == "every 60 s"
    assert api.delete(path, headers=match(shown)).status_code == 412
    assert api.delete(path, headers=match(changed)).status_code == 200
    assert api.get(path).status_code == 404
    told = api.get("/api/v1/schedule-changes", query_string={"job": "a/b nightly"}).json["items"]
    assert [each["action"] for each in told] == ["remove", "change", "add"]


def test_what_is_missing_taken_or_wrong(client: Client, api: FlaskClient) -> None:
    planned_by_code(client)
    (poll,) = api.get("/api/v1/schedules").json["items"]
    path = f"/api/v1/schedules/{poll['id']}"
    assert (poll["source"], poll["version"], poll["by"]) == ("code", 7, "h1")
    assert api.put(path, json=NIGHTLY).status_code == 428
    assert api.delete(path).status_code == 428
    taken = api.post("/api/v1/schedules", json={"job": "poll", **NIGHTLY})
    assert (taken.status_code, taken.json["type"]) == (409, "urn:jobguard:problem:schedule-exists")
    of_code = api.put(path, json=NIGHTLY, headers=match(api.get(path)))
    assert of_code.status_code == 400
    assert "comes from the code" in of_code.json["detail"]
    for body in ({"job": "x", "task": "t"}, {"job": "x", **NIGHTLY, "croon": "1"}, {"task": "t"}):
        assert api.post("/api/v1/schedules", json=body).status_code == 400
    assert api.get("/api/v1/schedules/zzz").status_code == 404


def test_secrets_are_shown_to_nobody_and_survive_being_sent_back(client: Client, api: FlaskClient) -> None:
    secret = {"to": "all", "api_token": "s3cr3t", "store": "redis://u:s3cr3t@h/0"}
    made = api.post("/api/v1/schedules", json={"job": "nightly", **NIGHTLY, "kwargs": secret})
    path, shown = made.headers["Location"], made.json["kwargs"]
    assert shown == {"to": "all", "api_token": MASK, "store": f"redis://u:{MASK}@h/0"}
    later = {**NIGHTLY, "cron": "0 3 * * *", "kwargs": shown | {"to": "ann"}}
    changed = api.put(path, json=later, headers=match(made))
    assert changed.json["kwargs"] == shown | {"to": "ann"}
    assert schedules.get(client, "nightly").kwargs == secret | {"to": "ann"}
    unknown = {**NIGHTLY, "kwargs": {"password": MASK}}
    for refused in (
        api.put(path, json=unknown, headers=match(changed)),
        api.post("/api/v1/schedules", json={"job": "another", **unknown}),
    ):
        assert refused.status_code == 400
        assert "stands for a secret" in refused.json["detail"]
    late = api.put(path, json=later, headers=match(made))
    removed = api.delete(path, headers=match(changed))
    for answer in (made, changed, late, removed, api.get("/api/v1/schedule-changes")):
        assert "s3cr3t" not in answer.text
    assert removed.json["removed"]["kwargs"] == shown | {"to": "ann"}


@pytest.mark.parametrize("method", ["put", "delete"])
def test_a_stranger_changes_nothing(client: Client, stranger: FlaskClient, method: str) -> None:
    planned_by_code(client)
    answer = getattr(stranger, method)("/api/v1/schedules/cG9sbA", json=NIGHTLY, headers={"If-Match": '"1"'})
    assert answer.status_code == 401
    assert stranger.post("/api/v1/schedules", json={"job": "x", **NIGHTLY}).status_code == 401


def test_the_page_says_where_each_comes_from_and_who_changed_it(client: Client, pages: FlaskClient) -> None:
    assert "Nothing is planned yet" in pages.get("/schedules/").text
    planned_by_code(client)
    schedules.add(client, "nightly", schedules.Definition(task="t.nightly", cron="30 2 * * *"), actor=ANN)
    schedules.pause(client, "nightly", actor=ANN)
    text = pages.get("/schedules/").text
    for words in (
        "run time",
        "ann",
        "version 7",
        "every 5 s",
        "30 2 * * * UTC",
        "paused",
        "asked for",
        "add",
    ):
        assert words in text


def test_what_is_behind(client: Client, api: FlaskClient, pages: FlaskClient) -> None:
    assert api.get("/api/v1/late").json["items"] == []
    assert "Behind" not in pages.get("/schedules/").text
    planned_by_code(client)  # and by no beat
    (late,) = api.get("/api/v1/late").json["items"]
    assert (late["job"], late["state"], late["why"]) == ("poll", "not planned", "no beat leads")
    assert "not planned, no beat leads" in pages.get("/schedules/").text


def test_a_backfill(client: Client, api: FlaskClient) -> None:
    planned_by_code(client)
    path = "/api/v1/schedules/cG9sbA/backfills"
    window = {"start": "2026-11-01T00:00:00Z", "end": "2026-11-01T00:01:00Z"}
    counted = api.get(path, query_string=window)
    assert (counted.json["count"], counted.json["first"]) == (12, "2026-11-01T00:00:00Z")
    wrong = api.post(path, json={**window, "count": 11})
    assert (wrong.status_code, wrong.json["type"]) == (409, "urn:jobguard:problem:not-confirmed")
    planned = api.post(path, json={**window, "count": 12, "reason": "the import was wrong"})
    assert planned.status_code == 201
    assert len(planned.json["planned"]) == 12
    assert api.get(path, query_string={**window, "end": "soon"}).status_code == 400
    assert api.get(path, query_string={**window, "end": "2026-11-01T00:01:00"}).status_code == 400


def test_paused_resumed_and_started_now(client: Client, api: FlaskClient) -> None:
    planned_by_code(client)
    path = "/api/v1/schedules/cG9sbA"
    assert api.post(f"{path}/pause", json={}).status_code == 400
    end = "2199-01-01T00:00:00Z"
    paused = api.post(f"{path}/pause", json={"reason": "mail moves", "until": end})
    assert (paused.json["paused"], paused.json["paused_until"]) == (True, end)
    assert paused.json == api.get(path).json
    resumed = api.post(f"{path}/resume")
    assert (resumed.status_code, resumed.json["paused"]) == (200, False)
    started = api.post(f"{path}/trigger", json={"reason": "was edited"})
    assert started.status_code == 201
    run = api.get(started.headers["Location"]).json
    assert (run["job"], run["trigger"]) == ("poll", "manual")
    assert (run["id"], run["nominal_time"]) == (started.json["run_id"], started.json["nominal_time"])
    for action in ("pause", "resume", "trigger"):
        assert api.post(f"/api/v1/schedules/eA/{action}", json={"reason": "x"}).status_code == 404


def test_the_next_times_of_one(client: Client, api: FlaskClient) -> None:
    planned_by_code(client)
    path = "/api/v1/schedules/cG9sbA/fires"
    found = api.get(path, query_string={"count": 3}).json
    assert (found["job"], len(found["fires"])) == ("poll", 3)
    assert set(found["fires"][0]) == {"nominal", "local", "note"}
    assert len(api.get(path).json["fires"]) == 5
    assert api.get(path, query_string={"count": 1001}).status_code == 400


def test_a_deploy_is_rolled_back(client: Client, api: FlaskClient) -> None:
    assert api.get("/api/v1/deploy").status_code == 404
    nothing = api.put("/api/v1/deploy", json={"version": 7})
    assert (nothing.status_code, nothing.json) == (200, {"version": 7, "deploy": None})
    put(client, Keys(client.namespace).deploy(), Deploy(version=42, registered=NOW, by="h1"))
    there = api.get("/api/v1/deploy").json
    assert (there["version"], there["by"], there["rolled_back_from"]) == (42, "h1", None)
    older = api.put("/api/v1/deploy", json={"version": 41})
    assert (older.status_code, older.json["type"]) == (409, "urn:jobguard:problem:older-schedule")
    forced = api.put("/api/v1/deploy", json={"version": 41, "force": True, "reason": "the deploy was bad"})
    assert forced.json["deploy"] == api.get("/api/v1/deploy").json
    assert (forced.json["deploy"]["version"], forced.json["deploy"]["rolled_back_from"]) == (41, 42)
    assert forced.json["deploy"]["registered_at"] is None


BEFORE_ALL, AFTER_ALL = "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"


def test_what_no_calendar_holds_is_refused(client: Client, api: FlaskClient) -> None:
    path = api.post("/api/v1/schedules", json={"job": "n", **NIGHTLY}).headers["Location"]
    for moment in (BEFORE_ALL, AFTER_ALL):
        at = {"job": "x", "task": "t", "at": moment}
        pause = {"reason": "x", "until": moment}
        window = {"start": moment, "end": "2020-01-01T00:00:00Z"}
        assert api.post("/api/v1/schedules", json=at).status_code == 400
        assert api.post(f"{path}/pause", json=pause).status_code == 400
        assert api.post(f"{path}/backfills", json={**window, "count": 0}).status_code == 400
        assert api.get(f"{path}/backfills", query_string=window).status_code == 400
    first = {"start": "0001-01-01T00:00:00Z", "end": "0001-01-02T00:00:00Z"}
    assert api.get(f"{path}/backfills", query_string=first).status_code == 400
    for_ages = {"job": "x", "task": "t", "every_seconds": 3e11}
    assert api.post("/api/v1/schedules", json=for_ages).status_code == 400


def test_one_that_is_paused_until_the_last_of_all_days_hides_no_other(
    client: Client, api: FlaskClient
) -> None:
    path = api.post("/api/v1/schedules", json={"job": "n", **NIGHTLY}).headers["Location"]
    paused = api.post(f"{path}/pause", json={"reason": "for ever", "until": "9999-12-31T23:59:59Z"})
    assert (paused.status_code, paused.json["due_next"]) == (200, None)
    assert [each["paused"] for each in api.get("/api/v1/schedules").json["items"]] == [True]


def test_a_body_that_is_nested_too_deep_and_a_revision_of_too_many_digits(
    client: Client, api: FlaskClient
) -> None:
    body = f'{{"job": "x", "task": "t", "every_seconds": 60, "args": {"[" * 20000}{"]" * 20000}}}'
    assert api.post("/api/v1/schedules", data=body).status_code == 400
    path = api.post("/api/v1/schedules", json={"job": "n", **NIGHTLY}).headers["Location"]
    many = {"If-Match": f'"{"9" * 5000}"'}
    assert api.put(path, json=NIGHTLY, headers=many).status_code == 412
