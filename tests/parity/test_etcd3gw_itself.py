"""etcd3gw's own tests, as its wheel brings them: against one node, and against three whose leader is killed.

They run in processes of their own, several at a time, for most of them sleep while they watch.
"""

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.stores import CALM, Node, eventually, leader_of, nodes

pytestmark = pytest.mark.timeout(600)  # processes that sleep, and take their time to come up

SUITE = ("etcd3gw.tests.test_etcd3gw", "etcd3gw.tests.test_client")
PATIENCE_S = 300
# They begin to write three seconds after they began to watch.
WATCHES = ("test_watch_key", "test_watch_huge_payload", "test_watch_prefix")


def names() -> list[str]:
    """Every test there is, as unittest calls it."""
    found = []
    for module in SUITE:
        spec = importlib.util.find_spec(module)
        assert spec
        assert spec.origin
        tests = re.findall(r"^    def (test_\w+)", Path(spec.origin).read_text(), re.MULTILINE)
        found += [f"{module}.TestEtcd3Gateway.{test}" for test in tests]
    return found


@contextmanager
def running(store: Node, tests: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    port = str(urlsplit(store.url).port)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "unittest", *tests],
        env={**os.environ, "TOOZ_TEST_HTTP_URL": store.url, "TOOZ_TEST_ETCD_PORT": port},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def passed(process: subprocess.Popen[str]) -> int:
    """How many tests it ran; all of them passed, and none was skipped."""
    told, _ = process.communicate(timeout=PATIENCE_S)
    ran = re.search(r"^Ran (\d+) tests? in", told, re.MULTILINE)
    assert ran, told
    assert (process.returncode, told.rstrip().rpartition("\n")[2]) == (0, "OK"), told
    return int(ran[1])


def watches(store: Node) -> int:
    """How many have begun there; one whose process was slow to start may begin when another has ended."""
    with store.gateway() as gateway:
        (count,) = re.findall(
            r'^grpc_server_started_total\{.*grpc_method="Watch".*\} (\d+)',
            gateway.get("/metrics").body.decode(),
            re.MULTILINE,
        )
    return int(count)


def test_it_passes_against_one_node() -> None:
    tests = names()
    with (
        nodes() as [store],
        running(store, tests[0::4]) as one,
        running(store, tests[1::4]) as two,
        running(store, tests[2::4]) as three,
        running(store, tests[3::4]) as four,
    ):
        assert sum(map(passed, (one, two, three, four))) == len(tests)


def test_it_passes_against_three_nodes_whose_leader_is_killed_meanwhile() -> None:
    """Killed while its watchers are open and before they write; all else runs on the two that are left."""
    tests = names()
    watching = [test for test in tests if test.rpartition(".")[2] in WATCHES]
    others = [test for test in tests if test not in watching]
    with nodes(3, CALM) as stores:
        leader = leader_of(stores)
        follower = next(store for store in stores if store is not leader)
        with (
            running(follower, watching[0:1]) as one,
            running(follower, watching[1:2]) as two,
            running(follower, watching[2:3]) as three,
        ):
            eventually(lambda: watches(follower) >= len(WATCHES), PATIENCE_S, "all watches")
            leader.kill()
            follower.wait_until_ready()
            with running(follower, others) as rest:
                assert sum(map(passed, (one, two, three, rest))) == len(tests)
