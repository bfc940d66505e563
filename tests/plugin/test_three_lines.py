"""What README promises to an existing project: three lines, and its schedule stays as it is."""

import re
import sys
from collections import Counter
from pathlib import Path

from jobguard.records import Done, Verdict, decode
from tests.plugin.bench import Bench, until
from tests.plugin.test_examples import README, running

EXISTING = """
import os
from celery import Celery

app = Celery("proj", broker=os.environ["TEST_BROKER"])
app.conf.beat_schedule = {"digest": {"task": "proj.digest", "schedule": 1.0}}

@app.task(name="proj.digest", bind=True)
def digest(self):
    with open(os.environ["TEST_JOURNAL"], "a") as journal:
        journal.write(self.request.id + "\\n")
"""


def test_they_are_all_that_an_existing_project_needs(bench: Bench, tmp_path: Path) -> None:
    """Written below what is there. Two beats and two workers: each occurrence runs once."""
    said = re.search(r"Three lines.*?```python\n(.*?)```", README, re.DOTALL)
    assert said
    lines = said[1].strip().splitlines()
    assert len(lines) == 3
    urls = re.compile(r"\[.*\]")
    lines = [urls.sub(repr([bench.store.url]), line) for line in lines]
    (tmp_path / "proj.py").write_text(EXISTING + "\n".join(["import jobguard", *lines]) + "\n")
    environment = bench.environment(JOBGUARD_NAMESPACE=bench.namespace, PYTHONDONTWRITEBYTECODE="1")
    celery = [sys.executable, "-m", "celery", "-A", "proj"]
    beat = [*celery, "beat", "--pidfile="]
    worker = [*celery, "worker", "-c", "1", "-n"]

    def ran() -> list[Done]:
        found = [decode(kv.value, Done) for kv in bench.client.prefix(bench.keys.prefix("done")).kvs]
        return [each for each in found if each.verdict is Verdict.RAN]

    with running(tmp_path, environment, beat, beat, [*worker, "w1@x"], [*worker, "w2@x"]):
        until(lambda: len(ran()) >= 3, "three occurrences ran")
    assert set(Counter(bench.journal_path.read_text().split()).values()) == {1}
