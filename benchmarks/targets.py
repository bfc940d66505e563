"""What is to be reached, as data, and whether it was: a number of ours against others of the same run."""

from dataclasses import dataclass
from typing import Literal

from benchmarks.results import Point, Quantity, Results


@dataclass(frozen=True, kw_only=True)
class Target:
    """`measured` is at least, or at most, the sum of `factor` × its point, plus `plus`."""

    what: str
    measured: Point
    sense: Literal["≥", "≤"]
    bound: tuple[tuple[float, Point], ...]
    plus: float = 0.0

    def bound_in(self, results: Results) -> float | None:
        """None when one of its numbers was not measured."""
        total = self.plus
        for factor, point in self.bound:
            if (value := results.at(point)) is None:
                return None
            total += factor * value
        return total


@dataclass(frozen=True)
class Verdict:
    """`short` is by which part of the bound it was missed; None when a number was not measured."""

    target: Target
    measured: float | None
    bound: float | None
    short: float | None

    @property
    def met(self) -> bool:
        return self.short is not None and self.short <= 0

    def __str__(self) -> str:
        if self.short is None:
            return "not measured"
        return "met" if self.met else f"**missed by {self.short:.1%}**"


def judge(target: Target, results: Results) -> Verdict:
    measured = results.at(target.measured)
    bound = target.bound_in(results)
    short = None
    if measured is not None and bound:
        short = (bound - measured if target.sense == "≥" else measured - bound) / bound
    return Verdict(target, measured, bound, short)


def ours(work: str, size: int, quantity: Quantity = "rate") -> Point:
    return Point(work, size, "jobguard", quantity)


def etcds(work: str, size: int, quantity: Quantity = "rate") -> Point:
    return Point(work, size, "etcd", quantity)


def task(subject: str, quantity: Quantity = "rate") -> Point:
    """Of a Celery worker with two children."""
    return Point("Celery task", 2, subject, quantity)


def rate(work: str, size: int, factor: float, peer: Point | None = None) -> Target:
    """Per second, at least so many times a peer's: by default etcd's at the same."""
    peer = peer or etcds(work, size)
    return Target(
        what=f"{work} at {size:,}: rate ≥ {factor:.1f} × that of {peer.subject}"
        + ("" if (peer.work, peer.size) == (work, size) else f"'s {peer.work} at {peer.size:,}"),
        measured=ours(work, size),
        sense="≥",
        bound=((factor, peer),),
    )


def p99(work: str, size: int) -> Target:
    return Target(
        what=f"{work} at {size:,}: p99 no worse than that of etcd",
        measured=ours(work, size, "p99"),
        sense="≤",
        bound=((1.0, etcds(work, size, "p99")),),
    )


TARGETS: tuple[Target, ...] = (
    rate("put", 1, 1.0),
    rate("put", 8, 1.2),
    rate("put", 64, 1.5),
    rate("put", 256, 1.5),
    *(p99("put", connections) for connections in (1, 8, 64, 256)),
    *(rate("linearizable range", connections, 1.0) for connections in (1, 64)),
    # etcd answers a keepalive without confirming that it still leads; we confirm.
    rate("lease keepalive", 1, 1.0, etcds("linearizable range", 1)),
    rate("lease keepalive", 64, 1.0),
    Target(
        what="lock + unlock: p50 ≤ 2.2 × that of our put at 1 + 0.6 ms",
        measured=ours("lock + unlock", 1, "p50"),
        sense="≤",
        bound=((2.2, ours("put", 1, "p50")),),
        plus=0.6,
    ),
    Target(
        what="lock + unlock: p50 ≤ 0.3 × that of etcd3gw on etcd",
        measured=ours("lock + unlock", 1, "p50"),
        sense="≤",
        bound=((0.3, Point("lock + unlock", 1, "etcd3gw on etcd", "p50")),),
    ),
    Target(
        what="put with live keys: rate at 1,000,000 ≥ 0.8 × that at 1,000",
        measured=ours("put with live keys", 1_000_000),
        sense="≥",
        bound=((0.8, ours("put with live keys", 1_000)),),
    ),
    Target(
        what="Celery task that did not opt in: rate ≥ 0.97 × that of plain Celery",
        measured=task("jobguard, did not opt in"),
        sense="≥",
        bound=((0.97, task("plain Celery")),),
    ),
    Target(
        what="guarded Celery task: rate ≥ 0.4 × that of plain Celery",
        measured=task("jobguard, guarded"),
        sense="≥",
        bound=((0.4, task("plain Celery")),),
    ),
    Target(
        what="guarded Celery task: round trip's p50 ≤ that of plain Celery + 2 × that of our put at 1 + 2 ms",
        measured=task("jobguard, guarded", "p50"),
        sense="≤",
        bound=((1.0, task("plain Celery", "p50")), (2.0, ours("put", 1, "p50"))),
        plus=2.0,
    ),
    Target(
        what="another beat has taken over: within the session's TTL of 15 s + 1 s after kill -9",
        measured=ours("takeover after kill -9", 2, "seconds"),
        sense="≤",
        bound=(),
        plus=16.0,
    ),
    Target(
        what="another beat has taken over: within 1 s after SIGTERM",
        measured=ours("takeover after SIGTERM", 2, "seconds"),
        sense="≤",
        bound=(),
        plus=1.0,
    ),
)
