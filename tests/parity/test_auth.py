"""Authentication, which is off: both stores say so alike, and neither takes a token."""

from typing import Any

from tests.gateway import Gateway
from tests.messages import GRANT, PUT, RANGE, REVOKE, TXN, put, put_op, range_, txn
from tests.stores import etcd, nodes

AUTH = ("status", "enable", "disable", "authenticate")
WITH_A_TOKEN = {
    PUT: put("k"),
    RANGE: range_("k"),
    TXN: txn(put_op("k")),
    GRANT: {"TTL": 60},
    REVOKE: {"ID": 1},
    "/v3/lease/timetolive": {"ID": 1},
    "/v3/cluster/member/remove": {"ID": 1},
    "/v3/auth/enable": {},
    "/v3/auth/authenticate": {"name": "root", "password": "secret"},
}


def heard(gateway: Gateway) -> list[Any]:
    """Statuses and bodies, without the header that names the store."""
    token = {"Authorization": "a token"}
    answers = [gateway.post(f"/v3/auth/{each}", {"name": "root", "password": "secret"}) for each in AUTH]
    answers += [gateway.post(path, message, headers=token) for path, message in WITH_A_TOKEN.items()]
    return [(each.status, {k: v for k, v in each.json.items() if k != "header"}) for each in answers]


def test_who_asks_for_protection_is_told_that_there_is_none() -> None:
    """S10, permissions that are not checked everywhere: they cannot be checked yet, there are no users.

    What can go wrong until there are is that somebody believes to be protected. So authentication cannot be
    enabled, nobody gets a token, and a request that comes with one is refused wherever etcd looks at it.
    """
    with nodes(1) as (ours,), etcd(1) as (theirs,), ours.gateway() as one, theirs.gateway() as other:
        found = heard(one)
        assert found == heard(other)
        assert found[0] == (200, {"authRevision": "1"}), "`enabled` is false, and so left out"
        assert [status for status, _ in found[1:4]] == [400, 200, 400]
        assert found[4][0] == 401
