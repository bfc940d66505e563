"""The brokers and one store for all of the plugin's tests; a namespace and an empty queue for each."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery import _state

from jobguard.celery.leadership import Leadership
from jobguard.client import Client
from jobguard.records import Keys
from jobguard.settings import Settings
from tests import broker, rabbitmq
from tests.plugin.bench import PATIENCE_S, Bench
from tests.plugin.stage import Stage
from tests.stores import KINDS, Cluster, Kind, Node

_number = itertools.count(1)


@pytest.fixture(autouse=True)
def tasks_and_apps_stay_in_their_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """`@app.task` would bring its task to every app that is made later in this process, and a worker's setup
    makes its app everybody's."""
    monkeypatch.setattr(_state, "_on_app_finalizers", set(_state._on_app_finalizers))
    monkeypatch.setattr(_state, "default_app", _state.default_app)
    monkeypatch.setattr(_state._tls, "current_app", _state._tls.current_app)


@pytest.fixture(autouse=True)
def campaigns_end_in_their_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A beat ends with its process. In ours its thread, and the lease that it keeps for the next campaign, go
    on for up to a TTL, also when the store is gone: what they log would be another test's."""
    begun: list[Leadership] = []
    begin = Leadership.__init__

    def noted(self: Leadership, settings: Settings) -> None:
        begin(self, settings)
        begun.append(self)

    monkeypatch.setattr(Leadership, "__init__", noted)
    yield
    for each in begun:
        each.close()
        each._thread.join(PATIENCE_S)
        each._client.close()


@pytest.fixture(scope="session")
def store(request: pytest.FixtureRequest, stores: Callable[[Kind], Cluster]) -> Node:
    """Real etcd; our own store for the tests that ask for both."""
    (node,) = stores(getattr(request, "param", "etcd")).nodes
    return node


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with broker.running(tmp_path_factory.mktemp("broker")) as started:
        yield started.url


@pytest.fixture(scope="session")
def rabbitmq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rabbitmq.Broker]:
    """It takes seconds to start: one for all tests."""
    with rabbitmq.running(tmp_path_factory.mktemp("rabbitmq")) as started:
        yield started


@pytest.fixture(scope="session")
def rabbitmq_url(rabbitmq_server: rabbitmq.Broker) -> str:
    return rabbitmq_server.url


@pytest.fixture(scope="session")
def broker_url(request: pytest.FixtureRequest) -> str:
    """Redis; RabbitMQ for the tests that ask for it."""
    url: str = request.getfixturevalue(f"{getattr(request, 'param', 'redis')}_url")
    return url


@pytest.fixture
def bench(tmp_path: Path, store: Node, broker_url: str, redis_url: str) -> Iterator[Bench]:
    """Results are in Redis, whatever the broker is."""
    with redis.Redis.from_url(redis_url) as connection:
        connection.flushdb()
    if broker_url != redis_url:
        rabbitmq.delete_queue(broker_url, "celery")
    bench = Bench(tmp_path, store, broker_url, backend=redis_url, namespace=f"test {next(_number)}")
    try:
        yield bench
    finally:
        bench.close()


@pytest.fixture(scope="session", params=KINDS)
def client(request: pytest.FixtureRequest, stores: Callable[[Kind], Cluster]) -> Iterator[Client]:
    """Of both kinds of store, for tests of one leader's term."""
    with Client(stores(request.param).endpoints, timeout=30) as client:
        yield client


@pytest.fixture
def stage(client: Client, request: pytest.FixtureRequest) -> Stage:
    return Stage(client, Keys(request.node.nodeid))
