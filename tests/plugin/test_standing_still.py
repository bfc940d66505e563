"""A process of the plugin that stands still at the wrong line, for its host does not run it."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery.app.task import Context

from jobguard.celery import deadline
from jobguard.celery.deadline import Deadline, DeadlineFile, WorkerDirectory
from jobguard.celery.leadership import Leadership
from jobguard.celery.line import Call
from jobguard.celery.parent import Parent, advertisement
from jobguard.client import Client
from jobguard.ops import put_op
from jobguard.session import boottime
from jobguard.settings import Settings
from jobguard.wire import TxnRequest, encode
from tests.plugin.bench import until
from tests.plugin.stage import Stage


class Lease:
    """A worker's lease as the store tells it, in whole seconds, on a clock of the test's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, stands_still_s: float = 0.0) -> None:
        self.now, self.ends, self.term, self.asked = 0.0, 5.0, 7, 0
        self.stands_still_s = stands_still_s
        self.then: Callable[[], None] = lambda: None
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep)
        monkeypatch.setattr("jobguard.celery.line.time", clock)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.then()

    def time_to_live(self, lease: int) -> Any:
        left = int(self.ends - self.now) if self.now < self.ends else -1
        answer = SimpleNamespace(TTL=left, term=self.term)
        self.asked += 1
        if self.asked > 1:
            self.now += self.stands_still_s  # the answer is there, and nobody reads it
        return answer

    @property
    def is_renewed(self) -> bool:
        child: Any = SimpleNamespace(client=self)
        option: Any = None
        return Call(child, option, None, Context({}), "work()", "nonce", alone=True)._is_renewed(1)


@pytest.mark.parametrize("stands_still_s", [0.0, 0.4, 2.0, 4.0])
def test_a_pause_of_ours_is_no_renewal_of_a_dead_workers_lease(
    monkeypatch: pytest.MonkeyPatch, stands_still_s: float
) -> None:
    """Else the message that its worker left would be dropped for a second delivery, and the call be lost."""
    assert not Lease(monkeypatch, stands_still_s=stands_still_s).is_renewed


def test_a_renewal_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lease = Lease(monkeypatch)

    def renew() -> None:
        lease.ends = max(lease.ends, 1.5 + lease.now // 1.5 * 1.5 + 5)

    lease.then = renew
    assert lease.is_renewed


def test_a_new_leader_of_the_store_renews_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins every TTL anew: also that of the worker which died with the host of the leader before it."""
    lease = Lease(monkeypatch)

    def elect() -> None:
        if lease.now >= 2 and lease.term == 7:
            lease.ends, lease.term = lease.now + 5, 8

    lease.then = elect
    assert not lease.is_renewed
    assert lease.now >= 7


def test_a_beat_that_is_closed_while_it_asks_for_the_time_does_not_stand_for_election(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It resigned before its candidate entered the line, and that would keep all others out for a lease."""
    agrees, resign = Leadership._clock_agrees, Leadership.deposed
    asks, resigned = threading.Event(), threading.Event()

    def asking(leadership: Leadership, *, ask: bool = True) -> bool:
        found = agrees(leadership, ask=ask)
        asks.set()
        resigned.wait(20)
        return found

    def resigning(leadership: Leadership) -> None:
        resign(leadership)
        resigned.set()

    monkeypatch.setattr(Leadership, "_clock_agrees", asking)
    monkeypatch.setattr(Leadership, "deposed", resigning)
    namespace = stage.keys.namespace
    leadership = Leadership(Settings(endpoints=stage.client.urls, namespace=namespace, session_ttl=60))
    assert asks.wait(20)
    leadership.close()
    leadership._thread.join(20)
    assert not leadership._thread.is_alive()
    until(lambda: not stage.client.prefix(stage.keys.prefix("elections")).kvs, "nobody stands in line")


def test_a_parent_that_stands_still_while_it_writes_has_not_lost_the_lease(tmp_path: Path) -> None:
    """Its children would stop their bodies for it."""
    written = DeadlineFile(tmp_path / "lease", create=True)
    before, after = Deadline(7, boottime() + 30, 30), Deadline(7, boottime() + 40, 30)
    written.write(before)
    torn = written._mapped._memory
    whole = torn[:]
    written.write(after)
    for length in range(len(whole) + 1):
        now = torn[:]
        torn[:] = now[:length] + whole[length:]
        assert DeadlineFile(tmp_path / "lease").read() in (before, after)
        torn[:] = now


def test_what_a_child_leaves_while_its_parent_carries_through_what_it_left_before_stays(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline.tempfile, "tempdir", str(tmp_path))
    directory, key = WorkerDirectory.make(), stage.keys.key("test")
    settings = Settings(endpoints=stage.client.urls, namespace=stage.keys.namespace)
    parent = Parent(settings, directory, advertisement("w1@test", "prefork", 1))
    first, second = (encode(TxnRequest(success=(put_op(key, value),))) for value in ("1", "2"))
    known = Client.txn_until_known

    def meanwhile(self: Client, *args: Any, **options: Any) -> Any:
        monkeypatch.setattr(Client, "txn_until_known", known)
        answer = self.txn_until_known(*args, **options)
        directory.leave_unsent("n", second)
        return answer

    try:
        directory.leave_unsent("n", first)
        monkeypatch.setattr(Client, "txn_until_known", meanwhile)
        for left, value in (({"n": second}, b"1"), ({}, b"2"), ({}, b"2")):
            parent._carry_unsent()
            kv = stage.client.get(key)
            assert (directory.unsent(), kv and kv.value) == (left, value)
    finally:
        directory.remove()
