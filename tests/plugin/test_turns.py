"""A call's turn at its key, on both stores: transactions alone, no worker."""

import os
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from jobguard import observe, operate, turns
from jobguard.client import Client
from jobguard.records import Completed, Turn
from jobguard.steps import Transaction
from jobguard.turns import Line
from tests.plugin.stage import Stage, operators

T = TypeVar("T")
NOW = datetime(2026, 11, 24, tzinfo=UTC)


def send(client: Client, step: Transaction[T]) -> T:
    return step.read(client.txn_until_known(step.compare, step.success, step.failure))


def turn(nonce: str, most: int = 1) -> Turn:
    return Turn(name="invoice(customer=7)", host="h", pid=1, nonce=nonce, since=NOW, most=most, worker="w1@h")


def enter(
    stage: Stage, nonce: str, *, only_if_free: bool = False, used: int | None = None, most: int = 1
) -> Line:
    lease = stage.client.grant(60).id
    step = turns.enter(stage.keys, turn(nonce, most), lease=lease, only_if_free=only_if_free, used=used)
    answer, again = send(stage.client, step), send(stage.client, step)
    assert again.ours == answer.ours  # sent twice, entered once
    return answer


def completed(nonce: str, until: datetime) -> Completed:
    return Completed(
        name="invoice(customer=7)", host="h", pid=1, nonce=nonce, finished=NOW, until=until, task_id="t"
    )


def test_they_stand_in_the_order_in_which_they_came(stage: Stage) -> None:
    lines = [enter(stage, nonce) for nonce in ("a", "b", "c")]
    assert [len(line.before) for line in lines] == [0, 1, 2]
    assert lines[2].ours is not None
    look = turns.look(stage.keys, "invoice(customer=7)", lines[2].ours.key)
    assert [each.turn and each.turn.nonce for each in send(stage.client, look).stood] == ["a", "b", "c"]
    first = lines[0].ours
    assert first is not None
    assert send(stage.client, turns.leave(first.key, first.token))
    assert not send(stage.client, turns.leave(first.key, first.token))
    assert len(send(stage.client, look).before) == 1


def test_who_does_not_wait_stands_behind_nobody(stage: Stage) -> None:
    line = enter(stage, "a", only_if_free=True)
    assert line.ours is not None
    refused = enter(stage, "b", only_if_free=True)
    assert refused.ours is None
    assert [each.holder for each in refused.before] == ["h pid 1"]


def test_a_completion_uses_the_key_up_until_it_is_over(stage: Stage) -> None:
    first, second = enter(stage, "a", used=0), enter(stage, "b", used=0)
    assert first.ours is not None
    assert second.ours is not None
    step = turns.complete(stage.keys, first.ours.key, first.ours.token, completed("a", NOW), lease=0)
    assert send(stage.client, step)
    assert send(stage.client, step), "its own twin's answer"
    late = turns.complete(stage.keys, first.ours.key, first.ours.token, completed("late", NOW), lease=0)
    assert not send(stage.client, late), "it does not have the key any more"
    refused = enter(stage, "c", used=0)
    assert refused.ours is None
    assert refused.completed is not None
    assert refused.completed.record.nonce == "a"
    # The caller saw that it is over, and nobody has completed since.
    entered = enter(stage, "d", used=refused.completed.mod_revision)
    assert entered.ours is not None
    step = turns.complete(stage.keys, second.ours.key, second.ours.token, completed("b", NOW), lease=0)
    assert send(stage.client, step)
    assert enter(stage, "e", used=refused.completed.mod_revision).ours is None


def test_a_lock_of_that_name_excludes_a_task_and_the_other_way_round(stage: Stage) -> None:
    with operators(stage) as client:
        lock = client.lock("invoice(customer=7)", timeout=0)
        with lock:
            refused = enter(stage, "a", only_if_free=True)
            assert refused.ours is None
            assert refused.before[0].holder.endswith(f" pid {os.getpid()}")
        assert enter(stage, "b", only_if_free=True).ours is not None
        assert not lock.acquire(0)


def test_each_holder_of_a_limit_is_shown_and_released_by_itself(stage: Stage) -> None:
    lines = [enter(stage, nonce, most=2) for nonce in ("a", "b", "c")]
    with operators(stage) as client:
        held = observe.locks(client).items
        assert {lock.name for lock in held} == {"invoice(customer=7)"}
        tokens = [line.ours.token for line in lines if line.ours]
        assert sorted(lock.revision for lock in held) == tokens[:2]
        assert {(lock.waiters, lock.worker, lock.liveness) for lock in held} == {(1, "w1@h", "alive")}
        second = next(lock for lock in held if lock.revision == tokens[1])
        assert observe.lock(client, second.id).revision == tokens[1]
        actor = operate.Actor(by="ann", via="test", reason="stuck")
        operate.release(client, second.id, revision=tokens[1], actor=actor)
        assert sorted(lock.revision for lock in observe.locks(client).items) == [tokens[0], tokens[2]]


def test_what_completed_is_read_as_written(stage: Stage) -> None:
    line = enter(stage, "a", used=0)
    assert line.ours is not None
    record = completed("a", NOW + timedelta(hours=1))
    send(stage.client, turns.complete(stage.keys, line.ours.key, line.ours.token, record, lease=0))
    again = enter(stage, "b", used=0)
    assert again.completed is not None
    assert again.completed.record == record
