"""The command line against real stores: ours and etcd."""

from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result

from jobguard import Client
from jobguard.cli import main
from tests.stores import KINDS, Cluster, Kind

Run = Callable[..., Result]


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
def run(client: Client) -> Run:
    """`jobguard` with these arguments, connected by the environment, its output not a terminal."""
    environment = {
        "JOBGUARD_ENDPOINTS": ",".join(client.urls),
        "JOBGUARD_NAMESPACE": client.namespace,
        "JOBGUARD_TIMEOUT": "30",
    }

    def call(*arguments: str, **how: str) -> Result:
        return CliRunner(env=environment).invoke(main, arguments, catch_exceptions=False, **how)

    return call
