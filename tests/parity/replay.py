"""One sequence of requests, sent to any etcd v3 store, and its answers in a form two stores can agree on.

Place in the house   generated requests -> replay -> a store's gateway
Takes                steps, whose revisions count from the start of the sequence
Gives                one line of text per answer; equal lines mean equal stores
Never                decides what is right: it only removes what must differ

What must differ: cluster, member and term (checked for their shape, then dropped), and the absolute number
of a revision. A sequence begins with an emptied, compacted keyspace, so sequences follow one another on the
same store, and every revision in requests and answers is counted from there.
"""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from tests.gateway import Answer, Gateway, Stream, b64

WHOLE_STORE = {"key": "AA==", "range_end": "AA=="}
REVISIONS = frozenset({"revision", "create_revision", "mod_revision", "compact_revision", "rev"})
UNREADABLE = {"error": "the parser's words", "message": "the parser's words", "code": 3}
IDENTITIES = frozenset({"cluster_id", "member_id", "raft_term"})


@dataclass(frozen=True, slots=True)
class At:
    """A revision counted from the sequence's start; negative ones are compacted."""

    offset: int

    def __repr__(self) -> str:
        return f"At({self.offset})"


@dataclass(frozen=True, slots=True)
class Call:
    """`message` as JSON, without its last `cut` bytes and with `tail` behind; bytes go as they are."""

    path: str
    message: Any = None
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    cut: int = 0
    tail: bytes = b""

    def body(self, base: int) -> bytes:
        document = absolute(self.message, base)
        text = document if isinstance(document, bytes) else json.dumps(document).encode()
        return text[: len(text) - self.cut] + self.tail


@dataclass(frozen=True, slots=True)
class Watch:
    """A watcher opened here and read until the end of the sequence."""

    message: dict[str, Any]


Step = Call | Watch


def replay(gateway: Gateway, steps: Iterable[Step], *, fresh: bool = True) -> list[str]:
    """Every answer to `steps`, in order; then what each watcher saw.

    Not `fresh`: on what is there, with revisions counted from the current one.
    """
    with ExitStack() as stack:
        if fresh:
            base = compacted = empty(gateway)
        else:
            compacted, base = revisions(gateway)
        run = _Replay(gateway, stack, base, compacted)
        for step in steps:
            run.take(step)
        run.finish()
    return run.lines


def replay_on_both(ours: Gateway, oracle: Gateway, steps: list[Step]) -> int:
    """Both at once; they have to agree. How many steps it was."""
    with ThreadPoolExecutor(2) as both:
        own, theirs = both.map(replay, (ours, oracle), (steps, steps))
    assert own == theirs
    return len(steps)


def empty(gateway: Gateway) -> int:
    """Clear alarms, remove all keys and leases, compact, and return the revision reached."""
    for alarm in gateway.ok("/v3/maintenance/alarm").get("alarms", ()):
        gateway.ok("/v3/maintenance/alarm", {**alarm, "action": "DEACTIVATE"})
    gateway.ok("/v3/kv/deleterange", WHOLE_STORE)
    for lease in gateway.ok("/v3/lease/leases").get("leases", ()):
        gateway.ok("/v3/lease/revoke", lease)
    base = int(gateway.ok("/v3/kv/range", {"key": "AA=="})["header"]["revision"])
    # Refused if this very revision is compacted already. Physical, or etcd may still show what is to go.
    gateway.post("/v3/kv/compaction", {"revision": base, "physical": True})
    return base


def revisions(gateway: Gateway) -> tuple[int, int]:
    """The compacted revision, which is the oldest readable one, and the current one."""
    with gateway.stream("/v3/watch", {"create_request": {"key": "AA==", "start_revision": -5}}) as stream:
        current = int(stream.result()["header"]["revision"])
        return int(stream.result()["compact_revision"]), current


def absolute(value: Any, base: int) -> Any:
    """`value` with every At as the store's own revision."""
    match value:
        case At(offset):
            return base + offset
        case dict():
            return {name: absolute(item, base) for name, item in value.items()}
        case list():
            return [absolute(item, base) for item in value]
        case _:
            return value


def relative(value: Any, base: int) -> Any:
    """An answer with revisions counted from `base` and identities dropped. Field order is kept."""
    match value:
        case dict():
            for name in IDENTITIES & value.keys():
                assert int(value[name]) > 0, value
            return {
                name: str(int(item) - base) if name in REVISIONS else relative(item, base)
                for name, item in value.items()
                if name not in IDENTITIES
            }
        case list():
            return [relative(item, base) for item in value]
        case _:
            return value


@dataclass(slots=True)
class _Watcher:
    message: dict[str, Any]
    stream: Stream
    compacted: int
    open: bool = True
    seen: list[Any] = field(default_factory=list)
    last_revision: int = 0


def forgotten(event: Any, compacted: int) -> bool:
    """A deletion at exactly the compacted revision: a watch from there should see it, etcd 3.5.1 does not
    (later releases do), so no sequence may depend on it."""
    return event.get("type") == "DELETE" and int(event["kv"]["mod_revision"]) == compacted


class _Replay:
    def __init__(self, gateway: Gateway, stack: ExitStack, base: int, compacted: int) -> None:
        self.lines: list[str] = []
        self._gateway = gateway
        self._stack = stack
        self._base = base
        self._compacted = compacted
        self._watchers: list[_Watcher] = []

    def take(self, step: Step) -> None:
        match step:
            case Call():
                if step.path.endswith("/kv/compaction"):
                    # A watcher still catching up may or may not be caught by it: bring all up first.
                    for watcher in self._watchers:
                        self._catch_up(watcher)
                self._call(step)
            case Watch(message):
                self._open(message)

    def finish(self) -> None:
        for number, watcher in enumerate(self._watchers):
            self._catch_up(watcher)
            self._say(f"watcher {number}", watcher.seen)

    def _call(self, call: Call) -> None:
        answer = send(self._gateway, call, self._base)
        if call.path.endswith("/kv/compaction") and answer.status == 200:
            self._compacted = revisions(self._gateway)[0]
        self.lines.append(spoken(call, answer, self._base))

    def _say(self, what: str, answer: Any) -> None:
        self.lines.append(f"{what} {json.dumps(relative(answer, self._base))}")

    def _open(self, message: dict[str, Any]) -> None:
        message = absolute(message, self._base)
        stream = self._stack.enter_context(self._gateway.stream("/v3/watch", {"create_request": message}))
        watcher = _Watcher(message, stream, self._compacted)
        created = stream.result()
        self._say("watch", created)
        watcher.open = not created.get("canceled")
        self._watchers.append(watcher)
        self._catch_up(watcher)

    def _catch_up(self, watcher: _Watcher) -> None:
        """Change a watched key and read until that change has come, or the watcher was canceled."""
        start = int(watcher.message.get("start_revision", 0))
        filters = watcher.message.get("filters", [])
        if not watcher.open or len(set(filters)) > 1:
            return
        mark = {"key": watcher.message.get("key") or b64(b"\0")}
        answer = self._gateway.ok("/v3/kv/put", mark)
        if "NOPUT" in filters:
            answer = self._gateway.ok("/v3/kv/deleterange", mark)
        revision = int(answer["header"]["revision"])
        while watcher.open and start <= revision and watcher.last_revision < revision:
            self._read(watcher)

    def _read(self, watcher: _Watcher) -> None:
        message = watcher.stream.result()
        revisions = [int(event["kv"]["mod_revision"]) for event in message.get("events", ())]
        assert revisions == sorted(revisions), message
        if revisions:
            assert revisions[0] > watcher.last_revision, f"a revision came twice or in two parts: {message}"
            watcher.last_revision = revisions[-1]
        watcher.seen.extend(
            event for event in message.pop("events", ()) if not forgotten(event, watcher.compacted)
        )
        if message.get("canceled"):
            watcher.open = False
            watcher.seen.append(message)


def send(gateway: Gateway, call: Call, base: int) -> Answer:
    return gateway.send(call.method, call.path, call.body(base), dict(call.headers))


def spoken(call: Call, answer: Answer, base: int) -> str:
    """An answer as a line that two stores can agree on."""
    document = settle(call.path, answer)
    status = 400 if document == [UNREADABLE] else answer.status
    return f"{call.method} {call.path} {status} {headers(answer)} {json.dumps(relative(document, base))}"


def headers(answer: Answer) -> dict[str, str]:
    """All but those that depend on the time, and on how long revisions and ids are."""
    return {
        name: value
        for name, value in sorted(answer.headers.items())
        if name not in ("date", "content-length", "transfer-encoding")
    }


def settle(path: str, answer: Answer) -> Any:
    """The answer's document or documents, without what a clock, a parser or a file decides."""
    path = path.partition("?")[0]
    if answer.headers.get("content-type") != "application/json":
        return answer.body.decode()
    if path.endswith("/lease/keepalive"):
        return [_settled(path, json.loads(line)) for line in answer.body.splitlines()]
    return _settled(path, json.loads(answer.body))


def _settled(path: str, document: dict[str, Any]) -> dict[str, Any]:
    # Of a stream etcd 3.5 says 500 and 2, as if it were to blame; later ones 400 and 3, as for other calls.
    unreadable = (2, 3) if path.endswith("/lease/keepalive") else (3,)
    if document.get("code") in unreadable and not document["message"].startswith("etcdserver: "):
        assert document["error"] == document["message"]
        return UNREADABLE
    if path.endswith("/lease/timetolive") and int(document.get("TTL", 0)) > 0:
        left, granted = int(document["TTL"]), int(document["grantedTTL"])
        assert granted - 30 < left <= granted, document
        document["TTL"] = "nearly granted"
        document.get("keys", []).sort()
    if path.endswith("/lease/leases") and "leases" in document:
        document["leases"].sort(key=lambda lease: int(lease["ID"]))
    if path.endswith(("/maintenance/status", "/maintenance/hash", "/member/list", "/auth/status")):
        return _names(document)
    return document


def _names(document: Any) -> Any:
    match document:
        case dict():
            return {name: item if name == "header" else _names(item) for name, item in document.items()}
        case list():
            return list(map(_names, document))
        case _:
            return "there"
