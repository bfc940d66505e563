"""The worker's main process by itself, against a store: what it does for its children, and to them."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import WorkerLostError

from jobguard import runs
from jobguard.celery import burial, deadline, guard
from jobguard.celery.child import Child
from jobguard.celery.deadline import ChildFile, ChildState, Deadline, Running, WorkerDirectory
from jobguard.celery.errands import Errands
from jobguard.celery.guard import Guard
from jobguard.celery.parent import Parent, advertisement
from jobguard.celery.request import Ending, guarded_request
from jobguard.client import Client
from jobguard.errors import ServerError, Unavailable
from jobguard.records import Attempt, Done, Header, Occurrence, Verdict
from jobguard.runs import Claimed
from jobguard.session import State, boottime
from jobguard.settings import Settings
from jobguard.wire import LeaseTimeToLiveResponse, TxnRequest, encode, int64
from tests.plugin.bench import Bench, until


@pytest.fixture
def parent(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parent]:
    monkeypatch.setattr(deadline.tempfile, "tempdir", str(tmp_path))
    settings = Settings(endpoints=(bench.store.url,), namespace=bench.namespace, session_ttl=10)
    parent = Parent(settings, WorkerDirectory.make(), advertisement("w1@test", "prefork", 1))
    parent.start()
    until(lambda: parent._written.lease, "it has a lease")
    yield parent
    parent.stop()


def test_each_reason_for_which_there_is_no_lease_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A store that is slow at first, and then says what is wrong: a password, say."""
    monkeypatch.setattr(deadline.tempfile, "tempdir", str(tmp_path))
    settings = Settings(endpoints=("http://127.0.0.1:9",))
    parent = Parent(settings, WorkerDirectory.make(), advertisement("w1@test", "prefork", 1))
    answers = [Unavailable(text) for text in ("timed out", "wrong password", "timed out", "wrong password")]

    def session(*_: Any) -> None:
        raise answers.pop(0)

    monkeypatch.setattr("jobguard.celery.parent.Session", session)
    while answers:
        parent._have_lease()
    said = [record.args[0] for record in caplog.records if "no lease" in record.msg]
    assert [str(each) for each in said] == ["timed out", "wrong password"]


def claim(bench: Bench, parent: Parent, child: ChildFile) -> Occurrence:
    """A child of the parent runs an occurrence."""
    lease = parent._written.lease
    occurrence = bench.plan("work", "run_once")
    attempt = Attempt(n=1, r=0, host="here", pid=1, nonce="a" * 32, since=datetime.now(UTC))
    child.tell(Running.STOPPABLE, attempt.nonce, lease)
    step = runs.claim(bench.keys, occurrence, attempt, lease=lease)
    assert isinstance(step.read(bench.client.txn(step.compare, step.success, step.failure)), Claimed)
    return occurrence


@pytest.fixture
def child(parent: Parent) -> Iterator[ChildFile]:
    process = subprocess.Popen(["sleep", "600"])
    try:
        yield ChildFile(parent._directory.path / f"child-{process.pid}", create=True)
    finally:
        process.kill()
        process.wait()


def test_a_body_is_not_stopped_on_the_word_of_a_node_that_is_behind(
    bench: Bench, parent: Parent, child: ChildFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys of a lease are told without a quorum: an old leader that is cut off does not know them all."""
    claim(bench, parent, child)

    def behind(self: Client, id: int, keys: bool = False) -> LeaseTimeToLiveResponse:
        return LeaseTimeToLiveResponse(ID=int64(id), TTL=int64(3), keys=())

    monkeypatch.setattr(Client, "time_to_live", behind)
    parent._compare_claims()
    assert parent._directory.told() == []


def test_a_body_whose_claim_is_gone_is_stopped(bench: Bench, parent: Parent, child: ChildFile) -> None:
    occurrence = claim(bench, parent, child)
    parent._compare_claims()
    assert parent._directory.told() == []
    bench.client.delete(bench.keys.active(occurrence))
    parent._compare_claims()
    assert parent._directory.told() == ["a" * 32]


def test_a_body_that_ended_since_its_word_was_read_has_lost_nothing(
    parent: Parent, child: ChildFile, caplog: pytest.LogCaptureFixture
) -> None:
    """Its claim ended with it: a worker of threads was said to lose one now and then."""
    lease = parent._written.lease
    words = [
        ChildState(incarnation, Running.UNSTOPPABLE, nonce * 32, lease)
        for incarnation, nonce in (("", "b"), (child.incarnation, "c"))
    ]
    parent._stop_bodies_without_claim(words, set(), lease)
    assert parent._directory.told() == []
    assert "has lost its claim" not in caplog.text


def test_bodies_have_their_grace_when_the_lease_is_lost_while_the_keeper_looks_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read after its state, its deadline was that of one that ended long ago: they were killed unasked."""
    monkeypatch.setattr(deadline.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(deadline.ENVIRONMENT, "")  # the parent's own, which goes with the test
    settings = Settings(endpoints=("http://127.0.0.1:9",))
    parent = Parent(settings, WorkerDirectory.make(), advertisement("w1@test", "prefork", 1))
    before = Deadline(7, boottime() + 8, 10)
    answers = iter(((before.at, State.HELD), (0.0, State.LOST)))

    class Lost:
        """Between the first look and the second."""

        lease_id, ttl = before.lease, before.ttl
        deadline = property(lambda _: next(answers)[0])
        state = property(lambda _: next(answers)[1])

    parent._written, parent._session = before, Lost()  # type: ignore[assignment]
    parent._publish_deadline()
    assert parent._written == Deadline()
    assert parent._kill_at[before.lease] > before.at - 8


def test_a_killed_childs_key_is_free_before_its_message_goes_back(
    bench: Bench, parent: Parent, child: ChildFile
) -> None:
    """Else the message, delivered again at once, finds that key and is dropped as a second delivery."""
    ((pid, _),) = parent._directory.children().items()
    lease, held = parent._written.lease, []
    key = bench.keys.turn("invoice()", lease, "a" * 32)
    child.tell(Running.STOPPABLE, "a" * 32, lease)
    bench.client.put(key, b"{}", lease)

    class Request:
        task, request_dict, worker_pid = SimpleNamespace(jobguard={"lock": []}), {}, pid

        def on_failure(self, *_: Any) -> None:
            held.append(bench.client.get(key))

    os.kill(pid, signal.SIGKILL)
    request = guarded_request(Request, parent)()
    request.on_failure(SimpleNamespace(exception=WorkerLostError()))
    until(lambda: held == [None], "the message goes back, and nobody has the key")


def test_a_childs_last_word_stays_until_it_is_buried(
    parent: Parent, child: ChildFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that fails between two steps makes a burial begin anew: without the child's name its own claim
    would be taken for another's, and nobody would tell who waits for the result."""
    ((pid, word),) = parent._directory.children().items()
    child.tell(Running.STOPPABLE, "a" * 32, parent._written.lease)
    freed, failed = [], threading.Event()

    def free(store: Any, occurrence: Any, number: Any, incarnation: str, *_: Any) -> None:
        if not failed.is_set():
            failed.set()
            raise Unavailable("as if no node answered")
        freed.append(incarnation)

    monkeypatch.setattr(burial, "free", free)
    os.kill(pid, signal.SIGKILL)
    request = SimpleNamespace(worker_pid=pid, _context=SimpleNamespace(retries=0))
    header = Header(job="work", nominal="2026-11-24T02:00:00Z", n=1, ns="default")
    parent.child_ended(header, request, Ending.LOST, "killed")
    assert failed.wait(30)
    for _ in range(3):
        parent._compare_claims()
    until(lambda: freed == [word.incarnation], "its claim is freed by its name")
    until(lambda: not parent._directory.children(), "it is forgotten")


def test_a_key_that_was_given_up_meanwhile_is_not_said_to_be_freed(parent: Parent, caplog: Any) -> None:
    burial.give_up_turns(parent._store, [parent._store.keys.turn("invoice()", 1, "gone")])
    assert "freed" not in caplog.text


def test_two_threads_that_begin_at_once_are_one_worker_to_the_parent(
    parent: Parent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hears of the bodies of one alone, and would take the claims of the other for nobody's."""
    both = threading.Barrier(2)

    def slow(*args: Any) -> Child:
        both.wait(30)
        return Child(*args)

    monkeypatch.setattr(guard, "Child", slow)
    ours = Guard(Celery("threads", set_as_current=False))

    def begin(nonce: str) -> None:
        ours._own().tell(Running.UNSTOPPABLE, nonce, 1)

    threads = [threading.Thread(target=begin, args=(nonce,)) for nonce in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(word.nonce for word in ours.words()) == ["a", "b"]


def test_its_files_never_look_abandoned(parent: Parent, child: ChildFile) -> None:
    """Systems clean /tmp of what was not touched for days, and writes to mapped memory may not count."""
    directory = parent._directory.path
    old = time.time() - 11 * 86400
    for path in (directory, *directory.iterdir()):
        os.utime(path, (old, old))
    parent._compare_claims()
    for path in (directory, *directory.iterdir()):
        assert time.time() - path.stat().st_mtime < 60, path


def test_the_keeper_goes_on_after_a_bug(parent: Parent, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """Without it the children see no renewals, stop their bodies, and the worker never runs any again."""
    monkeypatch.setattr(parent, "_kill_late_bodies", lambda: 1 / 0)
    until(lambda: "division by zero" in caplog.text, "the bug strikes")
    before = parent._written.at
    until(lambda: parent._lease_file.read().at > before, "the next renewal is told")


def test_an_outcome_waits_for_a_store_that_is_full(
    bench: Bench, parent: Parent, child: ChildFile, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Refused now is not refused for good: else a body that has finished counts as lost, and runs again."""
    occurrence = claim(bench, parent, child)
    active = bench.client.get(bench.keys.active(occurrence))
    assert active
    done = Done(
        job="work",
        nominal=occurrence.nominal,
        verdict=Verdict.RAN,
        nonce="a" * 32,
        finished=occurrence.nominal,
    )
    step = runs.finish(bench.keys, occurrence, token=active.create_revision, done=done)
    request = TxnRequest(compare=step.compare, success=step.success, failure=step.failure)
    full = True
    original = Client.txn_until_known

    def refuse(self: Client, compare: Any = (), *args: Any, **kwargs: Any) -> Any:
        if full and tuple(compare) == step.compare:
            raise ServerError(8, "etcdserver: mvcc: database space exceeded")
        return original(self, compare, *args, **kwargs)

    monkeypatch.setattr(Client, "txn_until_known", refuse)
    parent._directory.leave_unsent("a" * 32, encode(request))
    child.tell(Running.NOTHING)
    until(lambda: "database space exceeded" in caplog.text, "it was refused")
    for _ in range(3):
        parent._carry_unsent()
    assert caplog.text.count("database space exceeded") == 1
    full = False
    assert bench.verdict(occurrence).verdict is Verdict.RAN
    until(lambda: not parent._directory.unsent(), "nothing is left to send")


def test_an_errand_with_a_bug_is_not_dropped(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """One of them keeps the lease: without it the worker would never run anything again."""
    monkeypatch.setattr("jobguard.celery.errands.AFTER_BUG_S", 0.05)
    errands = Errands()
    outcomes = iter([ZeroDivisionError("a bug"), None])
    done = threading.Event()

    def errand() -> None:
        if (outcome := next(outcomes)) is not None:
            raise outcome
        done.set()

    errands.add(errand)
    errands.start()
    try:
        assert done.wait(30)
        assert "a bug" in caplog.text
    finally:
        errands.stop(30)
