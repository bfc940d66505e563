"""Plain HTTP for operators and probes: which version, how healthy.

Place in the house   server -> health -> node
Gives                a status and a text, in etcd's spelling

/health and /readyz make a linearizable read, so they say whether clients are served; /livez and
?serializable=true only say whether this process is, which is what may justify a restart of it.
"""

from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from jobguard import wire
from jobguard_store.api.cluster import ETCD_CLUSTER_VERSION, ETCD_VERSION
from jobguard_store.api.exchange import JSON, TEXT
from jobguard_store.errors import NoLeader, OutcomeUnknown, StoreError
from jobguard_store.machine.commands import Range

if TYPE_CHECKING:
    from jobguard_store.node import Node

Page = tuple[int, tuple[bytes, bytes], bytes]

_PROBE = Range(b"\0", limit=1, keys_only=True)


async def version(node: "Node", query: bytes) -> Page:
    return (
        200,
        JSON,
        wire.encode(wire.VersionResponse(etcdserver=ETCD_VERSION, etcdcluster=ETCD_CLUSTER_VERSION)),
    )


async def health(node: "Node", query: bytes) -> Page:
    options = parse_qs(query.decode())
    alarms = {alarm.kind.name for alarm in node.alarms()}.difference(options.get("exclude", ()))
    reason = f"ALARM {min(alarms)}" if alarms else ""
    if not reason:
        reason = await _trouble(node, serializable=options.get("serializable") == ["true"])
    node.counts.unhealthy += bool(reason)
    node.counts.healthy += not reason
    body = wire.encode(wire.HealthResponse(health="false" if reason else "true", reason=reason))
    return (503, TEXT, body + b"\n") if reason else (200, TEXT, body)


async def livez(node: "Node", query: bytes) -> Page:
    return await _checked(node, query, {"serializable_read": True})


async def readyz(node: "Node", query: bytes) -> Page:
    return await _checked(node, query, {"serializable_read": True, "linearizable_read": False})


async def _checked(node: "Node", query: bytes, checks: dict[str, bool]) -> Page:
    """`checks`: a name, and whether that read is serializable."""
    options = parse_qs(query.decode(), keep_blank_values=True)
    lines = []
    well = True
    for name, serializable in checks.items():
        if name in options.get("exclude", ()):
            continue
        reason = await _trouble(node, serializable=serializable)
        well = well and not reason
        lines.append(f"[-]{name} failed: {reason}\n" if reason else f"[+]{name} ok\n")
    if well:
        return 200, TEXT, ("".join(lines) if "verbose" in options else "").encode() + b"ok\n"
    return 503, TEXT, "".join(lines).encode()


async def _trouble(node: "Node", *, serializable: bool) -> str:
    """Why a read fails, or nothing."""
    if not serializable and not node.has_leader:
        return "RAFT NO LEADER"
    try:
        await node.range(_PROBE, serializable=serializable)
    except NoLeader:
        return "RAFT NO LEADER"
    except (StoreError, OutcomeUnknown) as error:
        return f"RANGE ERROR:{error}"
    return ""
