"""What gRPC calls the methods behind the gateway's paths.

Place in the house   server, metrics -> rpcs
"""

from __future__ import annotations

from typing import NamedTuple


class Rpc(NamedTuple):
    service: str
    method: str
    kind: str = "unary"

    @property
    def labels(self) -> str:
        return f'grpc_method="{self.method}",grpc_service="{self.service}",grpc_type="{self.kind}"'


_KV, _LEASE, _WATCH = "etcdserverpb.KV", "etcdserverpb.Lease", "etcdserverpb.Watch"
_CLUSTER, _MAINTENANCE, _AUTH = "etcdserverpb.Cluster", "etcdserverpb.Maintenance", "etcdserverpb.Auth"
_LOCK, _ELECTION = "v3lockpb.Lock", "v3electionpb.Election"

RPCS = {
    "/kv/range": Rpc(_KV, "Range"),
    "/kv/put": Rpc(_KV, "Put"),
    "/kv/deleterange": Rpc(_KV, "DeleteRange"),
    "/kv/txn": Rpc(_KV, "Txn"),
    "/kv/compaction": Rpc(_KV, "Compact"),
    "/watch": Rpc(_WATCH, "Watch", "bidi_stream"),
    "/lease/grant": Rpc(_LEASE, "LeaseGrant"),
    "/lease/revoke": Rpc(_LEASE, "LeaseRevoke"),
    "/kv/lease/revoke": Rpc(_LEASE, "LeaseRevoke"),
    "/lease/keepalive": Rpc(_LEASE, "LeaseKeepAlive", "bidi_stream"),
    "/lease/timetolive": Rpc(_LEASE, "LeaseTimeToLive"),
    "/kv/lease/timetolive": Rpc(_LEASE, "LeaseTimeToLive"),
    "/lease/leases": Rpc(_LEASE, "LeaseLeases"),
    "/kv/lease/leases": Rpc(_LEASE, "LeaseLeases"),
    "/cluster/member/add": Rpc(_CLUSTER, "MemberAdd"),
    "/cluster/member/remove": Rpc(_CLUSTER, "MemberRemove"),
    "/cluster/member/update": Rpc(_CLUSTER, "MemberUpdate"),
    "/cluster/member/list": Rpc(_CLUSTER, "MemberList"),
    "/cluster/member/promote": Rpc(_CLUSTER, "MemberPromote"),
    "/maintenance/alarm": Rpc(_MAINTENANCE, "Alarm"),
    "/maintenance/status": Rpc(_MAINTENANCE, "Status"),
    "/maintenance/defragment": Rpc(_MAINTENANCE, "Defragment"),
    "/maintenance/hash": Rpc(_MAINTENANCE, "Hash"),
    "/maintenance/hashkv": Rpc(_MAINTENANCE, "HashKV"),
    "/maintenance/snapshot": Rpc(_MAINTENANCE, "Snapshot", "server_stream"),
    "/maintenance/transfer-leadership": Rpc(_MAINTENANCE, "MoveLeader"),
    "/maintenance/downgrade": Rpc(_MAINTENANCE, "Downgrade"),
    "/auth/enable": Rpc(_AUTH, "AuthEnable"),
    "/auth/disable": Rpc(_AUTH, "AuthDisable"),
    "/auth/status": Rpc(_AUTH, "AuthStatus"),
    "/auth/authenticate": Rpc(_AUTH, "Authenticate"),
    "/auth/user/add": Rpc(_AUTH, "UserAdd"),
    "/auth/user/get": Rpc(_AUTH, "UserGet"),
    "/auth/user/list": Rpc(_AUTH, "UserList"),
    "/auth/user/delete": Rpc(_AUTH, "UserDelete"),
    "/auth/user/changepw": Rpc(_AUTH, "UserChangePassword"),
    "/auth/user/grant": Rpc(_AUTH, "UserGrantRole"),
    "/auth/user/revoke": Rpc(_AUTH, "UserRevokeRole"),
    "/auth/role/add": Rpc(_AUTH, "RoleAdd"),
    "/auth/role/get": Rpc(_AUTH, "RoleGet"),
    "/auth/role/list": Rpc(_AUTH, "RoleList"),
    "/auth/role/delete": Rpc(_AUTH, "RoleDelete"),
    "/auth/role/grant": Rpc(_AUTH, "RoleGrantPermission"),
    "/auth/role/revoke": Rpc(_AUTH, "RoleRevokePermission"),
    "/lock/lock": Rpc(_LOCK, "Lock"),
    "/lock/unlock": Rpc(_LOCK, "Unlock"),
    "/election/campaign": Rpc(_ELECTION, "Campaign"),
    "/election/proclaim": Rpc(_ELECTION, "Proclaim"),
    "/election/leader": Rpc(_ELECTION, "Leader"),
    "/election/observe": Rpc(_ELECTION, "Observe", "server_stream"),
    "/election/resign": Rpc(_ELECTION, "Resign"),
}

CODES = (
    *("OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists"),
    *("PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange"),
    *("Unimplemented", "Internal", "Unavailable", "DataLoss", "Unauthenticated"),
)
"""By their numbers."""
OK, CANCELED = 0, 1
