"""What the commands print: tables for people, the API's JSON for programs, talk on stderr."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from click.testing import Result

from jobguard import Client
from jobguard.records import Audit, Keys, Verdict, decode
from jobguard_webui import create_app
from tests.faces import done, ended, occurrence, queue, run_of, told_no

Run = Callable[..., Result]


def test_locks_as_a_table(client: Client, run: Run) -> None:
    with queue(client, "nightly export", contenders=2):
        heads, row = run("locks", "list").stdout.splitlines()
    assert heads.split()[:4] == ["NAME", "KIND", "HOLDER", "SINCE"]
    assert row.startswith("nightly export  lock  host-0 pid 100  2026-11-24T02:00:00Z")


def test_json_is_the_body_of_the_api(client: Client, run: Run) -> None:
    token = {"Authorization": "Bearer t"}
    api = create_app(client, token="t").test_client()
    lease = client.grant(600).id
    value = '{"host":"beat-1","pid":7,"since":"2026-11-24T02:00:00Z"}'
    client.put(client.key("elections", "beat", f"{lease:x}", "x"), value, lease)
    client.put(client.key("config", "digest", "batch"), "500")
    told_no(client, run_of(client, "digest", lease=lease))
    ended(client, done("report", 30, Verdict.LATE, "nobody came"))
    for command, path in (
        ("runs list", "runs"),
        ("runs refusals", "refusals"),
        ("config get", "config"),
        ("leaders", "leaders"),
        ("locks list", "locks"),
    ):
        printed = json.loads(run(*command.split(), "-o", "json").stdout)
        assert without_clocks(printed) == without_clocks(api.get(f"/api/v1/{path}", headers=token).json)
    members = json.loads(run("cluster", "status", "-o", "json").stdout)["members"]
    assert members[0].keys() == api.get("/api/v1/cluster", headers=token).json["members"][0].keys()


def without_clocks(body: dict[str, object]) -> object:
    return json.loads(json.dumps(body), object_hook=lambda o: {**o, "seconds_left": 0})


def test_runs_tell_why(client: Client, run: Run) -> None:
    ended(client, done("report", 30, Verdict.SKIPPED, "another run is on worker-9"), done("cleanup", 20))
    out = run("runs", "list", "--job", "report").stdout
    assert "skipped" in out
    assert "Not started: another run is on worker-9." in out
    assert "cleanup" not in out


def test_a_run_is_shown_with_its_attempts(client: Client, run: Run) -> None:
    lease = client.grant(600).id
    which = run_of(client, "digest", lease=lease)
    told_no(client, which)
    shown = run("runs", "show", "digest", which.stamp).stdout.splitlines()
    assert shown[0] == f"digest of {which.stamp}: running"
    assert shown[1].startswith("celery@w1 pid 4242 runs attempt 1 since ")
    heads, attempt = shown[3:5]
    assert heads.split() == ["ATTEMPT", "OUTCOME", "ON", "TOKEN", "TASK", "ID", "CLAIMED", "ENDED", "ERROR"]
    (told,) = json.loads(run("runs", "show", "digest", which.stamp, "-o", "json").stdout)["history"]
    assert (told["attempt"], told["task_id"]) == (1, "4711-1")
    assert attempt.split()[:7] == [
        "1",
        "running",
        "worker-1",
        "pid",
        "4242",
        str(told["fencing_token"]),
        "4711-1",
    ]
    assert "was told no for attempt 1" in shown[5]
    missing = run("runs", "show", "digest", "2020-01-01T00:00:00Z")
    assert missing.exit_code == 3
    assert missing.stderr == "Error: no run of digest is known for 2020-01-01T00:00:00Z.\n"


def test_refusals_tell_who_was_told_no_and_who_holds_it(client: Client, run: Run) -> None:
    told_no(client, occurrence("report"))
    told_no(client, occurrence("cleanup"), slot=1)
    heads, row = run("runs", "refusals", "--job", "report").stdout.splitlines()
    assert heads.split() == ["JOB", "DUE", "TOLD", "NO", "AT", "WHY"]
    assert row.startswith("report ")
    assert "celery@w2 pid 99 was told no for attempt 1: already running on worker-1 pid 4242" in row


def test_a_long_list_says_how_to_go_on_without_disturbing_the_data(client: Client, run: Run) -> None:
    ended(client, done("a", 10), done("a", 20))
    first = run("runs", "list", "--limit", "1")
    cursor = first.stderr.rsplit(" ", 1)[1].strip()
    assert len(first.stdout.splitlines()) == 2
    second = run("runs", "list", "--limit", "1", "--cursor", cursor)
    assert second.stderr == ""
    assert first.stdout.splitlines()[1] != second.stdout.splitlines()[1]


def test_nothing_to_show_is_said_on_stderr(run: Run) -> None:
    for command, said in (
        ("locks list", "Nothing is held."),
        ("leaders", "Nobody leads."),
        ("runs list", "No runs."),
        ("runs refusals", "Nobody was told no lately."),
    ):
        answer = run(*command.split())
        assert (answer.exit_code, answer.stdout, answer.stderr.strip()) == (0, "", said)


def test_config_is_put_with_its_audit_entry_and_read_back(client: Client, run: Run) -> None:
    assert run("config", "put", "digest/sender", "news@example.org", "--reason", "asked for").exit_code == 0
    run("config", "put", "digest/batch", "500")
    assert run("config", "get", "digest/sender").stdout == "news@example.org\n"
    assert json.loads(run("config", "get", "digest/batch", "-o", "json").stdout)["value"] == 500
    assert "digest/batch" in run("config", "get").stdout
    entries = client.prefix(Keys(client.namespace).prefix("audit")).kvs
    first = decode(entries[0].value, Audit)
    assert (first.action, first.target, first.reason, first.via) == (
        "config",
        "digest/sender",
        "asked for",
        "cli",
    )
    stored = client.get(client.key("config", "digest", "sender"))
    assert stored is not None
    assert stored.mod_revision == entries[0].mod_revision


def test_config_watch_shows_each_change_until_it_is_stopped(client: Client) -> None:
    environment = {
        **os.environ,
        "JOBGUARD_ENDPOINTS": ",".join(client.urls),
        "JOBGUARD_NAMESPACE": client.namespace,
        "PYTHONUNBUFFERED": "1",
    }
    watching = subprocess.Popen(
        [sys.executable, "-c", "from jobguard.cli import main; main()", "config", "watch", "-o", "json"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    assert watching.stderr is not None
    try:
        assert "Watching" in watching.stderr.readline()
        client.put(client.key("config", "a", "b"), '"one"')
        assert json.loads(watching.stdout.readline())["value"] == "one"
        client.delete(client.key("config", "a", "b"))
        last = json.loads(watching.stdout.readline())
        assert (last["key"], last["deleted"]) == ("a/b", True)
        watching.send_signal(signal.SIGINT)
        assert watching.wait(60) == 0
    finally:
        watching.kill()
        watching.communicate()


@pytest.mark.parametrize(
    "command", [(), ("locks",), ("locks", "list"), ("locks", "release"), ("config", "watch")]
)
def test_help_explains_and_needs_no_store(command: tuple[str, ...], run: Run) -> None:
    answer = run(*command, "--help")
    assert answer.exit_code == 0
    if len(command) == 2:
        assert "Example: jobguard" in answer.stdout
        assert "JOBGUARD_ENDPOINTS" in answer.stdout
