"""Plain requests to the leader, by wrk; puts also to a follower, which hands them on."""

from benchmarks import filling, wrk
from benchmarks.results import Row
from benchmarks.session import Session, leader
from tests.stores import Node

KEYS_PUT = 100_000  # a put draws from so many, and they need not be there


def put(session: Session) -> None:
    for cluster in session.turns():
        leads = leader(cluster)
        follower = next(node for node in cluster.nodes if node is not leads)
        for connections in session.plan.put_connections:
            measure(session, cluster.kind, leads, "put", "put", connections, KEYS_PUT)
        for connections in session.plan.connections:
            measure(session, cluster.kind, follower, "put to a follower", "put", connections, KEYS_PUT)


def reading(session: Session) -> None:
    for cluster in session.turns():
        leads, count = leader(cluster), session.plan.keys
        filling.keys(leads.url, range(count))
        for connections in session.plan.connections:
            measure(session, cluster.kind, leads, "linearizable range", "range", connections, count)
            measure(session, cluster.kind, leads, "serializable range", "serializable", connections, count)


def txn(session: Session) -> None:
    for cluster in session.turns():
        leads, count = leader(cluster), session.plan.keys
        filling.keys(leads.url, range(count))
        for connections in session.plan.connections:
            measure(session, cluster.kind, leads, "compare and swap", "txn", connections, count)


def keepalive(session: Session) -> None:
    for cluster in session.turns():
        leads, count = leader(cluster), session.plan.leases
        filling.leases(leads.url, range(count))
        for connections in session.plan.connections:
            measure(session, cluster.kind, leads, "lease keepalive", "keepalive", connections, count)


def measure(
    session: Session, subject: str, node: Node, work: str, kind: str, connections: int, count: int
) -> None:
    session.record(Row(work, connections), subject, wrk.measure(session.plan, node, kind, connections, count))
