"""What ends a body in each pool, and what only looks like it: with a `jobguard` option, and scheduled."""

from collections.abc import Iterator

import pytest
import redis
from celery import Celery
from celery.exceptions import TaskRevokedError, TimeLimitExceeded, WorkerLostError

import jobguard
from jobguard.records import Verdict
from tests.plugin.bench import Bench, until
from tests.plugin.test_optin_workers import PATIENCE_S, Fleet
from tests.stores import Node


@pytest.fixture(scope="module")
def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, store: Node, redis_url: str
) -> Iterator[Fleet]:
    """One worker in each pool; its prefork has one child."""
    pool: str = request.param
    with redis.Redis.from_url(redis_url) as connection:
        connection.flushdb()
    bench = Bench(tmp_path_factory.mktemp(pool), store, redis_url, namespace=f"optin {pool}")
    try:
        options = ("-P", pool, "-c", "4" if pool == "gevent" else "1")
        worker = bench.worker(*options, app="tests.plugin.optin_app")
        with Celery("sender", broker=redis_url, backend=redis_url, set_as_current=False) as app:
            yield Fleet(bench, worker, app, pool)
    finally:
        bench.close()


def in_pools(*pools: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fleet", pools, indirect=True, scope="module")


@in_pools("prefork", "solo")
def test_a_body_that_tells_of_another_ones_end_has_failed_and_no_more(fleet: Fleet) -> None:
    """It waited for a task whose process was killed, say. Its own is not ended for that."""
    bench = fleet.bench
    assert all(worker.turns for worker in bench.advertised().values())  # as the doctor wants to see it
    for number, error in enumerate((TimeLimitExceeded, WorkerLostError)):
        with pytest.raises(error, match="as it must"):
            fleet.send("ending", number, error.__name__).get(PATIENCE_S)
        occurrence = bench.plan(error.__name__, "heard")
        bench.send(occurrence, "heard", 1, error.__name__)
        assert bench.verdict(occurrence).verdict is Verdict.FAILED
        until(lambda n=number: not fleet.locks("ending", n), "the key is free")
    seconds = 2.5 if fleet.pool == "prefork" else 0  # a child that was buried is killed after two
    assert fleet.send("hogging", 1, seconds).get(PATIENCE_S) == "result"


@in_pools("gevent", "solo")
def test_a_body_that_would_end_its_process_fails_alone(fleet: Fleet) -> None:
    """The worker lives, who waits is told, and the key is free."""
    with pytest.raises(jobguard.LockLost, match="the body raised SystemExit: as it must"):
        fleet.send("ending", 1, "SystemExit").get(PATIENCE_S)
    until(lambda: not fleet.locks("ending", 1), "the key is free")
    assert fleet.send("again", 1).get(PATIENCE_S) == 4
    assert fleet.send("auto", 1).get(PATIENCE_S) == 2


@in_pools("gevent")
def test_a_revoke_or_a_limit_ends_a_greenlet_and_frees_its_place(fleet: Fleet) -> None:
    running = fleet.send("patient", 1, str(fleet.gate()))
    fleet.started("patient", 1)
    waiting, limited = fleet.send("patient", 1), fleet.send("patient", 1, time_limit=1)
    with pytest.raises(TimeLimitExceeded):
        limited.get(PATIENCE_S)
    until(lambda: fleet.locks("patient", 1)[0].waiters == 1, "it has left the line")
    for revoked in (waiting, running):
        fleet.app.control.revoke(revoked.id, terminate=True)
        with pytest.raises(TaskRevokedError):
            revoked.get(PATIENCE_S)
    until(lambda: not fleet.locks("patient", 1), "the key is free")
    assert len(fleet.lines("patient", 1)) == 1
    assert fleet.send("patient", 1).get(PATIENCE_S) == "result"
