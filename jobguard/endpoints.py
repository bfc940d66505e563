"""Which node to ask, and what may be asked again.

Place in the house   client, watch  ->  endpoints  ->  login, transport
Takes                a path, a body, whether a repetition is harmless, a deadline
Gives                the body of a 200; or Unavailable, OutcomeUnknown, or the store's own refusal
Never                holds a lock over I/O (idle connections lie in deques), reads a message's meaning

Four things can happen to an attempt, and they decide what may follow:

    not connected          nothing was sent                       -> the next node, for every call
    refused, not done      "no leader", "too many requests"       -> the next node, for every call
    refused, not done      "invalid auth token", …                -> that node once more, with a new token
    refused for good       key is empty, lease not found, …       -> ServerError at once
    no clear answer        cut off, timed out, 5xx                -> the next node if repeating is harmless,
                                                                     else OutcomeUnknown at once

The node that answered last is asked first the next time. A node that failed is left alone for a while that
doubles from 50 ms to 1 s, unless there is no other.
"""

import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum, auto
from math import inf
from random import SystemRandom
from typing import NamedTuple

import msgspec

from jobguard import wire
from jobguard.errors import (
    Compacted,
    JobguardError,
    LeaseExists,
    LeaseNotFound,
    OutcomeUnknown,
    ServerError,
    Unavailable,
)
from jobguard.login import Login, is_asked_for
from jobguard.tls import Certificates
from jobguard.transport import Answer, AnswerLost, Connection, Endpoint, NotConnected

BACKOFF_FIRST = 0.05
BACKOFF_MAX = 1.0
_random = SystemRandom()  # the module's own is the user's: seeded, perhaps, and not ours to draw from
IDLE_MAX = 16
"""Idle connections kept per node; more threads than that at once dial again."""


class Node:
    """One endpoint, its idle connections and its back-off."""

    def __init__(
        self, endpoint: Endpoint, certificates: Certificates | None = None, login: Login | None = None
    ) -> None:
        self.endpoint = endpoint
        self.certificates = certificates
        self.login = login
        self.not_before = 0.0
        self._failures = 0
        self._idle: deque[Connection] = deque(maxlen=IDLE_MAX)  # append and pop are atomic: no lock

    def exchange(self, path: str, body: bytes, deadline: float, connect_by: float = inf) -> Answer:
        """One request on an idle connection or a new one. Raises NotConnected, AnswerLost."""
        if self.login is None:
            return self._exchange(path, body, "", deadline, connect_by)
        token = self.login.token
        answer = self._exchange(path, body, token, deadline, connect_by)
        if not is_asked_for(answer, token):
            return answer
        return self.log_in(token, deadline) or self._exchange(
            path, body, self.login.token, deadline, connect_by
        )

    def log_in(self, refused: str, deadline: float) -> Answer | None:
        """Have a token in the place of a `refused` one; an answer if that is refused for good.

        Raises NotConnected: whatever needed it was not done.
        """
        assert self.login is not None

        def ask(path: str, body: bytes) -> Answer:
            return self._exchange(path, body, "", deadline, inf)

        try:
            return self.login.renew(refused, ask, deadline - time.monotonic())
        except AnswerLost as lost:
            raise NotConnected(f"{self.endpoint.url}: {lost}, while it was to log us in") from lost

    def _exchange(self, path: str, body: bytes, token: str, deadline: float, connect_by: float) -> Answer:
        connection = self.connection(min(deadline, connect_by))
        try:
            return connection.exchange(self.endpoint.request(path, body, token), deadline)
        finally:
            if connection.reusable:
                self._idle.append(connection)
            else:
                connection.close()

    def connection(self, deadline: float) -> Connection:
        """An idle connection the peer has not closed, so far as we can know, or a new one."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if connection.still_open():
                return connection
            connection.close()
        return self.dial(deadline)

    def dial(self, deadline: float) -> Connection:
        return Connection(self.endpoint, deadline - time.monotonic(), self.certificates)

    def worked(self) -> None:
        self._failures = 0
        self.not_before = 0.0

    def failed(self) -> None:
        self._failures += 1
        pause = min(BACKOFF_FIRST * 2 ** min(self._failures - 1, 10), BACKOFF_MAX)
        self.not_before = time.monotonic() + pause * _random.uniform(0.5, 1.0)

    def close(self) -> None:
        with suppress(IndexError):  # there is none left; another thread may have taken the last
            while True:
                self._idle.pop().close()


class Endpoints:
    """The nodes of one cluster, as one process sees them. A fork gets its own (`after_fork`)."""

    def __init__(
        self,
        endpoints: tuple[Endpoint, ...],
        certificates: Certificates | None = None,
        login: Login | None = None,
    ) -> None:
        self.pid = os.getpid()
        self.certificates = certificates
        self.login = login
        self.nodes = tuple(Node(each, certificates, login) for each in endpoints)
        self._preferred = 0

    def after_fork(self) -> "Endpoints":
        login = self.login and self.login.after_fork()
        return Endpoints(tuple(node.endpoint for node in self.nodes), self.certificates, login)

    def ask(self, path: str, body: bytes, *, harmless: bool, deadline: float, patience: float) -> Answer:
        """POST to one node after the other until one says yes, or no for good, or time is up.

        `patience` bounds one attempt, so that a node that fell silent does not use up the deadline. An
        attempt that must not be repeated gets all the time there is, once it is connected. One that the
        deadline cut short says less of what is wrong than those before it.
        """
        told = ""
        for node in self.turns(deadline):
            patient = time.monotonic() + patience
            try:
                answer = node.exchange(path, body, min(deadline, patient) if harmless else deadline, patient)
            except NotConnected as error:
                trouble = str(error)
            except AnswerLost as error:
                trouble = f"{node.endpoint.url}: {error}"
                if not harmless:
                    node.failed()
                    raise OutcomeUnknown(f"{path}: {trouble}") from error
            else:
                if answer.status == 200:
                    self.worked(node)
                    return answer
                verdict, refusal = read_refusal(answer)
                if verdict is Verdict.FINAL:
                    self.worked(node)
                    raise refusal
                trouble = f"{node.endpoint.url}: {refusal}"
                if verdict is Verdict.UNCLEAR and not harmless:
                    node.failed()
                    raise OutcomeUnknown(f"{path}: {trouble}")
            node.failed()
            if not told or time.monotonic() < deadline:
                told = trouble
        raise Unavailable(f"{path}: {told or 'no time was left to ask'}")

    def turns(self, deadline: float) -> Iterator[Node]:
        """The node to try next, again and again until the deadline; waits while all are in back-off."""
        while time.monotonic() < deadline:
            yield self.next()[0]
            self.rest(deadline)

    def rest(self, deadline: float) -> None:
        """Wait while all are in back-off."""
        _, pause = self.next()
        time.sleep(max(min(pause, deadline - time.monotonic()), 0))

    def next(self) -> tuple[Node, float]:
        """The first node, counted from the preferred one, that is not in back-off; else the one whose
        back-off ends first, with the seconds until then."""
        now = time.monotonic()
        start = self._preferred
        in_order = [*self.nodes[start:], *self.nodes[:start]]
        node = min(in_order, key=lambda each: max(each.not_before, now))
        return node, node.not_before - now

    def worked(self, node: Node) -> None:
        node.worked()
        self.prefer(node)

    def prefer(self, node: Node) -> None:
        """Ask this one first, until it fails."""
        self._preferred = self.nodes.index(node)

    def close(self) -> None:
        for node in self.nodes:
            node.close()


class Verdict(Enum):
    FINAL = auto()
    NOT_DONE = auto()
    UNCLEAR = auto()


class Refusal(NamedTuple):
    verdict: Verdict
    error: JobguardError


_NOT_DONE = frozenset(
    {
        "etcdserver: no leader",
        "etcdserver: too many requests",
        "etcdserver: rpc not supported for learner",
    }
)
# gRPC codes that are decided before anything is proposed, or by the state machine itself. Not among them:
# cancelled, unknown, deadline exceeded, aborted, internal, unavailable ("leader changed", "timed out").
_FINAL_CODES = frozenset({3, 5, 6, 7, 8, 9, 11, 12, 15, 16})
_FINAL_STATUSES = frozenset({404, 405, 413, 501})


def read_refusal(answer: Answer) -> Refusal:
    """What an answer other than 200 means for the caller."""
    try:
        body = wire.decode(answer.body, wire.ErrorBody)
    except msgspec.DecodeError:  # not the gateway: a proxy, a wrong address
        text = f"HTTP {answer.status}: {answer.body[:200].decode(errors='replace').strip()}"
        if answer.status in _FINAL_STATUSES:
            return Refusal(Verdict.FINAL, ServerError(12, text))
        return refusal(0, text)
    return refusal(body.code, body.message or body.error or f"HTTP {answer.status}")


def refusal(code: int, text: str) -> Refusal:
    """The same for a gRPC code and text, which is how a stream reports its failure."""
    if text in _NOT_DONE:
        return Refusal(Verdict.NOT_DONE, ServerError(code, text))
    match text:
        case "etcdserver: unhealthy cluster":  # "unavailable" by its code, yet nothing was proposed
            return Refusal(Verdict.FINAL, ServerError(code, text))
        case "etcdserver: requested lease not found":
            return Refusal(Verdict.FINAL, LeaseNotFound(code, text))
        case "etcdserver: lease already exists":
            return Refusal(Verdict.FINAL, LeaseExists(code, text))
        case "etcdserver: mvcc: required revision has been compacted":
            return Refusal(Verdict.FINAL, Compacted())
    verdict = Verdict.FINAL if code in _FINAL_CODES else Verdict.UNCLEAR
    return Refusal(verdict, ServerError(code, text))
