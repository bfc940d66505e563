"""Workers and beats that are told to stop at the moment their broker and their store are gone.

A supervisor tells all of them at once, gives them a few seconds, then kills. Nothing of ours may wait for a
store that does not answer any more.
"""

import os
import signal
from contextlib import closing
from pathlib import Path

from tests import broker
from tests.plugin.beats import beats
from tests.plugin.bench import Bench, until
from tests.stopwatch import Stopwatch
from tests.stores import etcd

PATIENCE_S = 3.0
AS_BY_DEFAULT = {"TEST_TTL": "15", "TEST_TIMEOUT": "5"}


def test_they_stop_in_time_when_broker_and_store_are_gone(tmp_path: Path) -> None:
    """Measured where others may be at work: the best of some tries."""
    took: list[dict[str, float]] = []
    while not any(max(each.values()) < PATIENCE_S for each in took):
        assert len(took) < 3, took
        directory = tmp_path / str(len(took))
        directory.mkdir()
        took.append(stopped_s(directory))


def stopped_s(directory: Path) -> dict[str, float]:
    """Seconds until each has stopped. The broker and the store are this try's own, for it kills them."""
    with (
        broker.running(directory / "broker") as server,
        etcd() as (node,),
        closing(Bench(directory, node, server.url)) as bench,
        beats(bench) as stage,
    ):
        worker = bench.worker("-Q", "other", ready=False, **AS_BY_DEFAULT)
        stage.start(**AS_BY_DEFAULT), stage.start(**AS_BY_DEFAULT)
        worker.wait_until_ready()
        stage.wait_for_messages(1)
        until(lambda: bench.advertised().get("w1@test"), "the worker has its lease")
        candidates = bench.keys.prefix("elections")
        until(lambda: len(bench.client.prefix(candidates).kvs) == 2, "both beats stand for election")
        bench.store.kill()
        os.kill(server.pid, signal.SIGKILL)
        processes = {worker.name: worker.process, **{beat.name: beat.process for beat in stage.beats}}
        took = {}
        with Stopwatch() as watch:
            for process in processes.values():
                process.terminate()
            for name, process in processes.items():
                process.wait(60)
                took[name] = watch.seconds
        assert bench.shared_files("*") == []
        return took
