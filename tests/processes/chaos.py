"""Nodes under load and attack, and members that come and go: what clients were told must hold.

Place in the house   make chaos, test_chaos -> chaos -> load, changes, links, stores, linearizable
Takes                a duration; a seed, from which the faults and the operations follow
Gives                Report: faults, operations, and every violation found
Never                tunes a fault to the product: what is found is mended there
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from signal import SIGTERM
from typing import Any

import click

from jobguard_store.config import address
from tests.gateway import Gateway, unb64
from tests.linearizable import Operation, Put, Read, Stuck, Swap, check
from tests.messages import COMPACTION, HASHKV, RANGE, range_
from tests.processes.changes import Operator, flag
from tests.processes.links import Links
from tests.processes.load import ANSWER_S, KEYS, Client, Event, Record, Watcher
from tests.stores import Cluster, Node, eventually, make

CLIENTS, WATCHERS = 6, 2
ELECTION_S = 0.5
FLAGS = (
    *("--heartbeat-interval", "50", "--election-timeout", "500"),
    *("--snapshot-count", "200"),  # so that the log forgets what who was away needs
    *("--initial-cluster-state", "new"),
)
KEPT_REVISIONS = 3000  # behind which the run compacts, farther than any watcher lags
CALM_S = 60.0


@dataclass
class Report:
    seed: int
    seconds: float
    faults: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    events: int = 0
    revision: int = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        faults = ", ".join(f"{count} × {name}" for name, count in sorted(self.faults.items()))
        lines = [
            f"seed         {self.seed}",
            f"faults       {sum(self.faults.values())} in {self.seconds:.0f} s: {faults}",
            f"operations   {self.outcomes.total()}: {self.outcomes['ok']} answered, "
            f"{self.outcomes['failed']} refused, {self.outcomes['unknown']} unknown",
            f"events       {self.events} seen by each of {WATCHERS} watchers, up to revision {self.revision}",
            f"violations   {len(self.violations)}",
            *(f"  {violation}" for violation in self.violations),
        ]
        return "\n".join(lines)


# --- faults ---------------------------------------------------------------------------------------


class Trouble:
    """Does something to one or all nodes; what it returns undoes it."""

    def __init__(
        self, cluster: Cluster, links: Links, spare: Node, operator: Operator, dice: random.Random
    ) -> None:
        self._nodes = cluster.nodes
        self._links = links
        self._spare = spare
        self.dice = dice
        self.replace, self.move, self.ghost = operator.replace, operator.move, operator.ghost
        self._grow, self._shrink = operator.grow, operator.shrink

    def kill(self, node: Node) -> Callable[[], None]:
        node.kill()
        return node.start

    def kill_all(self, _: Node) -> Callable[[], None]:
        for node in self._nodes:
            node.kill()

        def start() -> None:
            for node in self._nodes:
                node.start()

        return start

    def pause(self, node: Node) -> Callable[[], None]:
        node.pause()
        return node.resume

    def isolate(self, node: Node) -> Callable[[], None]:
        """It hears nobody and nobody hears it; its clients reach it all the same."""
        others = [other.name for other in self._nodes if other is not node]
        links = [(node.name, other) for other in others] + [(other, node.name) for other in others]
        self.dice.choice([self._links.cut, self._links.hold])(links)
        return self._links.heal

    def deafen(self, node: Node) -> Callable[[], None]:
        """One direction of one pair."""
        other = self.dice.choice([other.name for other in self._nodes if other is not node])
        self.dice.choice([self._links.cut, self._links.hold])([(other, node.name)])
        return self._links.heal

    def roll(self, _: Node) -> Callable[[], None]:
        """As an operator would: one after the other, each asked to stop and waited for."""
        for node in self._nodes:
            node.kill(SIGTERM)
            node.start()
            node.wait_until_ready()
        return lambda: None

    def resize(self, _: Node) -> Callable[[], None]:
        """A fourth comes, or goes again."""
        return (self._shrink if self._spare in self._nodes else self._grow)(self._spare)


WEIGHTS = {"kill": 4, "pause": 3, "isolate": 3, "deafen": 2, "roll": 1, "kill_all": 1}
CHANGES = {"replace": 2, "resize": 2, "move": 1, "ghost": 1}
WEIGHTS |= CHANGES
ALONE = {"roll", "kill_all"}


# --- the run --------------------------------------------------------------------------------------


def run(seconds: float, seed: int, *, faults_min: int = 0, answers_min: int = 0) -> Report:
    """Trouble for `seconds`, and on a slow host until there was as much of it.

    Raises only when the cluster cannot be started, or does not get well again when left in peace.
    """
    report, record = Report(seed, seconds), Record()

    def enough() -> bool:
        return report.faults.total() >= faults_min and record.outcomes["ok"] >= answers_min

    with tempfile.TemporaryDirectory(prefix="jobguard-chaos-") as directory:
        cluster = make("jobguard", Path(directory), 4, FLAGS)
        nodes = tuple(cluster.nodes)
        spare = cluster.nodes.pop()  # comes and goes
        links = between(cluster, spare)
        try:
            for node in cluster.nodes:
                node.start()
            cluster.wait_healthy()
            watchers = trouble(cluster, links, spare, report, record, enough)
            judge(cluster, nodes, record, watchers, report)
        except BaseException as failure:
            failure.add_note("\n".join([str(report), *(f"{node.name}:\n{node.tail()}" for node in nodes)]))
            raise
        finally:
            for node in nodes:
                node.kill()
            links.close()
    return report


def between(cluster: Cluster, *spares: Node, kind: type[Links] = Links) -> Links:
    """Have the nodes dial each other through links."""
    nodes = (*cluster.nodes, *spares)
    links = kind({node.name: address(flag(node, "--listen-peer-urls")) for node in nodes})
    together = ",".join(f"{node.name}={links.urls[node.name]}" for node in cluster.nodes)
    for node in nodes:
        flag(node, "--initial-cluster", together)
        flag(node, "--initial-advertise-peer-urls", links.urls[node.name])
    return links


def trouble(
    cluster: Cluster,
    links: Links,
    spare: Node,
    report: Report,
    record: Record,
    enough: Callable[[], bool],
) -> list[Watcher]:
    """Load and faults, then peace until every client has been served again."""
    urls = [*cluster.endpoints, spare.url]
    clients = [Client(number, urls, record, report.seed) for number in range(CLIENTS)]
    watchers = [Watcher(number, urls, record, 2) for number in range(WATCHERS)]
    operator = Operator(cluster, links, record.surprises, report.seed)
    for thread in (*clients, *watchers):
        thread.start()
    try:
        mischief = Trouble(cluster, links, spare, operator, random.Random(report.seed))
        faults(cluster, mischief, report, record, enough)
        links.heal()
        cluster.wait_healthy(CALM_S)
        operator.wait_until_all_count()
        goals = [(client, client.answered + 10) for client in clients]
        eventually(lambda: all(c.answered >= goal for c, goal in goals), CALM_S, "an answer for every client")
        for client in clients:
            client.stop()
            client.join(CALM_S)
        report.revision = final_reads(cluster, record)
        eventually(
            lambda: all(w.next > report.revision for w in watchers), CALM_S, "the watchers' last event"
        )
        record.surprises += operator.different_members()
    finally:
        operator.close()
        for thread in (*clients, *watchers):
            thread.stop()
            thread.join(CALM_S)
    return watchers


def faults(
    cluster: Cluster, mischief: Trouble, report: Report, record: Record, enough: Callable[[], bool]
) -> None:
    dice = mischief.dice
    deadline = time.monotonic() + report.seconds
    while time.monotonic() < deadline or not enough():
        names = draw(dice)
        undo = []
        for name, node in zip(names, dice.sample(cluster.nodes, len(names)), strict=True):
            report.faults[name.replace("_", " ")] += 1
            undo.append(getattr(mischief, name)(node))
        time.sleep(dice.uniform(0.2, 5 * ELECTION_S))
        for each in reversed(undo):
            each()
        time.sleep(dice.uniform(0.1, 3 * ELECTION_S))
        for node in cluster.nodes:
            if node.process is not None and node.process.poll() is not None:
                record.surprises.append(f"{node.name} ended by itself:\n{node.tail()}")
                node.process = None
                node.start()
        compact(dice.choice(cluster.nodes), record)


def draw(dice: random.Random) -> list[str]:
    """One fault or two. A change of members comes first: it is over when the other is."""
    names = dice.choices(list(WEIGHTS), list(WEIGHTS.values()), k=2 if dice.random() < 0.4 else 1)
    names.sort(key=lambda name: name not in CHANGES)
    alone = ALONE & set(names) or sum(name in CHANGES for name in names) > 1
    return names[:1] if alone else names


def compact(node: Node, record: Record) -> None:
    """Old revisions go while nodes are killed; whether this one takes the request does not matter."""
    with record.lock:
        newest = max((written.revision for written in record.written), default=0)
    if newest > KEPT_REVISIONS:
        with contextlib.suppress(OSError, HTTPException), Gateway(node.url, ANSWER_S) as gateway:
            gateway.post(COMPACTION, {"revision": newest - KEPT_REVISIONS})


def final_reads(cluster: Cluster, record: Record) -> int:
    """Of every key at every node, as the last operations of the record; the newest revision."""
    revision = 0
    for node in cluster.nodes:
        for key in KEYS:
            begin, answer = answered(node, RANGE, range_(key))
            found = [unb64(pair["value"]).decode() for pair in answer.get("kvs", ())]
            record.note(key, Read(found[0] if found else None), begin, time.monotonic(), 0)
            revision = max(revision, int(answer["header"]["revision"]))
    return revision


def answered(node: Node, path: str, message: object) -> tuple[float, Any]:
    """When this was asked, and the answer; where a busy host costs an election, it is asked once more."""

    def ask() -> tuple[float, Any] | None:
        with contextlib.suppress(TimeoutError), node.gateway() as gateway:
            begin, answer = time.monotonic(), gateway.post(path, message)
            assert answer.status in (200, 503, 504), answer
            return (begin, answer.json) if answer.status == 200 else None
        return None

    found = eventually(ask, CALM_S, f"an answer of {node.name}")
    assert found is not None
    return found


# --- the verdict ----------------------------------------------------------------------------------


def judge(
    cluster: Cluster, nodes: Sequence[Node], record: Record, watchers: Sequence[Watcher], report: Report
) -> None:
    report.outcomes = record.outcomes
    report.events = len(watchers[0].events)
    report.violations += [
        *record.surprises,
        *not_linearizable(record),
        *wrong_revisions(record),
        *wrong_events(record, [seen_until(report.revision, watcher) for watcher in watchers]),
        *different_hashes(cluster, report.revision),
        *(
            f"{node.name} wrote a traceback:\n{node.tail()}"
            for node in nodes
            if "Traceback" in node.log.read_text(errors="replace")
        ),
    ]


def not_linearizable(record: Record) -> list[str]:
    found = {key: check(operations) for key, operations in record.operations.items()}
    return [explain(key, record.operations[key], stuck) for key, stuck in found.items() if stuck is not None]


def explain(key: str, operations: Sequence[Operation], stuck: Stuck) -> str:
    spoken = {value for each in stuck.candidates for value in values(each)} | {stuck.holds}
    around = [each for each in operations if spoken & set(values(each))]
    return "\n    ".join(
        [
            f"{key} is not linearizable: after {stuck.placed} operations it holds {stuck.holds!r}, "
            "and none of these can be next",
            *map(str, stuck.candidates),
            "what else speaks of these values:",
            *map(str, sorted(around, key=lambda each: each.begin)[-20:]),
        ]
    )


def values(operation: Operation) -> list[Any]:
    match operation.action:
        case Put(value):
            return [value]
        case Swap(expected, value, _, found):
            return [each for each in (expected, value, found) if each is not None]
        case Read(found) if found is not None:
            return [found]
        case _:
            return []


def wrong_revisions(record: Record) -> list[str]:
    """Each change has a revision of its own, and they follow the order of calls that did not overlap."""
    found = []
    by_revision = sorted(record.written, key=lambda written: written.revision)
    begun = by_revision[0] if by_revision else None
    for before, written in pairwise(by_revision):
        assert begun is not None
        begun = max(begun, before, key=lambda each: each.begin)
        if before.revision == written.revision:
            found.append(f"two changes at one revision: {before} and {written}")
        if written.end < begun.begin:
            found.append(f"{written} had ended before {begun} began, whose revision is smaller")
    of_value = {(each.key, each.value): each.revision for each in record.written if each.value is not None}
    for key, value, revision in sorted(record.sightings):
        if of_value.setdefault((key, value), revision) != revision:
            found.append(f"{value!r} of {key} seen at revision {revision}, and at {of_value[key, value]}")
    return found


def seen_until(revision: int, watcher: Watcher) -> list[Event]:
    """What a client gave up on may be done behind the last read, when one watcher has gone already."""
    return [event for event in watcher.events if event.revision <= revision]


def wrong_events(record: Record, seen: Sequence[list[Event]]) -> list[str]:
    """Each watcher sees each change once, in order, and all see the same."""
    found = []
    for number, events in enumerate(seen):
        for before, after in pairwise(events):
            if before.revision >= after.revision:
                found.append(f"watcher {number} saw {after} behind {before}")
        if events != seen[0]:
            odd = sorted(set(events) ^ set(seen[0]), key=lambda event: event.revision)
            found.append(f"watcher {number} saw something else than watcher 0: {odd[:5]}")
    by_revision = {event.revision: event for event in seen[0]}
    for written in record.written:
        event = by_revision.get(written.revision)
        if event != Event(written.revision, written.key, written.value):
            found.append(f"{written} was seen as {event}")
    return found


def different_hashes(cluster: Cluster, revision: int) -> list[str]:
    answers = {}
    for node in cluster.nodes:
        answered(node, RANGE, range_(KEYS[0]))  # from here on it has come to this revision
        _, answer = answered(node, HASHKV, {"revision": revision})
        answers[node.name] = (answer.get("hash"), answer.get("compact_revision"))
    return [] if len(set(answers.values())) == 1 else [f"hashes at revision {revision} differ: {answers}"]


@click.command()
@click.option("--seconds", default=60.0, show_default=True, help="How long to make trouble.")
@click.option("--seed", type=int, help="Repeat the faults of an earlier run.  [default: a new one]")
def main(seconds: float, seed: int | None) -> None:
    """Trouble a cluster of three nodes under load, and judge what its clients were told."""
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    click.echo(f"seed {seed}, {seconds:.0f} s")
    report = run(seconds, seed)
    click.echo(report)
    raise SystemExit(bool(report.violations))


if __name__ == "__main__":
    main()
