"""The release by hand: from the holder the operator saw, and in one transaction with its audit entry."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import msgspec
import pytest
from flask import Flask
from flask.testing import FlaskClient

from jobguard import Client, observe, operate
from jobguard.records import Attempt, Audit, Done, Keys, Open, Verdict, decode
from jobguard_webui import create_app
from tests.client.proxy import proxied
from tests.faces import queue, run_of
from tests.stores import Cluster
from tests.webui.conftest import OURS, TOKEN, Bearer


def only_lock(client: Client) -> observe.Lock:
    (lock,) = observe.locks(client).items
    return lock


def audits(client: Client) -> list[tuple[int, Audit]]:
    found = client.prefix(Keys(client.namespace).prefix("audit")).kvs
    return [(kv.mod_revision, decode(kv.value, Audit)) for kv in found]


def delete(api: FlaskClient, lock: observe.Lock, *, match: str | None = None, **body: Any) -> Any:
    headers = {"If-Match": f'"{lock.revision}"' if match is None else match} if match != "" else {}
    return api.delete(f"/api/v1/locks/{lock.id}", headers=headers, json=body)


# --- the API ---


def test_without_if_match_nothing_is_released(client: Client, api: FlaskClient) -> None:
    with queue(client, "nightly"):
        answer = delete(api, only_lock(client), match="", reason="stuck")
        assert (answer.status_code, answer.mimetype) == (428, "application/problem+json")
        assert only_lock(client).host == "host-0"


@pytest.mark.parametrize("match", ['"1"', '"0"', '"nonsense"', 'W/"1"'])
def test_another_revision_is_refused_with_the_present_holder(
    client: Client, api: FlaskClient, match: str
) -> None:
    with queue(client, "nightly"):
        lock = only_lock(client)
        answer = delete(api, lock, match=match, reason="stuck")
        assert (answer.status_code, answer.mimetype) == (412, "application/problem+json")
        assert answer.json["type"] == "urn:jobguard:problem:holder-changed"
        assert (answer.json["current"]["host"], answer.json["current"]["revision"]) == (
            "host-0",
            lock.revision,
        )
        assert only_lock(client).revision == lock.revision
        assert audits(client) == []


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"reason": 1}', b'{"reason": " "}', b'{"reason":"x","y":1}']
)
def test_without_a_reason_nothing_is_released(client: Client, api: FlaskClient, body: str) -> None:
    with queue(client, "nightly"):
        lock = only_lock(client)
        answer = api.delete(f"/api/v1/locks/{lock.id}", headers={"If-Match": f'"{lock.revision}"'}, data=body)
        assert (answer.status_code, answer.mimetype) == (400, "application/problem+json")
        assert only_lock(client).revision == lock.revision


def test_a_lock_nobody_holds_is_not_found(client: Client, api: FlaskClient) -> None:
    with queue(client, "nightly"):
        lock = only_lock(client)
    assert delete(api, lock, reason="stuck").status_code == 404


def test_a_release_gives_the_lock_to_the_first_waiter(client: Client, api: FlaskClient) -> None:
    with queue(client, "nightly", contenders=3):
        lock = only_lock(client)
        answer = delete(api, lock, reason="host-0 is gone")
        assert answer.status_code == 200
        assert answer.json["released"]["host"] == "host-0"
        now = only_lock(client)
        assert (now.host, now.waiters) == ("host-1", 1)
        assert now.fencing_token > lock.fencing_token
        assert delete(api, lock, reason="again").status_code == 412


def test_the_audit_entry_is_in_the_same_transaction(client: Client, api: FlaskClient) -> None:
    """At the entry's revision the holder's key is gone; at the one before it was there."""
    with queue(client, "nightly"):
        prefix = Keys(client.namespace).prefix("locks")
        (holder,) = client.prefix(prefix).kvs
        delete(api, only_lock(client), reason="stuck since noon")
        ((revision, entry),) = audits(client)
        assert client.range(holder.key, revision=revision - 1).kvs
        assert not client.range(holder.key, revision=revision).kvs
    assert (entry.action, entry.target, entry.reason) == ("release", "lock nightly", "stuck since noon")
    assert entry.by.startswith("api at ")
    assert (entry.via, entry.before) == ("api", f"host-0 pid 100, token {holder.create_revision}")


def test_of_two_operators_one_releases_and_the_other_is_told(client: Client, app: Flask) -> None:
    """Both saw host-0; whoever is second must not take the lock from host-1."""
    with queue(client, "nightly", contenders=3):
        lock, both = only_lock(client), Barrier(2)

        def operator(_: int) -> int:
            both.wait()
            return int(delete(Bearer(app, app.response_class), lock, reason="stuck").status_code)

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(operator, range(2))) == [200, 412]
        assert only_lock(client).host == "host-1"
        assert len(audits(client)) == 1


def test_a_lost_answer_neither_fails_nor_releases_twice(client: Client, store: Cluster) -> None:
    with queue(client, "nightly", contenders=2), proxied(store.endpoints[0]) as proxy:
        behind = Client([proxy.url], namespace=client.namespace, timeout=30)
        lock = only_lock(client)
        lost = LoseWrites(behind, proxy)
        actor = operate.Actor(by="ada", via="test", reason="stuck")
        operate.release(lost, lock.id, revision=lock.revision, actor=actor)
        assert lost.lost == 1
        assert only_lock(client).host == "host-1"
        assert len(audits(client)) == 1


class LoseWrites(Client):
    """The answer to the first transaction that writes never arrives."""

    def __init__(self, client: Client, proxy: Any) -> None:
        super().__init__(client.urls, namespace=client.namespace)
        self.proxy, self.lost = proxy, 0

    def txn_until_known(self, *args: Any, **how: Any) -> Any:
        self.lost += 1
        self.proxy.lose(1)
        return super().txn_until_known(*args, **how)


# --- running jobs ---


@pytest.mark.parametrize("then", ["end", "rerun"])
def test_a_run_is_taken_from_its_holder(client: Client, api: FlaskClient, then: str) -> None:
    """The worker's lease stays, its claim is gone; the occurrence ends, or waits as attempt 2."""
    lease, keys = client.grant(600).id, Keys(client.namespace)
    run = run_of(client, "digest", lease=lease)
    client.put(keys.worker("celery@w1"), "{}", lease)
    lock = only_lock(client)
    assert (lock.kind, lock.attempt) == ("run", 1)
    assert delete(api, lock, reason="hangs", then=then).status_code == 200
    assert client.get(keys.active(run)) is None
    assert client.get(keys.worker("celery@w1")) is not None
    attempt = client.get(keys.attempt(run, 1))
    assert attempt is not None
    assert decode(attempt.value, Attempt).outcome == "released"
    opened, ended = client.get(keys.open(run)), client.get(keys.done(run))
    if then == "end":
        assert opened is None
        assert ended is not None
        record = decode(ended.value, Done)
        assert (record.verdict, record.token) == (Verdict.RELEASED, lock.fencing_token)
        assert "hangs" in record.reason
    else:
        assert ended is None
        assert opened is not None
        assert decode(opened.value, Open).n == 2
    ((_, entry),) = audits(client)
    assert (entry.target, entry.after) == (f"run digest due {run.stamp}", then)


def test_a_note_of_the_leader_meanwhile_does_not_stop_a_release(client: Client, api: FlaskClient) -> None:
    keys = Keys(client.namespace)
    run = run_of(client, "digest", lease=client.grant(600).id)

    class Noted(Client):
        noted = False

        def txn_until_known(self, *args: Any, **how: Any) -> Any:
            if not self.noted:
                self.noted = True
                kv = client.get(keys.open(run))
                assert kv is not None
                record = msgspec.structs.replace(decode(kv.value, Open), published=9)
                client.put(keys.open(run), msgspec.json.encode(record))
            return super().txn_until_known(*args, **how)

    lock = only_lock(client)
    actor = operate.Actor(by="ada", via="test", reason="hangs")
    noted = Noted(client.urls, namespace=client.namespace)
    operate.release(noted, lock.id, revision=lock.revision, actor=actor)
    assert client.get(keys.done(run)) is not None


# --- the page ---


def form(lock: observe.Lock, **changed: str) -> dict[str, str]:
    return {"revision": str(lock.revision), "reason": "stuck", "confirmation": lock.name, **changed}


def test_the_form_releases_and_the_audit_names_who_signed_in(client: Client, pages: FlaskClient) -> None:
    with queue(client, "nightly", contenders=2):
        lock = only_lock(client)
        answer = pages.post(f"/locks/{lock.id}", data=form(lock), headers=OURS)
        assert (answer.status_code, answer.headers["Location"]) == (303, "/locks/")
        assert "nightly was taken from host-0 pid 100" in pages.get("/locks/").text
        assert only_lock(client).host == "host-1"
    ((_, entry),) = audits(client)
    assert (entry.by, entry.via) == ("ada", "web")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"reason": " "}, "a reason is needed"), ({"confirmation": "night"}, "is not the lock&#39;s name")],
)
def test_the_form_says_what_is_missing_and_keeps_the_rest(
    client: Client, pages: FlaskClient, wrong: dict[str, str], told: str
) -> None:
    with queue(client, "nightly"):
        lock = only_lock(client)
        given = form(lock, **{"reason": "it hangs", **wrong})
        answer = pages.post(f"/locks/{lock.id}", data=given, headers=OURS)
        assert answer.status_code == 422
        assert told in answer.text
        assert ("it hangs" in answer.text) == ("reason" not in wrong)
        assert only_lock(client).revision == lock.revision


def test_a_page_that_is_out_of_date_cannot_free_the_next_holder(client: Client, pages: FlaskClient) -> None:
    with queue(client, "nightly", contenders=2):
        lock = only_lock(client)
        pages.post(f"/locks/{lock.id}", data=form(lock), headers=OURS)
        answer = pages.post(f"/locks/{lock.id}", data=form(lock), headers=OURS)
        assert answer.status_code == 412
        assert "The holder has changed; nothing was released" in answer.text
        assert "host-1" in answer.text
        assert only_lock(client).host == "host-1"


def test_the_form_of_a_run_asks_what_becomes_of_it(client: Client, pages: FlaskClient) -> None:
    run_of(client, "digest", lease=client.grant(600).id)
    lock = only_lock(client)
    assert "Run it again as attempt 2" in pages.get(f"/locks/{lock.id}").text
    assert pages.post(f"/locks/{lock.id}", data=form(lock), headers=OURS).status_code == 422
    answer = pages.post(f"/locks/{lock.id}", data=form(lock, then="rerun"), headers=OURS)
    assert answer.status_code == 303


def test_the_page_needs_no_script(client: Client) -> None:
    """The whole flow by links and forms, with what a browser sends by itself."""
    browser = create_app(client, token=TOKEN).test_client()
    here = {"Origin": "http://localhost"}
    browser.post("/sign-in", data={"token": TOKEN}, headers=here)
    with queue(client, "nightly"):
        lock = only_lock(client)
        assert f'href="/locks/{lock.id}"' in browser.get("/locks/").text
        page = browser.get(f"/locks/{lock.id}").text
        assert f'name="revision" value="{lock.revision}"' in page
        assert browser.post(f"/locks/{lock.id}", data=form(lock), headers=here).status_code == 303
