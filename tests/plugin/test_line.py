"""A call's way through the line, in this very process: whom it waits for, and what it leaves behind."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from celery.exceptions import Ignore

from jobguard import turns, wire
from jobguard.celery import deadline
from jobguard.celery.child import Child
from jobguard.celery.deadline import Deadline, WorkerDirectory
from jobguard.celery.line import Call, Taken
from jobguard.celery.optin import opt_in
from jobguard.celery.turn import Turns
from jobguard.client import Client
from jobguard.errors import Skipped, Unavailable
from jobguard.records import Completed, Turn
from jobguard.session import boottime
from jobguard.settings import Settings
from jobguard.steps import Transaction
from jobguard.turns import Line
from tests.plugin.bench import until
from tests.plugin.stage import Stage

NAME = "work(customer=7)"


@pytest.fixture
def child(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Child]:
    """This process, as a worker of threads has it: with a lease, and a directory to leave things in."""
    monkeypatch.setattr(deadline.tempfile, "tempdir", str(tmp_path))
    directory = WorkerDirectory.make()
    directory.lease().write(Deadline(stage.client.grant(600).id, boottime() + 600, 600))
    settings = Settings(
        endpoints=stage.client.urls,
        namespace=stage.keys.namespace,
        session_ttl=3,
        claim_timeout=30,
        timeout=30,
    )
    yield Child(settings, directory)
    directory.remove()


def call(child: Child, option: dict[str, Any], *, task_id: str = "ours", r: int = 0) -> Call:
    app = Celery("line", set_as_current=False)

    @app.task(name="work", shared=False, jobguard=option)
    def work(customer: int) -> None: ...

    task = app.tasks["work"]
    asked = opt_in(task)
    assert asked is not None
    return Call(
        child, asked, task, Context({"id": task_id, "retries": r}), NAME, f"{task_id}-{r}", alone=True
    )


def stands(stage: Stage, task_id: str, ttl: float) -> turns.Stood:
    """Another worker's place in line, on a lease of its own."""
    turn = Turn(name=NAME, host="h", pid=1, nonce="other", since=datetime.now(UTC), task_id=task_id)
    step = turns.enter(stage.keys, turn, lease=stage.client.grant(ttl).id, only_if_free=False)
    ours = send(stage.client, step).ours
    assert ours is not None
    return ours


def send(client: Client, step: Transaction[Line]) -> Line:
    return step.read(client.txn_until_known(step.compare, step.success, step.failure))


@pytest.mark.parametrize("option", [{"lock": ["customer"]}, {"lock": ["customer"], "wait": 0.1}])
def test_a_message_that_outlived_its_worker_runs(stage: Stage, child: Child, option: dict[str, Any]) -> None:
    """RabbitMQ delivers it again at once; the key of the one who died stands until its lease ends."""
    stands(stage, "ours", ttl=2)
    assert isinstance(call(child, option).take(), Taken)


def test_a_second_delivery_is_dropped_while_the_first_ones_worker_lives(stage: Stage, child: Child) -> None:
    place = stands(stage, "ours", ttl=10)
    lease, dropped = int(stage.keys.parts(place.key)[2], 16), threading.Event()

    def renew() -> None:
        while not dropped.wait(0.2):
            stage.client.keepalive(lease)

    renewing = threading.Thread(target=renew)
    renewing.start()
    try:
        with pytest.raises(Ignore, match="second delivery"):
            call(child, {"lock": ["customer"]}).take()
    finally:
        dropped.set()
        renewing.join()


def test_who_waits_while_the_worker_takes_another_lease_has_the_key_on_that(
    stage: Stage, child: Child
) -> None:
    """On the one before a body would be stopped as soon as it begins."""
    before = stands(stage, "before", ttl=60)
    taken: list[Taken | Completed] = []
    waiting = threading.Thread(
        target=lambda: taken.append(call(child, {"lock": ["customer"], "wait": 60}).take())
    )
    waiting.start()
    look = turns.look(stage.keys, NAME, before.key)
    until(lambda: len(send(stage.client, look).stood) == 2, "it stands in line")
    now = Deadline(stage.client.grant(600).id, boottime() + 600, 600)
    child._lease.write(now)
    stage.client.delete(before.key)
    waiting.join(60)
    (found,) = taken
    assert isinstance(found, Taken)
    assert found.under == now
    (stood,) = send(stage.client, look).stood
    assert (stood.key, stood.token) == (found.key, found.token)


def test_a_window_that_is_over_lets_a_call_wait(stage: Stage, child: Child) -> None:
    """What is left of the last completion must not be taken for a refusal."""
    before = stands(stage, "before", ttl=60)
    over = datetime.now(UTC) - timedelta(seconds=1)
    done = Completed(name=NAME, host="h", pid=1, nonce="before", finished=over, until=over)
    step = turns.complete(stage.keys, before.key, before.token, done, lease=0)
    assert step.read(stage.client.txn(step.compare, step.success, step.failure))
    stands(stage, "holder", ttl=60)
    began = time.monotonic()
    with pytest.raises(Skipped, match=r"is held by h pid 1 since .*, after 0.4 s"):
        call(child, {"once": ["customer"], "window": 60, "wait": 0.4}).take()
    assert time.monotonic() - began >= 0.4


def test_who_is_not_run_until_it_has_waited_long_enough_takes_what_is_free(
    stage: Stage, child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, moves = stands(stage, "before", ttl=60), Call._moves

    def stand_still(self: Call, line: Line, ours: turns.Stood, under: Deadline, until: float) -> bool:
        stage.client.delete(before.key)
        return moves(self, line, ours, under, time.monotonic())

    monkeypatch.setattr(Call, "_moves", stand_still)
    assert isinstance(call(child, {"lock": ["customer"], "wait": 1000}).take(), Taken)


def test_a_place_left_for_the_parent_to_take_away_is_not_entered_again(
    stage: Stage, child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it takes it from under the body, and the next in line runs beside it."""
    before = stands(stage, "ours", ttl=60)  # its retry is out, and it lets go a moment later
    known = Client.txn_known

    def lost(self: Client, compare: Any = (), success: Any = (), failure: Any = (), **rest: Any) -> Any:
        deletes = [op for op in success if op.request_delete_range is not None]
        if deletes and self is child.client:
            stage.client.delete(before.key)
            raise Unavailable("as if no node answered")
        return known(self, compare, success, failure, **rest)

    monkeypatch.setattr(Client, "txn_known", lost)
    retry = call(child, {"lock": ["customer"], "wait": 0.1}, r=1)
    with pytest.raises(Unavailable):
        retry.take()
    (left,) = child._directory.unsent().values()
    step = wire.decode(left, wire.TxnRequest)
    stage.client.txn(step.compare, step.success, step.failure)
    look = turns.look(stage.keys, NAME, before.key)
    until(lambda: send(stage.client, look).stood == (), "nobody stands in line")


def test_what_completes_is_recorded_though_the_lease_of_its_window_has_ended(
    stage: Stage, child: Child
) -> None:
    """As after a while without the store: no answer but this one would ever come, and the call never end."""
    ours, ran = Turns(child), list[object]()

    def run(customer: int, body: Callable[[], Any]) -> None:
        first = call(child, {"once": ["customer"], "window": 60}, task_id=str(customer))
        ran.append(ours.around(first.asked, first.task, first.request, (customer,), {}, body))

    def revoke() -> str:
        kv = stage.client.get(stage.keys.completed("work(customer=7)"))
        assert kv is not None
        stage.client.revoke(kv.lease)
        return "second"

    run(7, lambda: "first")
    second = threading.Thread(target=run, args=(8, revoke), daemon=True)
    second.start()
    second.join(60)
    assert ran == ["first", "second"]
    run(9, lambda: "third")
    found = [stage.client.get(stage.keys.completed(f"work(customer={number})")) for number in (8, 9)]
    assert [kv is not None and kv.lease != 0 for kv in found] == [False, True]
    assert found[0] is not None
