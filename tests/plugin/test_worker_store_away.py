"""The store is away for three TTLs while twenty bodies run: who must stop has stopped, who fences goes on."""

import json
import time

from jobguard.records import Occurrence, Verdict
from tests.broker import is_running
from tests.plugin.bench import Bench, until
from tests.plugin.test_worker_deaths import LONG_GRACE, silent
from tests.stopwatch import Stopwatch
from tests.stores import Node

TTL = float(LONG_GRACE["TEST_TTL"])
FENCED = [f"fenced {number}" for number in range(10)]
STUBBORN = ["cling", "cling_to_all", "cling_in_a_finaliser", "loop_in_c", "query_for_long"]


def test_twenty_bodies_while_the_store_is_away(bench: Bench, store: Node) -> None:
    jobs = json.dumps({name: {"on_suspect": "continue"} for name in FENCED})
    bench.worker("-c", "20", "--prefetch-multiplier", "1", TEST_JOBS=jobs, **LONG_GRACE)
    gate, never = str(bench.gate("open")), str(bench.gate("never"))
    fenced = [bench.plan(name, "check") for name in FENCED]
    stopped = [bench.plan(f"stopped {number}", "cling") for number in range(5)]
    stubborn = [bench.plan(task, task) for task in STUBBORN]
    for occurrence in fenced:
        bench.send(occurrence, "check", 1, gate)
    for occurrence in stopped:
        bench.send(occurrence, "cling", 1, never)
    for occurrence in stubborn:
        bench.send(occurrence, occurrence.job, 1, *([never] if occurrence.job.startswith("cling") else []))
    pid = {each: bench.started(each)["pid"] for each in (*fenced, *stopped, *stubborn)}

    began = time.monotonic()
    with silent(store), Stopwatch() as watch:
        until(lambda: all(not is_running(pid[each]) for each in _deaf(stubborn)), "the deaf are killed")
        until(lambda: all(not _runs(bench, pid[each]) for each in (*stopped, *stubborn)), "the others stop")
        assert watch.seconds < TTL
        assert all(is_running(pid[each]) for each in (*fenced, *stopped)), "nobody else is killed"
        until(lambda: time.monotonic() > began + 3 * TTL, "three TTLs have passed")
        assert all(is_running(pid[each]) for each in (*fenced, *stopped)), "nor later"

    until(lambda: not bench.client.prefix(bench.keys.prefix("active"), keys_only=True).kvs, "all are free")
    for occurrence in (*stopped, *stubborn):
        attempt, opened = bench.attempt(occurrence, 1), bench.open(occurrence)
        assert attempt is not None
        assert opened is not None, "whether it runs again is the leader's to say"
        assert opened.n == 1
        assert "finished" not in bench.events(occurrence)
    bench.gate("open").touch()
    for occurrence in fenced:
        done = bench.verdict(occurrence)
        assert (done.verdict, done.reason) == (Verdict.UNRECORDED, "failed, but too late")
        assert bench.events(occurrence) == ["started", "refused"]
        assert is_running(pid[occurrence])


def _deaf(stubborn: list[Occurrence]) -> list[Occurrence]:
    """Those that no exception ends."""
    return [each for each in stubborn if each.job in ("cling_to_all", "loop_in_c", "query_for_long")]


def _runs(bench: Bench, pid: int) -> bool:
    return is_running(pid) and bench.running_guarded(pid)
