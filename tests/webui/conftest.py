"""The web UI against real stores: ours and etcd."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.datastructures import Headers

from jobguard import Client
from jobguard_webui import create_app
from tests.stores import KINDS, Cluster, Kind
from tests.webui.conforming import Conforming

TOKEN = "a token for tests"
OURS = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture(scope="session", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def store(kind: Kind, stores: Callable[[Kind], Cluster]) -> Cluster:
    return stores(kind)


@pytest.fixture
def client(store: Cluster, request: pytest.FixtureRequest) -> Iterator[Client]:
    with Client(store.endpoints, namespace=request.node.nodeid, timeout=30) as client:
        yield client


@pytest.fixture
def app(client: Client) -> Flask:
    app = create_app(client, token=TOKEN)
    app.test_client_class = Conforming
    return app


@pytest.fixture
def stranger(app: Flask) -> FlaskClient:
    """A browser that has not signed in."""
    return app.test_client()


@pytest.fixture
def pages(app: Flask) -> FlaskClient:
    """A browser that has signed in as ada."""
    browser = app.test_client()
    answer = browser.post("/sign-in", data={"token": TOKEN, "name": "ada"}, headers=OURS)
    assert answer.status_code == 303
    return browser


class Bearer(Conforming):
    """A program that sends the token with every request."""

    def open(self, *args: Any, **how: Any) -> Any:
        how["headers"] = Headers({"Authorization": f"Bearer {TOKEN}"} | dict(how.get("headers") or {}))
        return super().open(*args, **how)


@pytest.fixture
def api(app: Flask) -> FlaskClient:
    return Bearer(app, app.response_class)
