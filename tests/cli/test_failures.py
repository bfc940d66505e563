"""Failures are one sentence on stderr and an exit code; nothing is loaded that a command does not need."""

import json
import re
import socket
import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import NoReturn

import pytest
from click.testing import CliRunner

from jobguard import cli
from tests.ports import free_ports


def nowhere() -> dict[str, str]:
    return {"JOBGUARD_ENDPOINTS": f"http://127.0.0.1:{free_ports(1)[0]}", "JOBGUARD_TIMEOUT": "0.2"}


@pytest.mark.parametrize("command", ["locks list", "runs list", "leaders", "config get", "cluster status"])
def test_a_store_that_does_not_answer_is_exit_code_6(command: str) -> None:
    answer = CliRunner(env=nowhere()).invoke(cli.main, command.split())
    assert (answer.exit_code, answer.stdout) == (6, "")
    assert answer.stderr.startswith("Error: ")
    assert answer.stderr.count("\n") == 1


def test_a_failure_for_a_program_is_a_problem() -> None:
    answer = CliRunner(env=nowhere()).invoke(cli.main, ["leaders", "-o", "json"])
    assert json.loads(answer.stderr)["type"] == "urn:jobguard:problem:unavailable"


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        (["leaders", "--endpoints", "ftp://store"], {}, "ftp://store"),
        (["leaders"], {"JOBGUARD_TIMEOUT": "soon"}, "JOBGUARD_TIMEOUT"),
        (["nothing"], {}, "No such command"),
        (["runs", "list", "--verdict", "fine"], {}, "--verdict"),
    ],
)
def test_a_mistake_of_the_caller_is_exit_code_2(
    arguments: list[str], environment: dict[str, str], told: str
) -> None:
    answer = CliRunner(env=environment).invoke(cli.main, arguments)
    assert answer.exit_code == 2
    assert told in answer.stderr


def test_a_wrong_address_is_told_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = CliRunner(env=nowhere()).invoke(cli.main, ["leaders"])
    assert ": Connection refused. It goes on " in answer.stderr
    assert answer.stderr.endswith(" answers again, if that is its address.\n")

    def unknown(*_: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    elsewhere = CliRunner(env=nowhere()).invoke(
        cli.main, ["leaders", "--endpoints", "http://nosuch.invalid:1"]
    )
    assert "http://nosuch.invalid:1: Name or service not known. " in elsewhere.stderr


def test_a_question_is_no_sentence_with_a_full_stop() -> None:
    answer = CliRunner(env={"JOBGUARD_ENDPONTS": "x"}).invoke(cli.main, ["leaders"])
    assert answer.stderr.endswith("did you mean JOBGUARD_ENDPOINTS?\n")


@pytest.mark.parametrize("command", ["leaders", "doctor", "health", "locks release", "schedules backfill"])
def test_a_commands_own_options_come_before_how_to_connect(command: str) -> None:
    shown = CliRunner().invoke(cli.main, [*command.split(), "--help"]).stdout.partition("Example")[0]
    options = re.findall(r"^  (?:-\w, )?(--[\w-]+)", shown, re.MULTILINE)
    names = ("endpoints", "namespace", "cacert", "cert", "key", "username", "password-file")
    connection = [f"--{name}" for name in names]
    own = options[: options.index("--output")]
    assert not {*own} & {*connection}
    assert options[len(own) :] == ["--output", *connection, "--help"]


@pytest.mark.parametrize("name", ["store", "demo"])
def test_a_missing_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: EntryPoint) -> None:
        raise ModuleNotFoundError("No module named 'sqlalchemy'", name="sqlalchemy")

    monkeypatch.setattr(EntryPoint, "load", missing)
    answer = CliRunner().invoke(cli.main, [name])
    assert (answer.exit_code, answer.stderr) == (
        1,
        f'Error: jobguard {name} needs: pip install "jobguard[{name}]"\n',
    )


def test_help_lists_commands_whose_extra_is_missing() -> None:
    heavy = {"celery", "flask", "sqlalchemy", "uvicorn", "urllib3"}
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom jobguard.cli import main\n"
        f"out = CliRunner().invoke(main, ['--help']).stdout\nprint(out, *({heavy!r} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert "Run a node of the store." in ran.stdout
    assert ran.stdout.splitlines()[-1].strip() == ""


def test_reading_locks_loads_neither_celery_nor_a_server() -> None:
    heavy = {"celery", "flask", "sqlalchemy", "uvicorn"}
    code = f"import sys, jobguard.cli.locks, jobguard.cli.runs; print(*({heavy!r} & set(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert ran.stdout.strip() == ""
