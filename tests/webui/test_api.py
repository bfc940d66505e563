"""REST: shapes that programs rely on."""

import pytest
from flask.testing import FlaskClient

from jobguard import Client
from jobguard.records import Audit, decode
from tests.faces import done, ended, occurrence, queue, run_of, told_no
from tests.stores import eventually


def test_a_lock_in_full(client: Client, api: FlaskClient) -> None:
    with queue(client, "nightly", contenders=2):
        listed = api.get("/api/v1/locks").json
        assert set(listed) == {"items", "next_cursor", "revision", "stale"}
        (lock,) = listed["items"]
        wanted = {
            "name": "nightly",
            "kind": "lock",
            "host": "host-0",
            "pid": 100,
            "since": "2026-11-24T02:00:00Z",
            "ttl_seconds": 600,
            "waiters": 1,
        }
        assert {name: lock[name] for name in wanted} == wanted
        assert 0 < lock["seconds_left"] <= 600
        assert lock["fencing_token"] == lock["revision"] > 0
        one = api.get(f"/api/v1/locks/{lock['id']}")
        assert one.headers["ETag"] == f'"{lock["revision"]}"'
        assert one.headers["Jobguard-Read"] == "linearizable"
        assert one.json["id"] == lock["id"]


def test_lists_go_on_by_cursor(client: Client, api: FlaskClient) -> None:
    with queue(client, "a"), queue(client, "b"), queue(client, "c"):
        first = api.get("/api/v1/locks?limit=2").json
        second = api.get(f"/api/v1/locks?limit=2&cursor={first['next_cursor']}").json
        assert [lock["name"] for lock in first["items"] + second["items"]] == ["a", "b", "c"]
        assert second["next_cursor"] is None


def test_an_unchanged_list_costs_no_transfer(client: Client, api: FlaskClient) -> None:
    ended(client, done("a", 5))
    first = api.get("/api/v1/runs")
    again = api.get("/api/v1/runs", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_cluster_leaders_and_config(client: Client, api: FlaskClient) -> None:
    client.put(client.key("config", "digest", "batch"), "500")
    lease = client.grant(600).id
    value = '{"host":"beat-1","pid":7,"since":"2026-11-24T02:00:00Z"}'
    client.put(client.key("elections", "beat", f"{lease:x}", "x"), value, lease)

    def well() -> bool:
        """Unless the node did not answer in a second."""
        cluster = api.get("/api/v1/cluster").json
        (member,) = cluster["members"]
        return (cluster["health"], member["state"], cluster["leader"]) == ("well", "leader", member["name"])

    eventually(well)
    (leader,) = api.get("/api/v1/leaders").json["items"]
    assert (leader["election"], leader["host"], leader["candidates"]) == ("beat", "beat-1", 1)
    (entry,) = api.get("/api/v1/config").json["items"]
    assert (entry["key"], entry["value"]) == ("digest/batch", 500)


def test_a_refusal_says_who_was_told_no_and_who_holds_it(client: Client, api: FlaskClient) -> None:
    told_no(client, run := run_of(client, "digest", lease=client.grant(600).id))
    listed = api.get("/api/v1/refusals").json
    assert set(listed) == {"items", "next_cursor", "revision", "stale"}
    (refusal,) = listed["items"]
    wanted = {"job": "digest", "attempt": 1, "task_id": "4711", "reason": "running"}
    assert {name: refusal[name] for name in wanted} == wanted
    assert (refusal["host"], refusal["pid"], refusal["worker"]) == ("worker-2", 99, "celery@w2")
    holder = refusal["holder"]
    assert (holder["host"], holder["pid"], holder["fencing_token"]) == ("worker-1", 4242, 77)
    assert refusal["why"] == (
        "celery@w2 pid 99 was told no for attempt 1: "
        "already running on worker-1 pid 4242 (celery@w1, token 77)."
    )
    whole = api.get(f"/api/v1/runs/{refusal['run_id']}").json
    assert (whole["job"], whole["refusals"]) == (run.job, [refusal])


def test_refusals_by_job_run_and_page_the_latest_first(client: Client, api: FlaskClient) -> None:
    for slot in range(5):
        told_no(client, occurrence("ab"[slot % 2], 60 * slot), slot=slot, seconds_ago=10 - slot)
    first = api.get("/api/v1/refusals?limit=3").json
    second = api.get("/api/v1/refusals", query_string={"limit": 3, "cursor": first["next_cursor"]}).json
    found = first["items"] + second["items"]
    assert [each["job"] for each in found] == ["a", "b", "a", "b", "a"]
    assert [each["refused_at"] for each in found] == sorted((e["refused_at"] for e in found), reverse=True)
    assert second["next_cursor"] is None
    assert [each["job"] for each in api.get("/api/v1/refusals?job=b").json["items"]] == ["b", "b"]
    (one,) = api.get(f"/api/v1/refusals?run={found[0]['run_id']}").json["items"]
    assert one == found[0]
    assert api.get("/api/v1/refusals?job=c").json["items"] == []


def test_one_that_nobody_stands_in_the_way_of_has_no_holder(client: Client, api: FlaskClient) -> None:
    told_no(client, occurrence("digest"), token=0)
    (refusal,) = api.get("/api/v1/refusals").json["items"]
    assert refusal["holder"] is None
    assert "token" not in refusal["why"]


def test_configuration_is_set_only_by_who_saw_what_it_was(client: Client, api: FlaskClient) -> None:
    path = "/api/v1/config/digest/batch"
    assert api.get(path).status_code == 404
    assert api.put(path, json={"value": 500}).status_code == 428
    assert api.put(path, json={"value": 500}, headers={"If-Match": '"7"'}).status_code == 404
    new = {"If-None-Match": "*"}
    made = api.put(path, json={"value": 500, "reason": "slow mails"}, headers=new)
    assert (made.status_code, made.json["key"], made.json["value"]) == (200, "digest/batch", 500)
    assert made.headers["ETag"] == api.get(path).headers["ETag"] == f'"{made.json["revision"]}"'
    again = api.put(path, json={"value": 501}, headers=new)
    assert (again.status_code, again.json["type"]) == (412, "urn:jobguard:problem:value-changed")
    assert again.json["current"]["value"] == 500
    seen = {"If-Match": made.headers["ETag"]}
    changed = api.put(path, json={"value": {"size": 600}}, headers=seen)
    assert changed.json["value"] == {"size": 600}
    assert api.put(path, json={"value": 700}, headers=seen).json["current"]["value"] == {"size": 600}
    assert api.put(path, json={"value": 700}, headers={"If-Match": "*"}).status_code == 428
    assert api.put(path, json={"reason": "none"}, headers=seen).status_code == 400
    audits = [decode(kv.value, Audit) for kv in client.prefix(client.key("audit") + "/").kvs]
    assert [(each.target, each.after, each.via) for each in audits] == [
        ("digest/batch", "500", "api"),
        ("digest/batch", '{"size":600}', "api"),
    ]


def test_the_doctor_looks_at_the_store(api: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobguard.doctor._PATIENCE_S", 30.0)
    found = api.get("/api/v1/doctor").json
    checks = {each["check"]: each["status"] for each in found["findings"]}
    assert (found["worst"], checks["endpoints"], checks["beats"]) == ("fail", "pass", "fail")


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "verdict=nonsense"])
def test_a_query_that_cannot_be_is_refused(api: FlaskClient, query: str) -> None:
    answer = api.get(f"/api/v1/runs?{query}")
    assert (answer.status_code, answer.mimetype) == (400, "application/problem+json")


@pytest.mark.parametrize("path", ["nothing", "locks/zzz", "locks/bG9ja3M", "runs/zzz", "runs/eA"])
def test_not_found_is_a_problem_too(api: FlaskClient, path: str) -> None:
    answer = api.get(f"/api/v1/{path}")
    assert (answer.status_code, answer.mimetype) == (404, "application/problem+json")
    assert set(answer.json) >= {"type", "title", "status", "detail", "instance"}


def test_a_wrong_method_is_a_problem_that_names_the_right_ones(api: FlaskClient) -> None:
    answer = api.post("/api/v1/locks")
    assert (answer.status_code, answer.mimetype) == (405, "application/problem+json")
    assert "GET" in answer.headers["Allow"]
