"""Streams to ours and to real etcd: many watchers on each, made and cancelled, amid writes; and an observer.

What is sent is drawn; what comes is put in an order that two stores can agree on: the answers to what was
asked of a stream, then each watcher's events. How events are spread over messages is up to a store, except
that those of one revision come in one. A stream's requests go in one body: etcd answers none before its end.
"""

import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.gateway import Gateway, Stream, b64
from tests.messages import COMPACTION, PROGRESS, RANGE, WATCH, cancel
from tests.parity.agreement import check
from tests.parity.replay import Call, absolute, empty, forgotten, relative, revisions, send, spoken
from tests.parity.requests import BEFORE_THE_CROWD, LEASES, recipes, watch, weighted, writes

pytestmark = pytest.mark.timeout(1800)  # so many requests, however long they take

MARK = b64("~mark")
MARKER = 1000  # the watcher of the mark, whose event says that all before it has been sent
ELECTION = {"name": b64(f"e{LEASES[0]}")}
ELECTED = {"key": b64(f"e{LEASES[0]}/{LEASES[0]:x}")}


@dataclass(frozen=True, slots=True)
class Open:
    """A stream with these requests."""

    requests: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Compact:
    revision: int  # from the start of the script


Step = Open | Compact | Call

_ids = st.sampled_from([None, None, None, 0, 1, 2, 7, 2**40])
_create = st.tuples(watch, _ids).map(
    lambda drawn: {"create_request": drawn[0] | ({} if drawn[1] is None else {"watch_id": drawn[1]})}
)
_cancel = st.builds(cancel, st.sampled_from([0, 1, 2, 3, 7, 2**40]))
_request = weighted((2, _create), (1, _cancel), (1, st.just(PROGRESS)))


def _fitting(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As many as fit, with the marker, into 512 bytes: etcd may lose what it read no further."""
    return next(
        requests[:count]
        for count in range(len(requests), -1, -1)
        if len(json.dumps(absolute(requests[:count], 1_000_000))) < 420
    )


_requests = st.lists(_request, min_size=1, max_size=6).map(_fitting)
_step = weighted(
    (3, writes), (1, recipes), (1, st.builds(Open, _requests)), (1, st.builds(Compact, st.integers(0, 12)))
)
script: st.SearchStrategy[list[Step]] = st.integers(4, 20).flatmap(
    lambda length: st.lists(_step, min_size=length, max_size=length)
)


class Watchers:
    """Those of one stream."""

    def __init__(self, gateway: Gateway, stream: Stream, compacted: int) -> None:
        self.controls: list[Any] = []
        self._progress_due = False
        self.seen: defaultdict[int, list[Any]] = defaultdict(list)
        self._gateway = gateway
        self._stream = stream
        self._compacted = compacted
        self._last: defaultdict[int, int] = defaultdict(int)
        self._gone: set[int] = set()

    def begin(self, requests: list[dict[str, Any]]) -> None:
        """Read the answers to `requests`, the last of which made the marker, and until all caught up."""
        self._progress_due = PROGRESS in requests  # once or for each: ours waits until all have caught up
        creates = [request["create_request"] for request in requests if "create_request" in request]
        while not self.controls or self.controls[-1].get("watch_id") != str(MARKER):
            self._read()
        made = [message for message in self.controls if message.get("created")]
        for create, created in zip(creates, made, strict=True):
            watch_id = int(created.get("watch_id", 0))
            if created.get("canceled") or watch_id == MARKER:
                continue
            self._catch_up(watch_id, create)

    def _catch_up(self, watch_id: int, create: dict[str, Any]) -> None:
        start = int(create.get("start_revision", 0))
        if start and start < self._compacted:
            while watch_id not in self._gone:
                self._read()
        key = {"key": create.get("key") or b64(b"\0")}
        revision = int(self._gateway.ok("/v3/kv/put", key)["header"]["revision"])
        if "NOPUT" in create.get("filters", []):
            revision = int(self._gateway.ok("/v3/kv/deleterange", key)["header"]["revision"])
        while start <= revision and self._last[watch_id] < revision and watch_id not in self._gone:
            self._read()

    def sync(self) -> None:
        """Until all that was written has come, to every watcher that has caught up."""
        for _ in range(2):  # the mark itself may come to another watcher after it came to the marker
            revision = int(self._gateway.ok("/v3/kv/put", {"key": MARK})["header"]["revision"])
        while self._last[MARKER] < revision or self._progress_due:
            self._read()

    def told(self) -> list[Any]:
        """Cancellations for a compaction come in any order; what a cancelled watcher saw is not promised."""
        answers = [message for message in self.controls if "compact_revision" not in message]
        compacted = [message for message in self.controls if "compact_revision" in message]
        kept = [
            [watch_id, events] for watch_id, events in sorted(self.seen.items()) if watch_id not in self._gone
        ]
        return [answers, sorted(compacted, key=str), kept]

    def _read(self) -> None:
        message = self._stream.result()
        watch_id = int(message.get("watch_id", 0))
        if "events" in message:
            self._note(watch_id, message)
        elif message.get("created") or message.get("canceled"):
            self.controls.append(message)
            if message.get("canceled"):
                self._gone.add(watch_id)
        else:
            assert watch_id == -1, message
            self._progress_due = False

    def _note(self, watch_id: int, message: Any) -> None:
        events = message["events"]
        came = [int(event["kv"]["mod_revision"]) for event in events]
        assert came == sorted(came), message
        assert came[0] > self._last[watch_id], f"a revision came twice or in two parts: {message}"
        assert int(message["header"]["revision"]) >= came[-1], message
        self._last[watch_id] = came[-1]
        if watch_id != MARKER:
            self.seen[watch_id] += [
                event
                for event in events
                if event["kv"]["key"] != MARK and not forgotten(event, self._compacted)
            ]


class Listener:
    """One store, and the streams that are open to it."""

    def __init__(self, gateway: Gateway, stack: ExitStack) -> None:
        self.lines: list[str] = []
        self._gateway = gateway
        self._stack = stack
        self._base = self._compacted = empty(gateway)
        for call in BEFORE_THE_CROWD:
            assert isinstance(call, Call)
            send(gateway, call, self._base)
        self._streams: list[Watchers] = []
        self._observer = stack.enter_context(gateway.stream("/v3/election/observe", ELECTION))
        self._observed = 0
        self._observing = True

    def take(self, step: Step) -> None:
        match step:
            case Call():
                self.lines.append(spoken(step, send(self._gateway, step, self._base), self._base))
                self._observe()
            case Open(requests):
                self._open(absolute(requests, self._base))
            case Compact(revision):
                for watchers in self._streams:
                    watchers.sync()
                message = {"revision": self._base + revision, "physical": True}
                self._gateway.post(COMPACTION, message)
                self._compacted = revisions(self._gateway)[0]
                self._observing = False  # of an election without a leader: etcd's observer may end here

    def finish(self) -> None:
        for watchers in self._streams:
            watchers.sync()
            self.lines += [json.dumps(relative(what, self._base)) for what in watchers.told()]

    def _open(self, requests: list[dict[str, Any]]) -> None:
        requests = [*requests, {"create_request": {"key": MARK, "watch_id": MARKER}}]
        stream = self._stack.enter_context(self._gateway.stream(WATCH, *requests))
        watchers = Watchers(self._gateway, stream, self._compacted)
        watchers.begin(requests)
        self._streams.append(watchers)

    def _observe(self) -> None:
        """An observer may skip what is past, so after each change of the leader's key he is waited for."""
        if not self._observing:
            return
        for kv in self._gateway.ok(RANGE, ELECTED).get("kvs", ()):
            while self._observed < int(kv["mod_revision"]):
                self._observed = int(self._observer.result()["kv"]["mod_revision"])
            assert self._observed == int(kv["mod_revision"])


def listen(gateway: Gateway, steps: list[Step]) -> list[str]:
    with ExitStack() as stack:
        listener = Listener(gateway, stack)
        for step in steps:
            listener.take(step)
        listener.finish()
    return listener.lines


def test_streams_say_what_etcds_do(oracle: Gateway, ours: Gateway) -> None:
    def agree(steps: list[Step]) -> int:
        with ThreadPoolExecutor(2) as both:
            own, theirs = both.map(listen, (ours, oracle), (steps, steps))
        assert own == theirs
        return sum(len(step.requests) if isinstance(step, Open) else 1 for step in steps)

    check(agree, script, examples=40, requests=300)
