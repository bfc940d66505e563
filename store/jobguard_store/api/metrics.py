"""GET /metrics: what a member knows of itself, under the names that dashboards for etcd ask for.

Place in the house   server -> metrics -> node
Never                costs anything while nobody asks; shows a number that was not counted
"""

from typing import TYPE_CHECKING

from jobguard_store.api.cluster import ETCD_VERSION
from jobguard_store.api.health import Page

if TYPE_CHECKING:
    from jobguard_store.node import Node

PROMETHEUS = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")


async def metrics(node: "Node", query: bytes) -> Page:
    return 200, PROMETHEUS, "".join(_family(*each) for each in _measured(node)).encode()


def _measured(node: "Node") -> list[tuple[str, int, str, str]]:
    """Name, value, labels and meaning."""
    status, load, head = node.status(), node.load(), node.header()
    return [
        ("etcd_server_has_leader", int(node.has_leader), "", "Whether this member knows a leader."),
        ("etcd_server_is_leader", int(status.leader == head.member_id), "", "Whether it is this member."),
        ("etcd_server_is_learner", int(status.is_learner), "", "Whether this member has no vote."),
        (COUNTER, load.leaders_seen, "", "Leaders seen since the start."),
        ("etcd_server_proposals_committed_total", status.raft_index, "", "The log is committed up to here."),
        ("etcd_server_proposals_applied_total", status.applied_index, "", "And applied up to here."),
        ("etcd_server_proposals_pending", load.proposals, "", "Writes not yet answered."),
        ("etcd_server_quota_backend_bytes", node.config.quota_backend_bytes, "", "The database may grow to."),
        ("etcd_server_version", 1, f'server_version="{ETCD_VERSION}"', "Which etcd it answers like."),
        ("etcd_server_id", 1, f'server_id="{head.member_id:x}"', "Which member this is."),
        ("etcd_mvcc_db_total_size_in_bytes", status.db_size, "", "Bytes of the database file."),
        ("etcd_mvcc_db_total_size_in_use_in_bytes", status.db_size_in_use, "", "Bytes of it that are used."),
        ("etcd_debugging_mvcc_keys_total", load.keys, "", "Keys that exist."),
        ("etcd_debugging_mvcc_watcher_total", load.watchers, "", "Watchers."),
        ("etcd_debugging_mvcc_slow_watcher_total", load.slow_watchers, "", "Watchers that read history."),
        ("etcd_debugging_mvcc_current_revision", head.revision, "", "The newest revision."),
        ("etcd_debugging_mvcc_compact_revision", load.compact_revision, "", "The last compacted revision."),
    ]


COUNTER = (
    "etcd_server_leader_changes_seen_total"  # the rest are gauges, in etcd too, whatever their names say
)


def _family(name: str, value: int, labels: str, meaning: str) -> str:
    kind = "counter" if name == COUNTER else "gauge"
    series = f"{name}{{{labels}}}" if labels else name
    return f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n{series} {value}\n"
