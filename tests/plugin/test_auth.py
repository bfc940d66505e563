"""A beat and a worker whose user may touch their app's prefix and nothing else."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobguard.client import Client
from jobguard.ops import prefix_end
from jobguard.records import Done, Verdict, decode
from tests.accounts import PASSWORD, ROOT_PASSWORD, add_user, as_, enabled, token
from tests.gateway import Gateway
from tests.plugin.beats import PATIENT, Beats, beats
from tests.plugin.bench import Bench, until
from tests.stores import KINDS, Node

CHECKED_SLOWLY = {"TEST_TIMEOUT": "20"}
"""A password takes a busy host seconds to check."""

pytestmark = pytest.mark.parametrize("store", KINDS, indirect=True, scope="session")


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    return file


@pytest.fixture
def gateway(store: Node, bench: Bench, password_file: Path) -> Iterator[Gateway]:
    """Of a store where the bench's client, too, is the app's user."""
    with store.gateway() as gateway, enabled(gateway) as root:
        prefix = bench.keys.prefix().decode()
        assert prefix.startswith("/jobguard/")
        add_user(gateway, root, "app", ("READWRITE", prefix, prefix_end(prefix.encode()).decode()))
        bench.client = Client([store.url], timeout=30, username="app", password_file=password_file)
        yield gateway
        bench.close()


@pytest.fixture
def stage(gateway: Gateway, bench: Bench) -> Iterator[Beats]:
    with beats(bench) as found:
        yield found


def runs(bench: Bench) -> list[Done]:
    return [decode(kv.value, Done) for kv in bench.client.prefix(bench.keys.prefix("done", "work")).kvs]


def test_its_own_prefix_is_all_that_an_app_needs(
    stage: Beats, bench: Bench, gateway: Gateway, password_file: Path
) -> None:
    """Planned, published, claimed, run and finished; then as well with a password changed under way."""
    who = {"JOBGUARD_USERNAME": "app", "JOBGUARD_PASSWORD_FILE": str(password_file), "TEST_GUARD": "1"}
    who |= PATIENT | CHECKED_SLOWLY
    worker = bench.worker(app="tests.plugin.beat_app", ready=True, **who)
    beat = stage.start(**who)
    until(lambda: len(runs(bench)) >= 2, "two runs")
    password_file.write_text("another")
    root = token(gateway, "root", ROOT_PASSWORD)
    as_(gateway, root, "/v3/auth/user/changepw", {"name": "app", "password": "another"})
    before = len(runs(bench))
    until(lambda: len(runs(bench)) >= before + 2, "two more")
    assert {done.verdict for done in runs(bench)} == {Verdict.RAN}
    for log in (worker.log, beat.log):
        assert "ERROR" not in log
        assert PASSWORD not in log
        assert "another" not in log


def test_a_worker_whose_password_is_wrong_says_so(gateway: Gateway, bench: Bench) -> None:
    who = {"JOBGUARD_USERNAME": "app", "JOBGUARD_PASSWORD": "wrong"}
    worker = bench.worker(ready=False, **who, **CHECKED_SLOWLY, TEST_TTL="60")
    until(lambda: "authentication failed, invalid user ID or password" in worker.log, "the reason")
    assert '"wrong"' not in worker.log
