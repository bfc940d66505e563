"""jobguard locks release: the holder that was seen, a reason, a confirmation, an exit code."""

import json
from collections.abc import Callable

import pytest
from click.testing import Result

from jobguard import Client, observe
from jobguard.cli import locks as command
from jobguard.records import Audit, Keys, decode
from tests.faces import queue, run_of

Run = Callable[..., Result]


def only_lock(client: Client) -> observe.Lock:
    (lock,) = observe.locks(client).items
    return lock


def release(run: Run, lock: observe.Lock, *more: str, revision: int = 0, **how: str) -> Result:
    seen = str(revision or lock.revision)
    return run("locks", "release", "--lock-id", lock.id, "--revision", seen, *more, **how)


def test_a_release_by_script(client: Client, run: Run) -> None:
    with queue(client, "nightly", contenders=2):
        lock = only_lock(client)
        answer = release(run, lock, "--reason", "stuck", "--yes")
        assert (answer.exit_code, answer.stdout) == (0, "nightly was taken from host-0 pid 100.\n")
        assert only_lock(client).host == "host-1"
        (entry,) = client.prefix(Keys(client.namespace).prefix("audit")).kvs
        assert decode(entry.value, Audit).via == "cli"


def test_where_nobody_can_be_asked_yes_is_needed(client: Client, run: Run) -> None:
    with queue(client, "nightly"):
        lock = only_lock(client)
        assert release(run, lock, "--reason", "stuck").exit_code == 2
        assert release(run, lock, "--yes").exit_code == 2
        assert only_lock(client).revision == lock.revision


@pytest.mark.parametrize(("confirmed", "exit_code", "host"), [("y", 0, "host-1"), ("n", 1, "host-0")])
def test_on_a_terminal_it_asks_for_what_is_missing(
    client: Client, run: Run, monkeypatch: pytest.MonkeyPatch, confirmed: str, exit_code: int, host: str
) -> None:
    monkeypatch.setattr(command, "somebody_is_there", lambda: True)
    with queue(client, "nightly", contenders=2):
        answer = release(run, only_lock(client), input=f"it hangs\n{confirmed}\n")
        assert answer.exit_code == exit_code
        assert "held by host-0 pid 100" in answer.stderr
        assert "not stopped" in answer.stderr
        assert only_lock(client).host == host


def test_another_holder_is_exit_code_4_and_names_it(client: Client, run: Run) -> None:
    with queue(client, "nightly"):
        lock = only_lock(client)
        answer = release(run, lock, "--reason", "stuck", "--yes", revision=1)
        assert answer.exit_code == 4
        assert "nightly is held by host-0 pid 100 now" in answer.stderr
        as_json = release(run, lock, "--reason", "stuck", "--yes", "-o", "json", revision=1)
        problem = json.loads(as_json.stderr)
        assert (problem["status"], problem["current"]["host"]) == (412, "host-0")
        assert as_json.stdout == ""


def test_a_free_lock_is_exit_code_3(client: Client, run: Run) -> None:
    with queue(client, "nightly"):
        lock = only_lock(client)
    assert release(run, lock, "--reason", "stuck", "--yes").exit_code == 3


def test_a_run_may_be_run_again(client: Client, run: Run) -> None:
    occurrence = run_of(client, "digest", lease=client.grant(600).id)
    assert release(run, only_lock(client), "--reason", "hangs", "--then", "rerun", "--yes").exit_code == 0
    assert client.get(Keys(client.namespace).done(occurrence)) is None
    (waiting,) = observe.runs(client).items
    assert (waiting.verdict, waiting.attempts) == ("waiting", 2)
