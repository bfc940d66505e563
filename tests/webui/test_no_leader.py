"""When the store has no leader: a banner, a stale mark, nothing to press, never a stack trace."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobguard import Client, observe
from jobguard_webui import create_app
from tests.faces import queue
from tests.ports import free_ports
from tests.stores import Cluster, Kind, eventually, running
from tests.webui.conftest import OURS, TOKEN, Bearer


@pytest.fixture
def cluster(kind: Kind, tmp_path: Path) -> Iterator[Cluster]:
    with running(kind, tmp_path, nodes=3) as cluster:
        yield cluster


def test_two_of_three_nodes_die_and_come_back(cluster: Cluster) -> None:
    client = Client(cluster.endpoints, timeout=1.0)
    app = create_app(client, token=TOKEN)
    api = Bearer(app, app.response_class)
    browser = app.test_client()
    browser.post("/sign-in", data={"token": TOKEN}, headers=OURS)
    with queue(client, "nightly"):
        (lock,) = observe.locks(client).items
        assert api.get("/api/v1/cluster").json["summary"] == "3 of 3 nodes answer, 1 may fail."
        cluster.nodes[1].kill()
        eventually(lambda: api.get("/api/v1/cluster").json["health"] == "degraded")
        cluster.nodes[2].kill()

        page = browser.get("/")
        assert page.status_code == 200
        for told in ("The store has no leader", "stale", "nightly", "unreachable", "No leader: 1 of 3"):
            assert told in page.text
        assert "Traceback" not in page.text

        form = {"revision": str(lock.revision), "reason": "stuck", "confirmation": "nightly"}
        assert "disabled" in browser.get(f"/locks/{lock.id}").text
        refused = browser.post(f"/locks/{lock.id}", data=form, headers=OURS)
        assert refused.status_code == 422
        assert "the store has no leader" in refused.text

        listed = api.get("/api/v1/locks")
        assert (listed.status_code, listed.json["stale"]) == (200, True)
        assert listed.headers["Jobguard-Read"] == "stale"
        assert [(one["name"], one["seconds_left"]) for one in listed.json["items"]] == [("nightly", None)]
        down = api.get("/api/v1/cluster").json
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
        app.extensions["jobguard_store"].failed_at = float("-inf")
        page = browser.get("/")
        assert "The store has no leader" not in page.text
        (now,) = observe.locks(client).items
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
