"""For users' tests: a real node of the store, and runs for bodies that are called without a worker.

    pytest_plugins = ["jobguard.testing"]       # in conftest.py

    def test_digest(jobguard_run):
        send_digest.apply()                     # jobguard.current() gives a run, check() holds
        jobguard_run.lose()                     # from here on check() raises LockLost

    def test_import(jobguard_client):
        with jobguard_client.lock("import"): ...

Place in the house   users' tests -> here -> a process of jobguard_store, current
Gives                fixtures jobguard_store, jobguard_client, jobguard_run; or node() and fake_run()
Never                is imported outside of tests, or leaves a process behind
"""

import itertools
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from threading import Event

import pytest

from jobguard.celery import current
from jobguard.celery.current import Run
from jobguard.client import Client
from jobguard.errors import ConfigurationError, JobguardError, LockLost

_START_S = 60.0
_tokens = itertools.count(1)  # as in a store, a later run's is larger
_namespaces = itertools.count(1)


@contextmanager
def node() -> Iterator[str]:
    """A store of one node, on a port of its own and on files that go with it; gives its client URL.

    Takes half a second. Raises ConfigurationError without the extra `store`.
    """
    if find_spec("jobguard_store") is None:
        raise ConfigurationError('a node needs the store: pip install "jobguard[store]"')
    with tempfile.TemporaryDirectory(prefix="jobguard-testing-") as folder:
        client_url, peer_url = _free_urls(2)
        command = [sys.executable, "-m", "jobguard_store", "--data-dir", folder]
        command += ["--listen-client-urls", client_url, "--advertise-client-urls", client_url]
        command += ["--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url]
        command += ["--initial-cluster", f"default={peer_url}"]
        log = Path(folder) / "log"
        with log.open("wb") as written:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=written, stderr=written)
        try:
            _wait_until_it_serves(client_url, process, log)
            yield client_url
        finally:
            process.terminate()
            process.wait(_START_S)


def _free_urls(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"http://127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _wait_until_it_serves(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + _START_S
    with Client([url], timeout=1.0) as client:
        while True:
            try:
                client.get("/ready")  # a quorum of one
            except JobguardError as error:
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"the node does not serve: {error}\n{log.read_text()}") from error
                time.sleep(0.01)
            else:
                return


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeRun(Run):
    """A run that no store knows: for bodies called by a test, eagerly or plainly."""

    _lost: Event = field(default_factory=Event, repr=False)

    def lose(self) -> None:
        """As if another had taken over: `check()` raises LockLost from here on."""
        self._lost.set()


@contextmanager
def fake_run(
    job: str = "test",
    *,
    nominal_time: datetime | None = None,
    attempt: int = 1,
    fencing_token: int | None = None,
) -> Iterator[FakeRun]:
    """What `jobguard.current()` gives within: a run of `job`, whose token is larger than any before.

    `jobguard.held()`, for the body of a task with a `jobguard` option, gives the same token and ends with it.
    """
    lost = Event()

    def check_held() -> None:
        if lost.is_set():
            raise LockLost(f"{job} was lost: the test said so")

    run = FakeRun(
        job=job,
        nominal_time=nominal_time or datetime.now(UTC).replace(microsecond=0),
        attempt=attempt,
        fencing_token=next(_tokens) if fencing_token is None else fencing_token,
        cluster_id=1,
        check_held=check_held,
        _lost=lost,
    )
    held = current.Held(
        name=job, fencing_token=run.fencing_token, cluster_id=run.cluster_id, check_held=check_held
    )
    token, token_held = current.enter(run), current.enter_held(held)
    try:
        yield run
    finally:
        current.leave_held(token_held)
        current.leave(token)


@pytest.fixture(scope="session")
def jobguard_store() -> Iterator[str]:
    """The client URL of a real node, one for all tests of the session."""
    with node() as url:
        yield url


@pytest.fixture
def jobguard_client(jobguard_store: str) -> Iterator[Client]:
    """A client on that node, in a namespace that no other test has."""
    namespace = f"testing-{os.getpid()}-{next(_namespaces)}"
    with Client([jobguard_store], namespace=namespace) as client:
        yield client


@pytest.fixture
def jobguard_run(request: pytest.FixtureRequest) -> Iterator[FakeRun]:
    """The run of every body that the test calls: `jobguard.current()`."""
    with fake_run(str(request.node.name)) as run:
        yield run
