"""Workers and beats that are told to stop at the moment their broker and their store are gone.

A supervisor tells all of them at once, gives them a few seconds, then kills. Nothing of ours may wait for a
store that does not answer any more.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import broker
from tests.plugin.beats import Beats, beats
from tests.plugin.bench import Bench, until
from tests.stopwatch import Stopwatch
from tests.stores import etcd

PATIENCE_S = 3.0
AS_BY_DEFAULT = {"TEST_TTL": "15", "TEST_TIMEOUT": "5"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[broker.Broker]:
    with broker.running(tmp_path / "broker") as server:
        yield server


@pytest.fixture
def stage(tmp_path: Path, server: broker.Broker) -> Iterator[Beats]:
    """On a broker and a store of this test's own, which it may kill."""
    with etcd() as (node,):
        bench = Bench(tmp_path, node, server.url)
        try:
            with beats(bench) as found:
                yield found
        finally:
            bench.close()


def test_they_stop_in_time_when_broker_and_store_are_gone(stage: Beats, server: broker.Broker) -> None:
    bench = stage.bench
    worker = bench.worker("-Q", "other", **AS_BY_DEFAULT)
    stage.start(**AS_BY_DEFAULT), stage.start(**AS_BY_DEFAULT)
    stage.wait_for_messages(1)
    until(lambda: bench.advertised().get("w1@test"), "the worker has its lease")
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
    assert max(took.values()) < PATIENCE_S, took
    assert bench.shared_files("*") == []
