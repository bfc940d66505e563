"""Tasks with a `jobguard` option on an etcd with certificates and users: their prefix is all they need."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery
from celery.exceptions import WorkerLostError

from jobguard.client import Client
from jobguard.ops import prefix_end
from jobguard.records import Verdict
from tests.accounts import PASSWORD, ROOT_PASSWORD, add_user, as_, enable, token
from tests.certificates import Tls
from tests.gateway import b64, unb64
from tests.plugin.bench import Bench, until
from tests.plugin.test_optin_workers import PATIENCE_S, Fleet
from tests.stores import Node, running


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Node]:
    """It asks nobody for a token who shows a certificate: without one he has no name, and no right."""
    tls = Tls.make(tmp_path / "certificates")
    with running("etcd", tmp_path / "store", extra=["--unsafe-no-fsync"], tls=tls) as cluster:
        yield cluster.nodes[0]


@pytest.fixture
def fleet(secured: Node, tmp_path: Path, redis_url: str) -> Iterator[Fleet]:
    """Worker and test are the user `app`, who may touch the keys of one namespace."""
    with redis.Redis.from_url(redis_url) as connection:
        connection.flushdb()
    bench = Bench(tmp_path, secured, redis_url, namespace="a team's")
    password, tls = tmp_path / "password", secured.tls
    assert tls is not None
    password.write_text(PASSWORD)
    with secured.gateway() as gateway:
        prefix = bench.keys.prefix()
        add_user(gateway, enable(gateway), "app", ("READWRITE", prefix.decode(), prefix_end(prefix).decode()))
    who = {"JOBGUARD_USERNAME": "app", "JOBGUARD_PASSWORD_FILE": str(password), **tls.environment}
    try:
        worker = bench.worker("-c", "2", app="tests.plugin.optin_app", **who)
        with Celery("sender", broker=redis_url, backend=redis_url, set_as_current=False) as app:
            fleet = Fleet(bench, worker, app, "prefork")
            fleet.client = bench.client = Client(
                [secured.url],
                namespace=bench.namespace,
                timeout=30,
                username="app",
                password_file=password,
                **tls.settings,
            )
            yield fleet
    finally:
        bench.close()


def test_its_own_prefix_is_all_that_it_needs(fleet: Fleet, secured: Node, tmp_path: Path) -> None:
    """In line, skipped, completed, freed for a child that died; and scheduled, too."""
    gate = fleet.gate()
    running = fleet.send("patient", 1, str(gate))
    fleet.started("patient", 1)
    waiting = fleet.send("patient", 1)
    until(lambda: fleet.locks("patient", 1)[0].waiters == 1, "it waits")
    (tmp_path / "password").write_text("another")
    with secured.gateway() as gateway:
        root = token(gateway, "root", ROOT_PASSWORD)
        as_(gateway, root, "/v3/auth/user/changepw", {"name": "app", "password": "another"})
        gate.touch()
        assert [running.get(PATIENCE_S), waiting.get(PATIENCE_S)] == ["result", "result"]
        assert fleet.send("once", 1).get(PATIENCE_S) == "result"
        assert fleet.send("once", 1).get(PATIENCE_S) is None
        lost = fleet.send("alone", 1, str(fleet.gate()))
        os.kill(fleet.started("alone", 1)["pid"], signal.SIGKILL)
        with pytest.raises(WorkerLostError):
            lost.get(PATIENCE_S)
        assert fleet.send("alone", 1).get(PATIENCE_S) == "result"
        occurrence = fleet.bench.plan("job", "scheduled")
        fleet.bench.send(occurrence, "scheduled", 1, 1)
        assert fleet.bench.verdict(occurrence).verdict is Verdict.RAN
        prefix = fleet.bench.keys.prefix()
        every = {"key": b64("\0"), "range_end": b64("\0"), "keys_only": True}
        found = as_(gateway, root, "/v3/kv/range", every).json["kvs"]
        assert {unb64(kv["key"])[: len(prefix)] for kv in found} == {prefix}
