"""When the store has no leader: a banner, a stale mark, nothing to press, never a stack trace."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Response
from werkzeug.test import TestResponse

from jobguard import Client, observe
from jobguard_webui import create_app
from jobguard_webui.app import STORE_TIMEOUT_S
from jobguard_webui.freshness import stale_because
from tests.faces import queue
from tests.ports import free_ports
from tests.stores import SURVIVES_KILLS, Cluster, Kind, eventually, running
from tests.webui.conftest import OURS, TOKEN, Bearer

ONE_NODE_WAS_ASKED = "One-Node-Was-Asked"
CLUSTER = "/api/v1/cluster"  # which asks each of them at once


@pytest.fixture
def cluster(kind: Kind, tmp_path: Path) -> Iterator[Cluster]:
    with running(kind, tmp_path, 3, SURVIVES_KILLS[kind]) as cluster:
        yield cluster


def answered(ask: Callable[[], TestResponse], status: int = 200) -> TestResponse:
    """The answer of that status. One node is left a moment to answer in, and a host that stands still takes
    that, too: 503 and a sentence are the truth then, and nothing else is; but it was asked."""

    def once() -> TestResponse | None:
        answer = ask()
        assert "Traceback" not in answer.text
        if answer.status_code != status:
            assert answer.status_code == 503, answer.text
            assert ONE_NODE_WAS_ASKED in answer.headers or answer.request.path == CLUSTER, answer.text
        return answer if answer.status_code == status else None

    return eventually(once)


def marked(answer: Response) -> Response:
    if stale_because():
        answer.headers[ONE_NODE_WAS_ASKED] = "yes"
    return answer


def test_two_of_three_nodes_die_and_come_back(cluster: Cluster) -> None:
    patient = Client(cluster.endpoints, timeout=30)
    app = create_app(patient.at(patient.urls, timeout=STORE_TIMEOUT_S), token=TOKEN)
    app.after_request(marked)
    api = Bearer(app, app.response_class)
    browser = app.test_client()
    browser.post("/sign-in", data={"token": TOKEN}, headers=OURS)

    def store() -> Any:
        return answered(lambda: api.get(CLUSTER)).json

    def home() -> str:
        return answered(lambda: browser.get("/")).text

    with queue(patient, "nightly"):
        (lock,) = observe.locks(patient).items
        eventually(lambda: store()["summary"] == "3 of 3 nodes answer, 1 may fail.")
        cluster.nodes[1].kill()
        eventually(lambda: store()["health"] == "degraded")
        cluster.nodes[2].kill()

        words = ("nightly", "unreachable", "No leader: 1 of 3")

        def told() -> bool:
            page = home()
            assert "The store has no leader" in page, "nobody can have confirmed what it shows"
            assert "stale" in page
            return all(each in page for each in words)

        eventually(told, what=", ".join(words))

        form = {"revision": str(lock.revision), "reason": "stuck", "confirmation": "nightly"}
        assert "disabled" in answered(lambda: browser.get(f"/locks/{lock.id}")).text
        refused = answered(lambda: browser.post(f"/locks/{lock.id}", data=form, headers=OURS), 422)
        assert "the store has no leader" in refused.text

        listed = answered(lambda: api.get("/api/v1/locks"))
        assert listed.json["stale"]
        assert listed.headers["Jobguard-Read"] == "stale"
        assert [(one["name"], one["seconds_left"]) for one in listed.json["items"]] == [("nightly", None)]
        down = store()
        assert (down["health"], down["leader"]) == ("down", None)
        problem = api.delete(
            f"/api/v1/locks/{lock.id}", headers={"If-Match": f'"{lock.revision}"'}, json={"reason": "stuck"}
        )
        assert (problem.status_code, problem.mimetype) == (503, "application/problem+json")
        assert browser.get("/readyz").status_code == 503
        assert browser.get("/livez").status_code == 200

        cluster.nodes[1].start()
        cluster.nodes[2].start()
        cluster.wait_healthy()

        def current() -> bool:
            app.extensions["jobguard_store"].failed_at = float("-inf")
            return "The store has no leader" not in home()

        eventually(current)
        (now,) = observe.locks(patient).items
        assert now.revision == lock.revision


def test_no_node_at_all_is_one_sentence() -> None:
    (port,) = free_ports(1)
    app = create_app(Client(f"http://127.0.0.1:{port}", timeout=0.2), token=TOKEN)
    browser = app.test_client()
    browser.post("/sign-in", data={"token": TOKEN}, headers=OURS)
    for path in ("/", "/locks/", "/runs/"):
        page = browser.get(path)
        assert page.status_code == 503
        assert "The store does not answer" in page.text
        assert "Traceback" not in page.text
    answer = Bearer(app, app.response_class).get("/api/v1/locks")
    assert (answer.status_code, answer.mimetype) == (503, "application/problem+json")
    assert answer.json["type"] == "urn:jobguard:problem:unavailable"
