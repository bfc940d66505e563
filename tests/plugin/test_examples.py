"""The examples, as their README says to start them; and the code blocks of the README."""

import contextlib
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from celery import Celery
from sqlalchemy import create_engine, text

import jobguard
from jobguard.celery.commands import jobguard as of_an_app
from jobguard.cli import main
from jobguard.client import Client
from jobguard.fencing.sqlalchemy import create_guards, fence
from jobguard.records import Done, Keys, Verdict, decode
from jobguard.testing import fake_run
from tests.plugin.bench import Bench, until

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
CELERY = [sys.executable, "-m", "celery"]


@contextlib.contextmanager
def running(folder: Path, environment: dict[str, str], *commands: list[str]) -> Iterator[None]:
    """Each with a log of its own beside the others', and stopped by its own id."""
    processes = []
    try:
        for number, command in enumerate(commands):
            with Path(environment["TMPDIR"], f"example-{number}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
                )
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait(60)


@pytest.mark.parametrize(
    ("example", "name", "table"), [("plain", "proj", "outbox"), ("django", "shop", "shop_sent")]
)
def test_an_example(bench: Bench, example: str, name: str, table: str) -> None:
    """Two beats and two workers: one run each occurrence, one row for each."""
    folder, outbox = ROOT / "examples" / example, bench.directory / "outbox.db"
    environment = {
        **os.environ,
        "REDIS_URL": bench.broker,
        "JOBGUARD_ENDPOINTS": bench.store.url,
        "JOBGUARD_NAMESPACE": bench.namespace,
        "OUTBOX": str(outbox),
        "TMPDIR": str(bench.directory),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if example == "django":
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "-v", "0"], cwd=folder, env=environment, check=True
        )
    beat = [*CELERY, "-A", name, "beat", "--pidfile="]
    worker = [*CELERY, "-A", name, "worker", "-c", "1", "-n"]
    with running(folder, environment, beat, beat, [*worker, "w1@x"], [*worker, "w2@x"]):
        until(lambda: bench.client.get(bench.keys.schedule("digest")), "a beat leads")
        _ask(name, folder, environment, "schedules", "trigger", "digest", "--reason", "not to wait")
        until(lambda: _ran(bench), "an occurrence ran")
        seen = _ask(name, folder, environment, "runs", "list", "-o", "json")
    assert '"verdict": "ran"' in seen
    with contextlib.closing(sqlite3.connect(outbox)) as database:
        (sent,) = database.execute(f"select count(*) from {table}").fetchone()
    assert sent == _ran(bench)


def _ask(name: str, folder: Path, environment: dict[str, str], *words: str) -> str:
    command = [*CELERY, "-A", name, "jobguard", *words]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _ran(bench: Bench) -> int:
    found = (decode(kv.value, Done) for kv in bench.client.prefix(bench.keys.prefix("done")).kvs)
    return sum(done.verdict is Verdict.RAN for done in found)


# --- the README -----------------------------------------------------------------------------------


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_readmes_python_runs(bench: Bench, tmp_path: Path) -> None:
    """One block after the other, as a reader would write them; addresses are those of the test's store."""
    app = Celery("project", set_as_current=False)
    engine = create_engine(f"sqlite:///{tmp_path / 'outbox.db'}")
    with engine.begin() as tx:
        create_guards(tx)
        tx.execute(text("create table sent (job text)"))
    scope: dict[str, Any] = {
        "app": app,
        "engine": engine,
        "fence": fence,
        "jobguard": jobguard,
        "mark_sent": text("insert into sent values ('digest')"),
        "write": lambda token: written.append(token),
    }
    written: list[int] = []
    for block in blocks("python"):
        exec(compile(block.replace("http://127.0.0.1:2379", bench.store.url), "README.md", "exec"), scope)

    assert app.conf.beat_scheduler == "jobguard"
    assert len(app.conf.jobguard_endpoints) == 3
    assert app.steps["worker"]
    (token,) = written
    assert token > 0
    with fake_run("digest") as run:
        for task in list(app.tasks.values()):
            if task.__name__ == "send_digest":
                assert task.apply().get() is None
        scope["test_digest"](run)
        with pytest.raises(jobguard.LockLost):
            run.check()
    with engine.begin() as tx:
        assert tx.execute(text("select count(*) from sent")).scalar() == 2
    engine.dispose()
    with Client([bench.store.url], timeout=30) as client:
        assert client.get(Keys("default").key("config", "digest", "sender")) is not None
    scope["election"].resign()
    scope["client"].close()


@pytest.mark.parametrize(
    "line",
    [
        line
        for block in blocks("console")
        for line in block.splitlines()
        if re.match(r"\$ (jobguard|celery -A proj jobguard) ", line)
    ],
)
def test_the_readmes_commands_are_understood(line: str) -> None:
    """Each is parsed, option by option, and not carried out."""
    words = shlex.split(line.removeprefix("$ "), comments=True)
    command: click.Command = of_an_app if words[0] == "celery" else main
    words = words[4 if words[0] == "celery" else 1 :]
    context = click.Context(command, obj=SimpleNamespace(app=None))
    while isinstance(command, click.Group) and words:
        found = command.get_command(context, words[0])
        assert found is not None, words
        command, words = found, words[1:]
        context = click.Context(command, parent=context)
    command.make_context(command.name, words, parent=context.parent)
