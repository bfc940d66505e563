"""REST: shapes that programs rely on."""

import pytest
from flask.testing import FlaskClient

from jobguard import Client
from tests.faces import done, ended, queue


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
            "ttl_seconds": 30,
            "waiters": 1,
        }
        assert {name: lock[name] for name in wanted} == wanted
        assert 0 < lock["seconds_left"] <= 30
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
    lease = client.grant(30).id
    value = '{"host":"beat-1","pid":7,"since":"2026-11-24T02:00:00Z"}'
    client.put(client.key("elections", "beat", f"{lease:x}", "x"), value, lease)
    cluster = api.get("/api/v1/cluster").json
    (member,) = cluster["members"]
    assert (cluster["health"], member["state"], cluster["leader"]) == ("well", "leader", member["name"])
    (leader,) = api.get("/api/v1/leaders").json["items"]
    assert (leader["election"], leader["host"], leader["candidates"]) == ("beat", "beat-1", 1)
    (entry,) = api.get("/api/v1/config").json["items"]
    assert (entry["key"], entry["value"]) == ("digest/batch", 500)


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
