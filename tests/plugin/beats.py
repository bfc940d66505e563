"""Beats as real processes, and what they put into the broker and the store."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from jobguard.records import HEADER, Header, Occurrence, Open, decode, read_header
from tests import rabbitmq
from tests.plugin.bench import PATIENCE_S, Bench, until

# Of which a host that stands still for a while misses, skips and delays nothing: each must run.
PATIENT = {
    "TEST_JOBS": '{"work": {"overlap": "allow", "catch_up": {"all": 50}, "start_deadline": 3600}}',
    "TEST_TTL": "10",
}


@dataclass(frozen=True)
class Message:
    """One message in the queue."""

    task_id: str
    header: Header
    headers: dict[str, Any]

    @property
    def occurrence(self) -> Occurrence:
        return self.header.occurrence


@dataclass
class BeatProcess:
    name: str
    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def leads(self) -> bool:
        return self.terms > 0

    @property
    def terms(self) -> int:
        """How often it came to lead."""
        return self.log.count("this beat leads")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def terminate(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE_S)


@dataclass
class Beats:
    """A bench, with beats on it."""

    bench: Bench
    beats: list[BeatProcess] = field(default_factory=list)

    def start(self, app: str = "tests.plugin.beat_app", **environment: Any) -> BeatProcess:
        name = f"beat{len(self.beats) + 1}"
        path = self.bench.directory / f"{name}.log"
        texts = {
            key: each if isinstance(each, str) else json.dumps(each) for key, each in environment.items()
        }
        command = [sys.executable, "-m", "celery", "-A", app, "beat", "-l", "INFO", "--pidfile="]
        command += [
            "--schedule",
            str(self.bench.directory / "stock-schedule"),
        ]  # where a stock beat keeps its own
        with path.open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=Path(__file__).parents[2],
                env=self.bench.environment(**texts),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        beat = BeatProcess(name, process, path)
        self.beats.append(beat)
        return beat

    def close(self) -> None:
        for beat in self.beats:
            if beat.process.poll() is None:
                beat.kill()

    def messages(self, queue: str = "celery") -> list[Message]:
        """All that was published and nobody took, oldest first."""
        if self.bench.on_rabbitmq:
            return [_message(headers) for headers in rabbitmq.headers(self.bench.broker, queue)]
        with redis.Redis.from_url(self.bench.broker) as connection:
            raw: list[bytes] = connection.lrange(queue, 0, -1)  # type: ignore[assignment]
        return [_message(json.loads(each)["headers"]) for each in reversed(raw)]

    def wait_for_messages(self, count: int) -> list[Message]:
        return until(lambda: found if len(found := self.messages()) >= count else None, f"{count} messages")

    def opened(self) -> dict[Occurrence, Open]:
        found = self.bench.client.prefix(self.bench.keys.prefix("open")).kvs
        return {self.bench.keys.occurrence(kv.key): decode(kv.value, Open) for kv in found}


def _message(headers: dict[str, Any]) -> Message:
    header = read_header(headers.get(HEADER))
    assert header is not None, headers
    return Message(headers["id"], header, headers)


@contextmanager
def beats(bench: Bench) -> Iterator[Beats]:
    found = Beats(bench)
    try:
        yield found
    finally:
        found.close()
