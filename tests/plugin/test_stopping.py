"""Workers and beats that are told to stop at the moment their broker and their store are gone.

A supervisor tells all of them at once, gives them a few seconds, then kills. Nothing of ours may wait for a
store that does not answer any more.
"""

import os
import signal
from contextlib import closing
from itertools import count
from pathlib import Path

from tests import broker
from tests.plugin.beats import beats
from tests.plugin.bench import Bench, until
from tests.stopwatch import Stopwatch, best_of
from tests.stores import etcd

LATER_S = 1.5
AS_BY_DEFAULT = {"TEST_TTL": "15", "TEST_TIMEOUT": "5"}
STOCK = {"TEST_STOCK_BEAT": "1", "TEST_SCHEDULE": '{"work": 3600.0}'}


def test_they_stop_in_time_when_broker_and_store_are_gone(tmp_path: Path) -> None:
    """Beside others at work: measured against Celery's own at the same moment, and the best of some tries."""
    numbers = count(1)

    def later_s() -> float:
        directory = tmp_path / str(next(numbers))
        directory.mkdir()
        return stops_later_s(directory)

    best_of(3, later_s, under=LATER_S)


def stops_later_s(directory: Path) -> float:
    """Seconds from the end of a stock worker and a stock beat until the last of ours has ended, too.

    The broker and the store are this try's own, for it kills them.
    """
    with (
        broker.running(directory / "broker") as server,
        etcd() as (node,),
        closing(Bench(directory, node, server.url)) as bench,
        beats(bench) as stage,
    ):
        guarded = bench.worker("-Q", "other", ready=False, **AS_BY_DEFAULT)
        plain = bench.worker("-Q", "other", app="tests.plugin.beat_app", ready=False)
        ours = [guarded.process, *(stage.start(**AS_BY_DEFAULT).process for _ in range(2))]
        stock = [plain.process, (stock_beat := stage.start(**STOCK)).process]
        for worker in bench.workers:
            worker.wait_until_ready()
        until(lambda: "beat: Starting" in stock_beat.log, "the stock beat has started")
        stage.wait_for_messages(1)
        until(lambda: bench.advertised().get("w1@test"), "the worker has its lease")
        candidates = bench.keys.prefix("elections")
        until(lambda: len(bench.client.prefix(candidates).kvs) == 2, "both beats stand for election")
        bench.store.kill()
        os.kill(server.pid, signal.SIGKILL)
        with Stopwatch() as watch:
            for process in (*ours, *stock):
                process.terminate()
            for process in stock:
                process.wait(60)
            by_then = watch.seconds
            for process in ours:
                process.wait(60)
            later = watch.seconds - by_then
        assert bench.shared_files("*") == []
        return later
