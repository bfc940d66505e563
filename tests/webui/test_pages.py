"""The pages show what the store holds, whatever it is called."""

import pytest
from flask.testing import FlaskClient

from jobguard import Client
from jobguard.observe import BadCursor, runs
from jobguard.records import Keys, Open, Verdict
from tests.faces import NOW, done, ended, occurrence, put, queue, run_of, told_no
from tests.stores import eventually

EVIL = "<script>alert('job')</script>/../ü?#%41"


def test_the_overview_answers_the_three_questions(client: Client, pages: FlaskClient) -> None:
    lease = client.grant(600).id
    for number, host in enumerate(("beat-1", "beat-2")):
        value = f'{{"host":"{host}","pid":{number},"since":"2026-11-24T02:00:00Z","kind":"election"}}'
        client.put(client.key("elections", "beat", f"{lease:x}", host), value, lease)
    told_no(client, run_of(client, "digest", lease=lease))
    ended(client, done("report", 60, Verdict.SKIPPED, "another run is on worker-9 pid 9"))
    client.put(client.key("config", "digest", "sender"), '"news@example.org"')
    client.put(client.key("config", "smtp", "password"), '"hunter2"')
    page = pages.get("/").text
    for told in ("beat-1", "beat-2", "Standing by", "celery@w1", "digest", "running", "4242"):
        assert told in page
    assert "another run is on worker-9 pid 9" in page
    assert "celery@w2 pid 99 was told no for attempt 1: already running on worker-1 pid 4242" in page
    assert "news@example.org" in page
    assert "hunter2" not in page
    eventually(lambda: "1 of 1 node answers" in pages.get("/").text)


def test_an_empty_store_says_what_to_do_next(pages: FlaskClient) -> None:
    page = pages.get("/").text
    for told in ("No beat leads", "Nothing runs", "No lock is held", "jobguard config put"):
        assert told in page
    assert "Nothing is held" in pages.get("/locks/").text
    assert "Nothing has been planned" in pages.get("/runs/").text


def test_locks_show_holder_token_lease_and_waiters(
    client: Client, pages: FlaskClient, api: FlaskClient
) -> None:
    with queue(client, "nightly export", contenders=3), queue(client, "other"):
        (lock,) = api.get("/api/v1/locks?name=nightly export").json["items"]
        page = pages.get("/locks/").text
        for told in ("nightly export", "host-0", "pid 100", str(lock["fencing_token"]), "of 600 s", "alive"):
            assert told in page
        found = pages.get("/locks/?name=NIGHT").text
        assert "nightly export" in found
        assert ">other<" not in found
        detail = pages.get(f"/locks/{lock['id']}").text
        for told in ("host-1", "host-2", "served in this order", "The process is not stopped"):
            assert told in detail


def test_names_may_hold_anything(client: Client, pages: FlaskClient, api: FlaskClient) -> None:
    with queue(client, EVIL):
        (lock,) = api.get("/api/v1/locks").json["items"]
        assert lock["name"] == EVIL
        assert api.get(f"/api/v1/locks/{lock['id']}").json["name"] == EVIL
        ended(client, done(EVIL, 5, Verdict.FAILED, EVIL))
        told_no(client, occurrence(EVIL, 5))
        (run,) = api.get("/api/v1/runs", query_string={"job": EVIL}).json["items"]
        for path in ("/", "/locks/", "/runs/", f"/locks/{lock['id']}", f"/runs/{run['id']}"):
            page = pages.get(path)
            assert page.status_code == 200
            assert "<script>alert" not in page.text


def test_a_run_shows_its_attempts_and_why(client: Client, pages: FlaskClient, api: FlaskClient) -> None:
    run_of(client, "digest", n=2, lease=client.grant(600).id)
    (run,) = api.get("/api/v1/runs").json["items"]
    assert (run["verdict"], run["attempts"]) == ("running", 2)
    page = pages.get(f"/runs/{run['id']}").text
    assert "celery@w1 pid 4242 runs attempt 2" in page
    whole = api.get(f"/api/v1/runs/{run['id']}").json
    assert [(one["attempt"], one["host"]) for one in whole["history"]] == [(2, "worker-1")]


def test_a_run_shows_the_deliveries_of_it_that_were_told_no(
    client: Client, pages: FlaskClient, api: FlaskClient
) -> None:
    run_of(client, "digest", lease=client.grant(600).id)
    (run,) = api.get("/api/v1/runs").json["items"]
    assert "Told no" not in pages.get(f"/runs/{run['id']}").text
    told_no(client, occurrence("digest", 5))
    told_no(client, occurrence("another"), slot=1)
    page = pages.get(f"/runs/{run['id']}").text
    assert page.count("was told no for attempt 1") == 1


def test_a_run_whose_worker_lost_its_lease_is_not_called_running(client: Client, api: FlaskClient) -> None:
    run_of(client, "digest", lease=(lease := client.grant(600).id))
    client.revoke(lease)
    (run,) = api.get("/api/v1/runs").json["items"]
    assert run["verdict"] == "lapsed"
    assert run["fencing_token"] is None


def test_runs_are_found_by_job_and_verdict(client: Client, pages: FlaskClient, api: FlaskClient) -> None:
    ended(client, *(done("a", age) for age in range(10, 15)), done("b", 3, Verdict.LATE, "nobody came"))
    assert {run["job"] for run in api.get("/api/v1/runs?job=a").json["items"]} == {"a"}
    (late,) = api.get("/api/v1/runs?verdict=late").json["items"]
    assert (late["job"], late["reason"]) == ("b", "nobody came")
    assert "nobody came" in pages.get("/runs/?verdict=late").text
    assert "No run matches" in pages.get("/runs/?job=c").text


def test_pages_of_runs_lose_none_and_repeat_none(client: Client) -> None:
    """Verdicts written in one revision have no order of their own; a page may end in the middle of them."""
    keys = Keys(client.namespace)
    records = [done(f"job{n % 7}", 100 + n) for n in range(60)]
    for first in range(0, 60, 20):
        ops = [(keys.done(each.occurrence), each) for each in records[first : first + 20]]
        write_together(client, ops)
    put(client, keys.open(occurrence("going")), Open(n=1, r=0, job="going", nominal=NOW, task="t"))
    for limit in (1, 7, 20, 21, 60):
        found, cursor, pages_read = [], None, 0
        while True:
            page = runs(client, limit=limit, cursor=cursor)
            found += [(run.job, run.nominal_time) for run in page.items]
            pages_read += 1
            cursor = page.next_cursor
            if cursor is None:
                break
        assert len(found) == len(set(found)) == 61, limit
        assert found[0][0] == "going"
        assert pages_read <= 60 // limit + 1


def write_together(client: Client, ops: list[tuple[bytes, object]]) -> None:
    from jobguard.client import put_op
    from jobguard.records import encode

    client.txn(success=[put_op(key, encode(record)) for key, record in ops])  # type: ignore[arg-type]


def test_filtered_pages_go_on_where_the_last_one_stopped(client: Client) -> None:
    ended(client, *(done("a", n, Verdict.LATE if n % 10 == 0 else Verdict.RAN) for n in range(1, 51)))
    first = runs(client, verdict="late", limit=3)
    second = runs(client, verdict="late", limit=3, cursor=first.next_cursor)
    assert [len(first.items), len(second.items)] == [3, 2]
    assert second.next_cursor is None


def test_a_made_up_cursor_is_refused(client: Client, pages: FlaskClient, api: FlaskClient) -> None:
    with pytest.raises(BadCursor):
        runs(client, cursor="zzz")
    answer = api.get("/api/v1/runs?cursor=zzz")
    assert (answer.status_code, answer.json["type"]) == (400, "urn:jobguard:problem:bad-cursor")
    assert pages.get("/runs/?cursor=zzz").status_code == 400


@pytest.mark.parametrize("path", ["/locks/zzz", "/runs/zzz", "/locks/bG9ja3M", "/nothing"])
def test_what_is_not_there_is_a_page_that_says_so(pages: FlaskClient, path: str) -> None:
    answer = pages.get(path)
    assert answer.status_code == 404
    assert "<h1>Not" in answer.text
