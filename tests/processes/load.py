"""Clients under whose eyes a cluster is troubled, and the record of what they asked and were told.

Place in the house   chaos -> load -> gateway
Takes                the nodes' URLs; a seed
Gives                Record: each operation with begin, end and outcome; each watcher's events
Never                asks for anything twice, or takes an outcome for known that is not
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from math import inf
from typing import Any

from tests.gateway import Answer, Gateway, b64, unb64
from tests.linearizable import Action, Delete, Operation, Put, Read, Swap
from tests.messages import (
    DELETE,
    PUT,
    RANGE,
    TXN,
    WATCH,
    compare,
    create,
    delete,
    put_op,
    range_,
    range_op,
    txn,
)

KEYS = tuple(f"chaos/{number}" for number in range(5))
ANSWER_S = 3.0
# With these a node says that nothing happened and nothing will: the record holds it to that.
DEFINITE = {
    "etcdserver: no leader",
    "etcdserver: leader changed",
    "etcdserver: server stopped",
    "etcdserver: too many requests",
}


@dataclass(frozen=True, slots=True)
class Written:
    """An acknowledged change."""

    revision: int
    key: str
    value: str | None
    begin: float
    end: float


@dataclass
class Record:
    """What all clients know together."""

    operations: dict[str, list[Operation]] = field(default_factory=lambda: {key: [] for key in KEYS})
    written: list[Written] = field(default_factory=list)
    sightings: set[tuple[str, str, int]] = field(default_factory=set)  # key, value, mod_revision
    outcomes: Counter[str] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, key: str, action: Action, begin: float, end: float, revision: int) -> None:
        with self.lock:
            self.operations[key].append(Operation(action, begin, end))
            self.outcomes["unknown" if end == inf else "ok"] += 1
            if revision:
                value = None if isinstance(action, Delete) else getattr(action, "value", None)
                self.written.append(Written(revision, key, value, begin, end))


class Client(threading.Thread):
    """One client, at one node until that one disappoints it."""

    def __init__(self, number: int, urls: Sequence[str], record: Record, seed: int) -> None:
        super().__init__(name=f"client {number}")
        self.answered = 0
        self._urls = urls
        self._at = number % len(urls)
        self._record = record
        self._random = random.Random(f"{seed} client {number}")
        self._sequence = 0
        self._last: dict[str, str | None] = dict.fromkeys(KEYS)
        self._enough = threading.Event()

    def stop(self) -> None:
        self._enough.set()

    def run(self) -> None:
        try:
            while not self._enough.is_set():
                with Gateway(self._urls[self._at], ANSWER_S) as gateway:
                    while not self._enough.is_set() and self._once(gateway):
                        self._enough.wait(self._random.uniform(0, 0.01))
                self._at = (self._at + 1) % len(self._urls)
                self._enough.wait(0.02)
        except BaseException as error:
            self._record.surprises.append(f"{self.name} broke: {error!r}")
            raise

    def _once(self, gateway: Gateway) -> bool:
        """One operation; False when it was no success."""
        key = self._random.choice(KEYS)
        action, path, message = self._choose(key)
        begin = time.monotonic()
        try:
            answer = gateway.post(path, message)
        except ConnectionRefusedError:
            self._record.outcomes["failed"] += 1
            return False
        except (OSError, HTTPException):
            self._record.note(key, action, begin, inf, 0)
            return False
        end = time.monotonic()
        if answer.status != 200:
            self._refused(key, action, begin, answer)
            return False
        self.answered += 1
        known, revision = self._told(key, action, answer.json)
        self._record.note(key, known, begin, end, revision)
        return True

    def _choose(self, key: str) -> tuple[Action, str, Any]:
        """The action as it is known before its answer, and its request."""
        self._sequence += 1
        value = f"{self.name} {self._sequence}"
        dice = self._random.random()
        if dice < 0.35:
            return Read(None), RANGE, range_(key)
        if dice < 0.65:
            return Put(value), PUT, {"key": b64(key), "value": b64(value)}
        if dice < 0.75:
            return Delete(), DELETE, delete(key)
        expected = self._last[key]
        if expected is None:
            condition = compare(key, "CREATE", create_revision=0)
        else:
            condition = compare(key, "VALUE", value=b64(expected))
        message = txn(put_op(key, value), failure=(range_op(key),), compare=(condition,))
        return Swap(expected, value), TXN, message

    def _refused(self, key: str, action: Action, begin: float, answer: Answer) -> None:
        status, _, text = answer.error
        if status == 503 and text in DEFINITE:
            self._record.outcomes["failed"] += 1
        elif status in (503, 504):
            self._record.note(key, action, begin, inf, 0)
        else:
            self._record.surprises.append(f"{self.name} at {self._urls[self._at]}: {status} {text}")

    def _told(self, key: str, action: Action, answer: Any) -> tuple[Action, int]:
        """The action with its answer, and the revision of its change, 0 if it made none."""
        revision = int(answer["header"]["revision"])
        match action:
            case Put(value):
                self._last[key] = value
                return action, revision
            case Read():
                self._last[key] = found = self._seen(key, answer)
                return Read(found), 0
            case Delete():
                self._last[key] = None
                return Delete("deleted" in answer), revision if "deleted" in answer else 0
            case Swap(expected, value):
                if answer.get("succeeded"):
                    self._last[key] = value
                    return Swap(expected, value, True), revision
                self._last[key] = found = self._seen(key, answer["responses"][0]["response_range"])
                return Swap(expected, value, False, found), 0

    def _seen(self, key: str, answer: Any) -> str | None:
        pairs = answer.get("kvs", ())
        if not pairs:
            return None
        value = unb64(pairs[0]["value"]).decode()
        with self._record.lock:
            self._record.sightings.add((key, value, int(pairs[0]["mod_revision"])))
        return value


@dataclass(frozen=True, slots=True)
class Event:
    revision: int
    key: str
    value: str | None


class Watcher(threading.Thread):
    """Sees every change of the keys, over whatever nodes, from `start_revision` on."""

    def __init__(self, number: int, urls: Sequence[str], record: Record, start_revision: int) -> None:
        super().__init__(name=f"watcher {number}")
        self.events: list[Event] = []
        self.next = start_revision
        self._urls = urls
        self._at = number % len(urls)
        self._record = record
        self._enough = threading.Event()

    def stop(self) -> None:
        self._enough.set()

    def run(self) -> None:
        try:
            while not self._enough.is_set():
                # The node may be down, silent, or go down in the middle of a line.
                with contextlib.suppress(OSError, EOFError, HTTPException, ValueError):
                    self._watch(Gateway(self._urls[self._at], ANSWER_S))
                self._at = (self._at + 1) % len(self._urls)
                self._enough.wait(0.05)
        except BaseException as error:
            self._record.surprises.append(f"{self.name} broke: {error!r}")
            raise

    def _watch(self, gateway: Gateway) -> None:
        with gateway.stream(WATCH, create("chaos/", "chaos0", start_revision=self.next)) as stream:
            while not self._enough.is_set():
                message = stream.next(ANSWER_S)
                if "result" not in message:
                    return  # the node says goodbye
                if message["result"].get("canceled"):
                    self._record.surprises.append(f"{self.name} was cancelled: {message}")
                    return
                for event in message["result"].get("events", ()):
                    pair = event["kv"]
                    value = unb64(pair.get("value", "")).decode() if "type" not in event else None
                    self.events.append(Event(int(pair["mod_revision"]), unb64(pair["key"]).decode(), value))
                    self.next = self.events[-1].revision + 1
