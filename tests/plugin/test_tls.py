"""Once, end to end, on stores that speak nothing but TLS: a beat and its worker, who show certificates."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from jobguard.records import Done, decode
from tests.certificates import Tls
from tests.plugin.beats import PATIENT, beats
from tests.plugin.bench import Bench, until
from tests.stores import KINDS, Kind, Node, running


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    kind: Kind = request.param
    with running(kind, tmp_path / "store", tls=Tls.make(tmp_path / "certificates")) as cluster:
        yield cluster.nodes[0]


@pytest.fixture
def bench(tmp_path: Path, store: Node, broker_url: str) -> Iterator[Bench]:
    with redis.Redis.from_url(broker_url) as connection:
        connection.flushdb()
    bench = Bench(tmp_path, store, broker_url, namespace="over TLS")
    try:
        yield bench
    finally:
        bench.close()


def test_what_a_beat_plans_a_worker_claims_and_finishes(bench: Bench, store: Node) -> None:
    """Planned, published, claimed, run and recorded: beat, parent and child each dial for themselves."""
    assert store.tls is not None
    environment = {**store.tls.environment, **PATIENT}
    with beats(bench) as stage:
        bench.worker(app="tests.plugin.beat_app", TEST_GUARD="1", **environment)
        stage.start(**environment)
        ran = until(lambda: bench.journal_path.read_text().splitlines() or None, "a run")
        first = json.loads(ran[0])
        (done, *_) = until(lambda: bench.client.prefix(bench.keys.prefix("done")).kvs or None, "a verdict")
        assert bench.keys.occurrence(done.key).job == "work"
        assert decode(done.value, Done).verdict == "ran"
        assert first["n"] == 1
