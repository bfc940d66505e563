"""The main path on RabbitMQ: planned, published, claimed once, recovered; whatever it delivers again."""

import os
import signal
from pathlib import Path

import pytest

from jobguard.records import Done, Verdict, decode
from tests import rabbitmq
from tests.plugin.beats import PATIENT, Message, beats
from tests.plugin.bench import Bench, until

pytestmark = [
    pytest.mark.parametrize("broker_url", ["rabbitmq"], indirect=True, scope="session"),
    pytest.mark.timeout(300),  # the first sets the broker up, and its rabbitmqctl takes seconds
]


def test_copies_and_crashes(bench: Bench, tmp_path: Path) -> None:
    worker = bench.worker("-c", "2")
    once = bench.plan("once", "run_once")
    sent = [bench.send(once, "run_once") for _ in range(4)]
    assert bench.verdict(once).verdict is Verdict.RAN
    until(lambda: worker.log.count(" not run: ") == 3, "three copies are dropped")
    assert bench.events(once) == ["started", "finished"]
    until(lambda: bench.state(sent[0]) == "SUCCESS", "its result is stored")

    late = bench.plan("late", "run_late")
    bench.send(late, "run_late", 1, str(bench.gate("never")))
    os.kill(bench.started(late)["pid"], signal.SIGKILL)
    until(lambda: bench.active(late) is None, "the claim of a killed child is freed")
    attempt = bench.attempt(late, 1)
    assert attempt is not None
    assert attempt.outcome == "lost"

    running, waiting = bench.plan("running", "run_late"), bench.plan("waiting", "run_late")
    gate = bench.gate("waiting")
    for occurrence in (running, waiting):
        bench.send(occurrence, "run_late", 1, str(gate))
        bench.started(occurrence)
    prefetched = bench.plan("prefetched", "run_late")
    bench.send(prefetched, "run_late", 1)
    worker.kill()  # RabbitMQ delivers all three again
    gate.touch()
    second = bench.worker("-c", "2")
    assert bench.verdict(prefetched).verdict is Verdict.RAN
    until(lambda: second.log.count(" not run: ") == 2, "what had been claimed is the leader's to repeat")
    assert bench.events(running) == bench.events(waiting) == ["started"]


def test_a_beat_and_a_worker(bench: Bench) -> None:
    with beats(bench) as on:
        on.start(TEST_GUARD="1", **PATIENT)
        bench.worker(app="tests.plugin.beat_app", TEST_GUARD="1", **PATIENT)

        def ran() -> list[Done] | None:
            found = [decode(kv.value, Done) for kv in bench.client.prefix(bench.keys.prefix("done")).kvs]
            return found if len(found) >= 2 else None

        assert {done.verdict for done in until(ran, "two occurrences ended")} == {Verdict.RAN}


# --- a publication and its confirmation -----------------------------------------------------------


def test_a_message_that_the_broker_refuses_is_sent_again_when_it_takes_it(bench: Bench) -> None:
    """Nacked, for its queue is full: not noted as published, and run once when there is room."""
    app = {"TEST_GUARD": "1", "TEST_QUEUE_LIMIT": "1", **PATIENT}
    with beats(bench) as on:
        beat = on.start(**app)
        until(lambda: beat.log.count("Message Error") >= 1, "the second one is refused")
        first, second, *_ = sorted(on.opened().values(), key=lambda each: each.nominal)
        assert (first.published, second.published) == (1, 0)
        beat.terminate()  # the next leader has not just failed with it, and does not wait for half a minute
        bench.worker(app="tests.plugin.beat_app", **app)
        on.start(**app)
        for each in (first, second):
            assert bench.verdict(each.occurrence).verdict is Verdict.RAN
    assert_each_ran_once(bench)


def test_a_connection_that_ends_before_the_confirmation_makes_a_copy_and_no_second_run(bench: Bench) -> None:
    with beats(bench) as on, rabbitmq.ConfirmLost(bench.broker) as url:
        on.start(TEST_BROKER=url, **PATIENT)

        def twice() -> Message | None:
            messages = on.messages()
            ids = [each.task_id for each in messages]
            return next((each for each in messages if ids.count(each.task_id) == 2), None)

        first = until(twice, "the first is sent again")
        worker = bench.worker(app="tests.plugin.beat_app", TEST_GUARD="1", **PATIENT)
        assert bench.verdict(first.occurrence).verdict is Verdict.RAN
        until(lambda: " not run: " in worker.log, "the copy is dropped")
    assert_each_ran_once(bench)


def test_a_broker_that_takes_nothing_for_a_while_costs_no_run(
    bench: Bench, rabbitmq_server: rabbitmq.Broker
) -> None:
    """An alarm of its memory or disk: it lets in whoever comes, and reads nothing of what they publish."""
    app = {"TEST_GUARD": "1", **PATIENT}
    app["TEST_OPTIONS"] = '{"confirm_timeout": 0.2}'  # 3 s, if the entry says nothing
    rabbitmq_server.control("set_vm_memory_high_watermark", "0")
    try:
        with beats(bench) as on:
            beat = on.start(**app)
            until(lambda: len(on.opened()) >= 1, "one is planned")
            until(lambda: len(on.opened()) >= 2, "it plans on")
            assert {each.published for each in on.opened().values()} == {0}
            assert beat.process.poll() is None
            waiting = list(on.opened())
            rabbitmq_server.control("set_vm_memory_high_watermark", "0.6")
            bench.worker(app="tests.plugin.beat_app", **app)
            for each in waiting:
                assert bench.verdict(each).verdict is Verdict.RAN
    finally:
        rabbitmq_server.control("set_vm_memory_high_watermark", "0.6")
    assert_each_ran_once(bench)


def assert_each_ran_once(bench: Bench) -> None:
    ran = [line["nominal"] for line in bench.journal()]
    assert len(set(ran)) == len(ran)
