"""Workers and beats of the benchmark's app (celery_app.py), as processes that end with their use."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from benchmarks.session import Session, child

TASK = "benchmark.nothing"
Mode = Literal["plain", "jobguard", "redbeat"]


@contextmanager
def celery(
    session: Session, mode: Mode, redis: str, store: Sequence[str], *arguments: str
) -> Iterator[subprocess.Popen[str]]:
    """What it says goes to a file, and to us if all this fails."""
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.celery_app", *arguments, "-l", "WARNING"]
    folder = session.new_folder()
    environment = {
        **os.environ,
        "BENCH_MODE": mode,
        "BENCH_REDIS": redis,
        "BENCH_STORE": ",".join(store),
        "BENCH_SESSION_TTL": str(session.plan.session_ttl_s),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(folder),  # a worker that is killed leaves its files behind
    }
    log = folder / "log"
    with log.open("wb") as output:
        try:
            with child(command, output=output, environment=environment) as process:
                yield process
        except (Exception, SystemExit):
            print(log.read_text(errors="replace")[-4000:], file=sys.stderr)
            raise
