"""Users, roles, permissions and tokens: the same calls under the same names, to ours and to real etcd.

What may differ, and so is not drawn, stands in decision 0025: where later releases are stricter than 3.5.1.
"""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.accounts import PASSWORD, ROOT_PASSWORD, disable, enable, raw, token
from tests.gateway import PATIENCE_S, Gateway, b64
from tests.messages import DELETE, GRANT, PUT, RANGE, REVOKE, TXN, WATCH, create, put, put_op, range_, txn
from tests.parity.conftest import FACTOR, SEED
from tests.parity.replay import WHOLE_STORE
from tests.stores import etcd, nodes

EXAMPLES = 4

# --- off --------------------------------------------------------------------------------------------

AUTH = ("status", "enable", "disable", "authenticate", "user/list", "role/list")
WITH_A_TOKEN: dict[str, Any] = {
    PUT: put("k"),
    RANGE: range_("k"),
    TXN: txn(put_op("k")),
    GRANT: {"TTL": 60},
    REVOKE: {"ID": 1},
    "/v3/lease/timetolive": {"ID": 1},
    "/v3/lease/leases": {},
    "/v3/cluster/member/remove": {"ID": 1},
    "/v3/lock/lock": {"name": b64("l")},
    "/v3/election/leader": {"name": b64("l")},
    "/v3/auth/enable": {},
    "/v3/auth/user/get": {"name": "u"},
    "/v3/auth/role/delete": {"role": "r"},
    "/v3/auth/authenticate": {"name": "root", "password": "secret"},
}


@pytest.fixture(scope="module")
def stores() -> Iterator[tuple[Gateway, Gateway]]:
    with nodes(1) as (ours,), etcd(1) as (theirs,), ours.gateway() as one, theirs.gateway() as other:
        yield one, other


def plain(answer: Any) -> tuple[int, Any]:
    """Status and body, without the header that names the store."""
    return answer.status, {name: value for name, value in answer.json.items() if name != "header"}


def heard(gateway: Gateway) -> list[Any]:
    answers = [gateway.post(f"/v3/auth/{each}", {"name": "root", "password": "secret"}) for each in AUTH]
    answers += [gateway.post(path, message, headers=raw("a token")) for path, message in WITH_A_TOKEN.items()]
    with gateway.stream(WATCH, create("k"), headers=raw("a token")) as stream:
        refusal = stream.result()
        return [*map(plain, answers), {name: refusal[name] for name in refusal if name != "header"}]


def test_without_users_nobody_is_let_believe_to_be_protected(stores: tuple[Gateway, Gateway]) -> None:
    """S10: authentication cannot be enabled, nobody gets a token, and one that comes is refused."""
    found = heard(stores[0])
    assert found == heard(stores[1])
    assert [status for status, _ in found[1:4]] == [400, 200, 400]
    assert found[len(AUTH)][0] == 401


def test_of_several_tokens_the_same_counts(stores: tuple[Gateway, Gateway]) -> None:
    """What a proxy adds, or a library spells as gRPC's metadata."""
    heard = []
    for gateway in stores:
        root = enable(gateway)
        try:
            spelled = [
                [(name, value.format(root)) for name, value in headers]
                for headers in (
                    [("Authorization", "{}"), ("Authorization", "made.1")],
                    [("Authorization", "made.1"), ("Authorization", "{}")],
                    [("Grpc-Metadata-Token", "{}"), ("Authorization", "made.1")],
                    [("Authorization", "{}"), ("Grpc-Metadata-Token", "made.1")],
                    [("Grpc-Metadata-Authorization", "{}")],
                    [("authorization", "{}  ")],
                    [("Authorization", "")],
                    [("Authorization", ""), ("Authorization", "{}")],
                    [("Authorization", "bearer {}")],
                    [("Token", "{}")],
                )
            ]
            heard.append([_status(gateway, headers) for headers in spelled])
        finally:
            disable(gateway, token(gateway, "root", ROOT_PASSWORD))
    assert heard[0] == heard[1] == [200, 401, 200, 401, 200, 200, 401, 401, 401, 400]


def _status(gateway: Gateway, headers: list[tuple[str, str]]) -> int:
    """Of a range, asked for with headers that may be there twice."""
    address = urlsplit(gateway.url)
    with closing(HTTPConnection(address.hostname or "", address.port, timeout=PATIENCE_S)) as connection:
        connection.putrequest("POST", RANGE)
        for header in headers:
            connection.putheader(*header)
        body = json.dumps(range_("k")).encode()
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        return connection.getresponse().status


# --- on ---------------------------------------------------------------------------------------------

USERS = ("root", "one", "two")
ROLES = ("r", "s")
# One interval a key: of two from the same key etcd finds only the first again.
INTERVALS = (("a", "c"), ("b", ""), ("c", "e"), ("d", "\0"))
KEYS = ("a", "b", "c", "d", "z")
ENDS = ("", "", "b", "c", "e", "\0")


@dataclass(frozen=True)
class Ask:
    """By `user`; "" without a token, "?" with one that was made up."""

    user: str
    path: str
    message: dict[str, Any]


def asks(path: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Ask]:
    callers = st.sampled_from(("root", "root", "one", "one", "two", "", "?"))
    return st.builds(Ask, callers, st.just(path), st.fixed_dictionaries(fields))


users = st.sampled_from((*USERS, "none", ""))
roles = st.sampled_from((*ROLES, "root", "none", ""))
keys = st.sampled_from(KEYS).map(b64)
ends = st.sampled_from(ENDS).map(b64)
intervals = st.sampled_from(INTERVALS)
permissions = st.builds(
    lambda interval, access: {
        "permType": access,
        "key": b64(interval[0]),
        "range_end": b64(interval[1]),
    },
    intervals,
    st.sampled_from(("READ", "WRITE", "READWRITE", 0, 1, 2)),
)
puts = st.fixed_dictionaries({"request_put": st.fixed_dictionaries({"key": keys, "value": keys})})
ranges = st.fixed_dictionaries({"request_range": st.fixed_dictionaries({"key": keys, "range_end": ends})})
compares = st.fixed_dictionaries({"key": keys, "range_end": ends, "target": st.just("VERSION")})


@st.composite
def revocations(draw: st.DrawFn) -> Ask:
    key, end = draw(intervals)
    message = {"role": draw(roles), "key": b64(key), "range_end": b64(end)}
    return Ask(draw(st.sampled_from(("root", "root", "one", ""))), "auth/role/revoke", message)


on_users = st.one_of(
    asks("auth/user/get", name=users),
    asks("auth/user/list"),
    asks("auth/user/delete", name=users.filter(lambda name: name != "two")),
    asks("auth/user/grant", user=users, role=roles),
    asks("auth/user/grant", user=st.just("one"), role=st.sampled_from(ROLES)),
    asks("auth/user/revoke", name=users, role=roles),
    asks("auth/user/changepw", name=users.filter(lambda name: name != "root"), password=st.just(PASSWORD)),
    asks("auth/user/add", name=users, password=st.just(PASSWORD)),
)
on_roles = st.one_of(
    asks("auth/role/get", role=roles),
    asks("auth/role/list"),
    asks("auth/role/add", name=roles),
    asks("auth/role/delete", role=st.sampled_from(("r", "none", "root"))),
    asks("auth/role/grant", name=roles, perm=permissions),
    asks("auth/role/grant", name=st.sampled_from(ROLES), perm=permissions),
    asks("auth/role/grant", name=roles),
    revocations(),
)
on_keys = st.one_of(
    asks("kv/range", key=keys, range_end=ends),
    asks("kv/range", key=keys, range_end=ends, serializable=st.just(True)),
    asks("kv/put", key=keys, value=keys, prev_kv=st.booleans()),
    asks("kv/deleterange", key=keys, range_end=ends, prev_kv=st.booleans()),
    asks("kv/txn", compare=st.lists(compares, max_size=2), success=st.lists(ranges, max_size=2)),
    asks("kv/txn", compare=st.lists(compares, max_size=1), success=st.lists(puts, max_size=1)),
    asks("kv/txn", failure=st.lists(st.one_of(puts, ranges), max_size=1)),
    asks("lock/unlock", key=keys),
    asks("election/leader", name=keys),
    asks("watch", create_request=st.fixed_dictionaries({"key": keys, "range_end": st.just("")})),
)
sequences = st.lists(
    st.one_of(on_users, on_users, on_roles, on_roles, on_keys, on_keys, asks("auth/status")),
    min_size=25,
    max_size=40,
)


class Session:
    """Who has logged in at one store, and what it said to all that was asked of it."""

    def __init__(self, gateway: Gateway, root: str) -> None:
        self._gateway = gateway
        self._tokens = {"root": root, "?": "made.up"}
        self._revision = int(gateway.post(RANGE, range_("-"), headers=raw(root)).json["header"]["revision"])
        self._changes = self._auth_revision()

    def _auth_revision(self) -> int:
        status = self._gateway.post("/v3/auth/status", headers=raw(self._tokens["root"])).json
        return int(status["authRevision"])

    def say(self, ask: Ask) -> Any:
        login = None
        if ask.user in USERS and ask.user not in self._tokens:
            answer = self._gateway.post("/v3/auth/authenticate", {"name": ask.user, "password": PASSWORD})
            login = answer.status if answer.status == 200 else plain(answer)
            if answer.status == 200:
                self._tokens[ask.user] = answer.json["token"]
        known = self._tokens.get(ask.user)
        headers = raw(known) if known else {}
        if ask.path == "watch":
            with self._gateway.stream(WATCH, ask.message, headers=headers) as stream:
                return login, self._relative(stream.result())
        answer = self._gateway.post(f"/v3/{ask.path}", ask.message, headers=headers)
        if answer.status == 401:
            self._tokens.pop(ask.user if ask.user != "?" else "", None)
        return login, answer.status, self._relative(answer.json)

    def _relative(self, value: Any) -> Any:
        match value:
            case dict():
                return {name: self._field(name, item) for name, item in value.items()}
            case list():
                return [self._relative(item) for item in value]
        return value

    def _field(self, name: str, item: Any) -> Any:
        if name in ("revision", "mod_revision", "create_revision"):
            return int(item) - self._revision
        if name == "authRevision":
            return int(item) - self._changes
        return None if name in ("cluster_id", "member_id", "raft_term") else self._relative(item)


PRELUDE = [
    Ask("root", "auth/user/add", {"name": "one", "password": PASSWORD}),
    Ask("root", "auth/role/add", {"name": "r"}),
    Ask("root", "auth/user/grant", {"user": "one", "role": "r"}),
    *(
        Ask("root", "auth/role/grant", {"name": "r", "perm": {"permType": access, "key": b64(key)} | end})
        for access, key, end in (
            ("READ", "a", {"range_end": b64("c")}),
            ("READWRITE", "c", {"range_end": b64("e")}),
            ("WRITE", "b", {}),
        )
    ),
    Ask("root", "auth/role/add", {"name": "s"}),
    Ask("root", "auth/user/add", {"name": "two", "password": PASSWORD}),
]


def replayed(gateway: Gateway, sequence: list[Ask]) -> list[Any]:
    gateway.ok(DELETE, WHOLE_STORE)
    session = Session(gateway, enable(gateway))
    try:
        return [session.say(ask) for ask in [*PRELUDE, *sequence]]
    finally:
        disable(gateway, token(gateway, "root", ROOT_PASSWORD))


def test_generated_calls_of_several_users_are_answered_as_etcd_answers(
    stores: tuple[Gateway, Gateway],
) -> None:
    ours, theirs = stores

    def agree(sequence: list[Ask]) -> None:
        for found, expected, ask in zip(
            replayed(ours, sequence), replayed(theirs, sequence), [*PRELUDE, *sequence], strict=True
        ):
            assert found == expected, ask

    configured = settings(
        max_examples=EXAMPLES * FACTOR, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    seed(SEED)(configured(given(sequences)(agree)))()
