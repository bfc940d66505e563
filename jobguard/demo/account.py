"""The live account of the demonstration: one line for each thing that happens in the store.

Place in the house   demo.command, demo.scene -> account -> watch, records
Takes                events under the demo's namespace, in revision order
Gives                lines such as "digest 14:02:10  claimed by worker1 (pid 812), attempt 1, token 57"
Never                infers: a line says what one key says
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from threading import Event as ThreadEvent
from threading import Lock, Thread

import msgspec

from jobguard.client import Client
from jobguard.demo.stage import Stage
from jobguard.errors import JobguardError
from jobguard.records import Active, Attempt, Done, Keys, Occurrence, Open, ToldNo, decode
from jobguard.watch import Watch
from jobguard.wire import Event, KeyValue

Say = Callable[[str], None]


class Teller:
    """Prints lines, each with the time since the beginning; whole lines, whichever thread speaks."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._lock = Lock()

    def say(self, line: str) -> None:
        with self._lock:
            print(f"{time.monotonic() - self._start:6.1f} s  {line}", file=sys.stdout, flush=True)


class Account:
    """Follows the store on a thread of its own until it is closed."""

    def __init__(self, client: Client, stage: Stage, say: Say) -> None:
        self._keys = Keys(client.namespace)
        self._stage = stage
        self._say = say
        self._watch: Watch = client.watch(self._keys.key() + b"/")
        self._closed = ThreadEvent()
        self._thread = Thread(target=self._follow, name="account", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._watch.close()
        self._thread.join(10)

    def _follow(self) -> None:
        try:
            while not self._closed.is_set():
                batch = self._watch.poll(1.0)
                for line in self._lines(batch.events if batch else ()):
                    self._say(line)
        except (JobguardError, msgspec.ValidationError) as error:
            self._say(f"the account ends here: {error}")

    def _lines(self, events: Sequence[Event]) -> Iterator[str]:
        """A claim that ends together with its occurrence is not news of its own."""
        pairs = [(event, event.kv) for event in events if event.kv is not None]
        over = {self._keys.occurrence(kv.key) for _, kv in pairs if self._keys.parts(kv.key)[0] == "done"}
        for event, kv in pairs:
            if event.type == "DELETE":
                if self._keys.parts(kv.key)[0] == "active" and self._keys.occurrence(kv.key) not in over:
                    yield f"{name(self._keys, kv)}  the claim is gone"
            elif (line := self._line(event)) is not None:
                yield line

    def _line(self, event: Event) -> str | None:
        assert event.kv is not None
        parts = self._keys.parts(event.kv.key)
        match parts[0]:
            case "open":
                return opened(decode(event.kv.value, Open), event.kv)
            case "active":
                return self._claimed(decode(event.kv.value, Active), event.kv)
            case "attempts":
                return attempted(self._keys, event.kv)
            case "done":
                return ended(decode(event.kv.value, Done))
            case "refusals":
                return refused(decode(event.kv.value, ToldNo))
            case "elections":
                return f"{parts[1]} election: {self._who(event.kv.value)} is a candidate"
            case "config":
                return f"configuration {'/'.join(parts[1:])} = {event.kv.value.decode()}"
            case _:
                return None

    def _claimed(self, active: Active, kv: KeyValue) -> str:
        return (
            f"{name(self._keys, kv)}  claimed by {short(active.worker)} (pid {active.pid}), "
            f"attempt {active.n}, token {kv.create_revision}"
        )

    def _who(self, value: bytes) -> str:
        pid = json.loads(value).get("pid", 0)
        return f"{self._stage.actor_of(pid) or 'a process'} (pid {pid})"


def name(keys: Keys, kv: KeyValue) -> str:
    return title(keys.occurrence(kv.key))


def title(occurrence: Occurrence) -> str:
    """How the demonstration calls an occurrence: short, since all of it happens within minutes."""
    return f"{occurrence.job} {occurrence.nominal:%H:%M:%S}"


def opened(record: Open, kv: KeyValue) -> str | None:
    if kv.create_revision == kv.mod_revision:
        return f"{title(record.occurrence)}  planned"
    if record.published == 0 and not record.planner:
        return f"{title(record.occurrence)}  attempt {record.n} is opened: the one before was lost"
    return None


def attempted(keys: Keys, kv: KeyValue) -> str | None:
    attempt = decode(kv.value, Attempt)
    return f"{name(keys, kv)}  attempt {attempt.n}: {attempt.outcome}" if attempt.outcome else None


def refused(told: ToldNo) -> str:
    return f"{title(told.occurrence)}  {short(told.worker)} (pid {told.pid}) was told no: {told.text}"


def short(worker: str) -> str:
    """The worker of a node name, without its host: all of it happens on one."""
    return worker.partition("@")[0]


def ended(done: Done) -> str:
    seconds = f" in {(done.finished - done.started).total_seconds():.1f} s" if done.started else ""
    who = f" on {short(done.worker)}" if done.worker else ""
    reason = f": {done.reason}" if done.reason else ""
    return f"{title(done.occurrence)}  {done.verdict}{who}{seconds}, attempt {done.n}{reason}"
