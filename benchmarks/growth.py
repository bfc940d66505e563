"""How the cost grows: with the keys that live, the leases that are held, the nodes there are."""

import os

from benchmarks import filling, wrk
from benchmarks.requests import KEYS_PUT
from benchmarks.results import Row
from benchmarks.session import Session, leader, memory_mib

CONNECTIONS = 64


def keys(session: Session) -> None:
    """Puts on keys that are there, all of them; and what the leader takes of memory afterwards."""
    for cluster in session.turns():
        leads, filled = leader(cluster), 0
        for count in session.plan.keys_growing:
            filling.keys(leads.url, range(filled, count))
            filled = count
            os.sync()
            sample = wrk.measure(session.plan, leads, "put", CONNECTIONS, count)
            memory = memory_mib(leads)
            session.record(Row("put with live keys", count), cluster.kind, {**sample, "memory": memory})


def leases(session: Session) -> None:
    """Keepalives of leases, all of them; and what the leader takes of memory afterwards."""
    for cluster in session.turns():
        leads, granted = leader(cluster), 0
        for count in session.plan.leases_growing:
            filling.leases(leads.url, range(granted, count))
            granted = count
            sample = wrk.measure(session.plan, leads, "keepalive", CONNECTIONS, count)
            memory = memory_mib(leads)
            session.record(Row("keepalive of leases", count), cluster.kind, {**sample, "memory": memory})


def nodes(session: Session) -> None:
    for size in session.plan.nodes:
        for cluster in session.turns(size):
            sample = wrk.measure(session.plan, leader(cluster), "put", CONNECTIONS, KEYS_PUT)
            session.record(Row("put on nodes", size), cluster.kind, sample)
