"""Who may do what, call by call, while authentication is on; tokens, and what ends them."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import bcrypt
import pytest

from jobguard_store import guarded, passwords, tokens
from jobguard_store.guarded import Guarded
from jobguard_store.machine.auth import Auth
from jobguard_store.machine.commands import Caller, ChangePassword
from jobguard_store.node import Node
from jobguard_store.passwords import COST
from tests.accounts import PASSWORD, ROOT_PASSWORD, add_user, as_, bearer, enabled, raw, token
from tests.api.conftest import Inside
from tests.gateway import Gateway, b64
from tests.messages import (
    COMPACTION,
    DELETE,
    GRANT,
    HASHKV,
    KEEPALIVE,
    LEASES,
    PUT,
    RANGE,
    REVOKE,
    TIME_TO_LIVE,
    TXN,
    WATCH,
    create,
    delete,
    put,
    put_op,
    range_,
    txn,
    txn_op,
)
from tests.stores import eventually

UNAUTHENTICATED = (401, 16, "etcdserver: invalid auth token")
ANONYMOUS = (400, 3, "etcdserver: user name is empty")
DENIED = (403, 7, "etcdserver: permission denied")
FAILED = (400, 3, "etcdserver: authentication failed, invalid user ID or password")
NOT_PERMITTED = "rpc error: code = PermissionDenied desc = etcdserver: permission denied"


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "COST", 4)


@pytest.fixture
def root(gateway: Gateway) -> Iterator[str]:
    """The token of root, on a node where `user` may read and write a/."""
    with enabled(gateway) as root:
        add_user(gateway, root, "user", ("READWRITE", "a/", "a0"))
        yield root


@pytest.fixture
def user(gateway: Gateway, root: str) -> str:
    return token(gateway, "user")


MEMBER = "/v3/cluster/member/"
ROOT_ONLY: list[tuple[str, Any]] = [
    (COMPACTION, {"revision": 1}),
    (HASHKV, {}),
    ("/v3/maintenance/hash", {}),
    ("/v3/maintenance/defragment", {}),
    ("/v3/maintenance/snapshot", {}),
    ("/v3/maintenance/alarm", {"action": "ACTIVATE", "alarm": "NOSPACE"}),
    ("/v3/maintenance/alarm", {"action": "DEACTIVATE", "alarm": "NOSPACE"}),
    ("/v3/maintenance/transfer-leadership", {"targetID": 1}),
    ("/v3/maintenance/downgrade", {"version": "3.4.0"}),
    (MEMBER + "add", {"peerURLs": ["http://127.0.0.1:1"]}),
    (MEMBER + "remove", {"ID": 1}),
    (MEMBER + "update", {"ID": 1, "peerURLs": ["http://127.0.0.1:1"]}),
    (MEMBER + "promote", {"ID": 1}),
    *((f"/v3/auth/{path}", {}) for path in ("status", "enable", "disable", "user/list", "role/list")),
    *((f"/v3/auth/user/{path}", {"name": "x"}) for path in ("add", "get", "delete", "changepw", "revoke")),
    ("/v3/auth/user/grant", {"user": "x"}),
    *((f"/v3/auth/role/{path}", {"role": "x"}) for path in ("get", "delete", "revoke")),
    *((f"/v3/auth/role/{path}", {"name": "x"}) for path in ("add", "grant")),
]
OUTSIDE: list[tuple[str, Any]] = [
    (RANGE, range_("b")),
    (RANGE, range_("a/", "b")),
    (RANGE, range_("b", serializable=True)),
    (PUT, put("b")),
    (DELETE, delete("a/", "b")),
    (TXN, txn(put_op("b"))),
    (TXN, txn(failure=(txn_op(put_op("b")),))),
    (TXN, {"compare": [range_("b")]}),
]


@pytest.mark.parametrize(("path", "message"), [*ROOT_ONLY, *OUTSIDE], ids=lambda each: str(each))
def test_what_is_not_his_is_refused_to_a_user_and_everything_to_nobody(
    gateway: Gateway, user: str, path: str, message: Any
) -> None:
    assert gateway.post(path, message, headers=bearer(user)).error == DENIED
    assert gateway.post(path, message, headers=raw("made.up")).error == UNAUTHENTICATED
    assert gateway.post(path, message, headers=raw(f"x{user}")).error == UNAUTHENTICATED
    assert gateway.post(path, message).error == ANONYMOUS


def test_what_is_his_is_done_with_either_spelling_of_the_token(gateway: Gateway, user: str) -> None:
    assert gateway.post(PUT, put("a/k", "v"), headers=raw(user)).status == 200
    answer = gateway.post(RANGE, range_("a/", "a0"), headers=bearer(user))
    assert answer.json["kvs"][0]["value"] == b64("v")
    assert gateway.post("/v3/auth/user/get", {"name": "user"}, headers=raw(user)).json["roles"] == ["user"]
    found = gateway.post("/v3/auth/role/get", {"role": "user"}, headers=raw(user)).json["perm"]
    assert found == [{"permType": "READWRITE", "key": b64("a/"), "range_end": b64("a0")}]


def test_who_asks_for_nothing_needs_no_token(gateway: Gateway, root: str) -> None:
    """So it is in etcd 3.5.1: probes and lists of members work without."""
    gateway.ok("/v3/maintenance/status")
    gateway.ok(MEMBER + "list")
    gateway.ok("/v3/maintenance/alarm")
    assert gateway.ok(TXN) == {"header": gateway.ok(TXN)["header"], "succeeded": True}
    assert gateway.get("/health").json["health"] == "true"


def test_a_node_knows_no_call_that_goes_past_its_guard() -> None:
    """Whatever a node comes to offer is either asked about, or said here to be anybody's."""
    anybodys = {
        *("header", "has_leader", "lease_ttl_min", "members", "is_learner", "status", "load", "alarms"),
        *("counts", "traffic", "give_way"),
        *("authenticate", "read_barrier", "watch"),  # watch: see _watch
        *("start", "stop", "hand_over", "introduced", "failed", "fail"),  # the process's own
    }
    offered = {name for name in vars(Node) if not name.startswith("_")}
    assert offered - anybodys == {name for name in vars(Guarded) if not name.startswith("_")} - {"arrive"}
    assert "_watch" in vars(Guarded)


@pytest.fixture
def behind(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> Callable[[Auth], None]:
    """Makes the node one that knows older users, until it asks what is acknowledged by now."""

    def be_behind(older: Auth) -> None:
        machine, read_barrier = inside.node._replica.machine, Node.read_barrier
        newest, machine.auth = machine.auth, older

        async def catch_up(self: Node) -> None:
            if machine.auth is older:
                machine.auth = newest
            await read_barrier(self)

        monkeypatch.setattr(Node, "read_barrier", catch_up)

    return be_behind


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (COMPACTION, {"revision": 1}),
        ("/v3/maintenance/alarm", {"action": "ACTIVATE", "alarm": "NOSPACE"}),
        ("/v3/maintenance/alarm", {"action": "DEACTIVATE", "alarm": "NOSPACE"}),
        ("/v3/maintenance/snapshot", {}),
        (MEMBER + "add", {"peerURLs": ["http://127.0.0.1:1"]}),
        (MEMBER + "remove", {"ID": 1}),
        (MEMBER + "update", {"ID": 1, "peerURLs": ["http://127.0.0.1:1"]}),
        (MEMBER + "promote", {"ID": 1}),
        ("/v3/auth/user/add", {"name": "x"}),
        ("/v3/auth/user/list", {}),
    ],
    ids=lambda each: str(each),
)
def test_a_member_that_is_behind_asks_what_is_roots_by_what_was_acknowledged(
    gateway: Gateway, inside: Inside, root: str, path: str, message: Any, behind: Callable[[Auth], None]
) -> None:
    """There authentication was enabled, or root's password changed since his token was stolen."""
    before = inside.see(lambda: inside.node._replica.machine.auth)
    behind(Auth(False, before.revision, before.users, before.roles))
    assert gateway.post(path, message).error == ANONYMOUS
    as_(gateway, root, "/v3/auth/user/changepw", {"name": "root", "password": ROOT_PASSWORD})
    behind(before)
    assert gateway.post(path, message, headers=raw(root)).error == UNAUTHENTICATED


# --- leases -----------------------------------------------------------------------------------------


def test_a_lease_is_as_well_guarded_as_the_keys_on_it(gateway: Gateway, root: str, user: str) -> None:
    for lease, key in ((1, "a/k"), (2, "b")):
        as_(gateway, root, GRANT, {"ID": lease, "TTL": 60})
        as_(gateway, root, PUT, put(key, lease=lease))
    for path, message in (
        (PUT, put("a/k", lease=2)),
        (TXN, txn(put_op("a/k", lease=2))),
        (REVOKE, {"ID": 2}),
        (KEEPALIVE, {"ID": 2}),
        (TIME_TO_LIVE, {"ID": 2, "keys": True}),
        (LEASES, {}),
    ):
        refusal = gateway.post(path, message, headers=raw(user))
        assert (refusal.status, refusal.json["error"]) == (403, DENIED[2]), path
    assert as_(gateway, user, TIME_TO_LIVE, {"ID": 2}).json["grantedTTL"] == "60"
    for path in (KEEPALIVE, TIME_TO_LIVE, REVOKE, GRANT, LEASES):
        assert gateway.post(path, {"ID": 1, "TTL": 60}).error == ANONYMOUS
    assert as_(gateway, user, KEEPALIVE, {"ID": 1}).json["result"]["TTL"] == "60"
    assert as_(gateway, user, TIME_TO_LIVE, {"ID": 1, "keys": True}).json["keys"] == [b64("a/k")]
    as_(gateway, user, REVOKE, {"ID": 1})
    assert "kvs" not in as_(gateway, user, RANGE, range_("a/k")).json
    assert len(as_(gateway, root, LEASES).json["leases"]) == 1


# --- watches and recipes ----------------------------------------------------------------------------


def test_each_watcher_is_asked_about(gateway: Gateway, inside: Inside, root: str, user: str) -> None:
    with gateway.stream(WATCH, create("a/k"), more=True, headers=raw(user)) as stream:
        assert stream.result()["created"]
        for message in (
            create("b", watch_id=7),
            create("a/", "b", watch_id=7),
            create("\0", "\0", watch_id=7),
        ):
            stream.send(message)
            refusal = stream.result()
            assert (refusal["watch_id"], refusal["created"], refusal["canceled"]) == ("7", True, True)
            assert refusal["cancel_reason"] == NOT_PERMITTED
        as_(gateway, root, PUT, put("a/k", "v"))
        assert next(stream.events())["kv"]["value"] == b64("v")
    for headers in ({}, raw("made.up")):
        with gateway.stream(WATCH, create("a/k"), headers=headers) as stream:
            assert stream.result()["cancel_reason"] == NOT_PERMITTED


def test_a_watcher_sees_nothing_after_its_user_lost_the_right(
    gateway: Gateway, inside: Inside, root: str, user: str
) -> None:
    with gateway.stream(WATCH, create("a/", "a0"), more=True, headers=raw(user)) as stream:
        stream.result()
        as_(gateway, root, "/v3/auth/role/add", {"name": "of no matter"})
        as_(gateway, root, PUT, put("a/1"))
        assert stream.result()["events"]
        as_(gateway, root, "/v3/auth/user/revoke", {"name": "user", "role": "user"})
        as_(gateway, root, PUT, put("a/2"))
        last = stream.result()
        assert (last["canceled"], last["cancel_reason"]) == (True, NOT_PERMITTED)
        assert "events" not in last
        eventually(lambda: inside.watchers() == 0)


@pytest.mark.parametrize("end", ["changepw", "delete"])
def test_a_watcher_ends_with_the_password_its_token_was_given_for(
    gateway: Gateway, root: str, user: str, end: str
) -> None:
    """Who took a token must not go on watching with it; nor who was deleted, as whoever has his name now."""
    with gateway.stream(WATCH, create("a/", "a0"), headers=raw(user)) as stream:
        stream.result()
        as_(gateway, root, f"/v3/auth/user/{end}", {"name": "user", "password": "another"})
        if end == "delete":
            as_(gateway, root, "/v3/auth/user/add", {"name": "user", "password": PASSWORD})
            as_(gateway, root, "/v3/auth/user/grant", {"user": "user", "role": "user"})
        as_(gateway, root, PUT, put("a/1"))
        last = stream.result()
        assert (last["canceled"], last["cancel_reason"]) == (True, NOT_PERMITTED)


def test_a_watcher_from_before_there_was_authentication_has_to_be_somebodys(gateway: Gateway) -> None:
    with gateway.stream(WATCH, create("a/", "a0"), more=True) as stream:
        stream.result()
        with enabled(gateway) as root:
            as_(gateway, root, PUT, put("a/1"))
            assert stream.result()["cancel_reason"] == NOT_PERMITTED
            stream.send(create("a/", "a0"))
            assert stream.result()["cancel_reason"] == NOT_PERMITTED


def test_locks_and_elections_are_their_callers_doing(gateway: Gateway, user: str) -> None:
    key = as_(gateway, user, "/v3/lock/lock", {"name": b64("a/lock")}).json["key"]
    as_(gateway, user, "/v3/lock/unlock", {"key": key})
    leader = as_(gateway, user, "/v3/election/campaign", {"name": b64("a/e"), "value": b64("v")}).json[
        "leader"
    ]
    as_(gateway, user, "/v3/election/proclaim", {"leader": leader, "value": b64("w")})
    assert as_(gateway, user, "/v3/election/leader", {"name": b64("a/e")}).json["kv"]["value"] == b64("w")
    with gateway.stream("/v3/election/observe", {"name": b64("a/e")}, headers=raw(user)) as stream:
        assert stream.result()["kv"]["value"] == b64("w")
    as_(gateway, user, "/v3/election/resign", {"leader": leader})
    elsewhere = {"key": b64("b/e/1"), "rev": 1, "lease": 1}
    for path, message in (
        ("/v3/lock/lock", {"name": b64("b/lock")}),
        ("/v3/lock/unlock", {"key": b64("b/lock/1")}),
        ("/v3/election/campaign", {"name": b64("b/e")}),
        ("/v3/election/proclaim", {"leader": elsewhere}),
        ("/v3/election/leader", {"name": b64("b/e")}),
        ("/v3/election/resign", {"leader": elsewhere}),
    ):
        assert gateway.post(path, message, headers=raw(user)).error == (500, 2, DENIED[2]), path
        assert gateway.post(path, message).error == (500, 2, ANONYMOUS[2]), path
    assert gateway.post("/v3/election/observe", {"name": b64("b/e")}, headers=raw(user)).body == b""


# --- tokens and passwords ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "password"), [("user", "wrong"), ("user", ""), ("nobody", "x"), ("", "")], ids=str
)
def test_only_the_password_makes_a_token(gateway: Gateway, root: str, name: str, password: str) -> None:
    assert gateway.post("/v3/auth/authenticate", {"name": name, "password": password}).error == FAILED


def test_a_name_that_is_nobodys_takes_as_long_to_refuse(
    gateway: Gateway, inside: Inside, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a stopwatch would tell who is there."""
    compare, compared = bcrypt.checkpw, []

    def noted(password: bytes, hashed: bytes) -> bool:
        compared.append(hashed)
        return compare(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", noted)
    for name in ("nobody", ""):
        assert gateway.post("/v3/auth/authenticate", {"name": name, "password": "x"}).error == FAILED
    assert compared == [passwords.NOBODYS] * 2
    assert passwords.NOBODYS.startswith(b"$2b$%d$" % COST), "of the same cost"


def test_who_comes_by_certificate_gets_no_token(gateway: Gateway, root: str) -> None:
    as_(gateway, root, "/v3/auth/user/add", {"name": "c", "options": {"no_password": True}})
    refusal = gateway.post("/v3/auth/authenticate", {"name": "c", "password": ""}).error
    assert refusal == (500, 2, "auth: authentication failed, password was given for no password user")


@pytest.mark.parametrize("password", ["", "\0 and more", "ünïcode" * 9, "p" * 100])
def test_any_password_is_one(gateway: Gateway, root: str, password: str) -> None:
    as_(gateway, root, "/v3/auth/user/add", {"name": "p", "password": password})
    assert token(gateway, "p", password)
    assert gateway.post("/v3/auth/authenticate", {"name": "p", "password": "x" + password}).error == FAILED


def test_names_have_their_limit_and_are_text(gateway: Gateway) -> None:
    long = "n" * 1_600_000
    for path, message in (
        ("user/add", {"name": long, "password": "x"}),
        ("role/add", {"name": long}),
        ("role/grant", {"name": "r", "perm": {"key": b64(long)}}),
    ):
        refusal = gateway.post(f"/v3/auth/{path}", message).error
        assert refusal == (400, 3, "etcdserver: request is too large"), path
    for path in ("user/add", "user/changepw", "authenticate"):
        for half in (rb'{"name": "\ud800", "password": "x"}', rb'{"name": "u", "password": "\ud800"}'):
            assert gateway.post(f"/v3/auth/{path}", half).error[:2] == (400, 3), path


@pytest.mark.parametrize("end", ["changepw", "delete"])
def test_a_token_ends_with_the_password_it_was_given_for(
    gateway: Gateway, root: str, user: str, end: str
) -> None:
    as_(gateway, root, f"/v3/auth/user/{end}", {"name": "user", "password": "another"})
    assert gateway.post(RANGE, range_("a/k"), headers=raw(user)).error == UNAUTHENTICATED
    if end == "delete":
        as_(gateway, root, "/v3/auth/user/add", {"name": "user", "password": "another"})
        assert gateway.post(RANGE, range_("a/k"), headers=raw(user)).error == UNAUTHENTICATED
    assert token(gateway, "user", "another")


def test_a_token_ends_five_minutes_after_its_last_use(
    gateway: Gateway, inside: Inside, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gateway.post(RANGE, range_("a/k"), headers=raw(user)).status == 200
    held = inside.see(lambda: list(inside.node._replica.tokens._held.values()))
    assert len(held) == 2
    with monkeypatch.context() as later:
        later.setattr(tokens, "LIFETIME_S", 0.0)
        assert gateway.post(RANGE, range_("a/k"), headers=raw(user)).error == UNAUTHENTICATED
    assert inside.see(lambda: len(inside.node._replica.tokens._held)) == 0


def test_a_token_that_nobody_made_leaves_nothing_to_wait_for(
    gateway: Gateway, inside: Inside, root: str
) -> None:
    """A member may be behind the one that made it, but not for as long as a caller likes."""
    for made_up in ("x.9999999999999999999", "x.9", "x", "ü"):
        assert gateway.post(PUT, put("a/k"), headers=raw(made_up)).error == UNAUTHENTICATED
    reads = inside.node._replica._reads
    assert inside.see(lambda: (list(reads._unapplied), list(reads._rounds))) == ([], [])


def test_all_tokens_end_with_authentication(gateway: Gateway, inside: Inside) -> None:
    with enabled(gateway) as root:
        pass
    assert gateway.post(RANGE, range_("a/k"), headers=raw(root)).error == UNAUTHENTICATED
    with enabled(gateway):
        assert gateway.post(RANGE, range_("a/k"), headers=raw(root)).error == UNAUTHENTICATED


def test_a_password_that_changes_while_it_is_compared_is_compared_again(
    gateway: Gateway, inside: Inside, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison is slow: in its course the user may be given another password, or another role."""
    ours = inside.node._replica.passwords
    compare, compared = ours.fits, []

    async def slowly(password: str, hashed: bytes) -> bool:
        fits = await compare(password, hashed)
        compared.append(fits)
        if len(compared) == 1:
            command = ChangePassword("user", await ours.hash("another"))
            await inside.node._propose(command, Caller("root", 99))
        return fits

    with monkeypatch.context() as patched:
        patched.setattr(ours, "fits", slowly)
        answer = gateway.post("/v3/auth/authenticate", {"name": "user", "password": PASSWORD})
    assert answer.error == FAILED
    assert compared == [True, False]


def test_a_write_that_a_change_of_users_overtook_is_proposed_anew(
    gateway: Gateway, inside: Inside, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As etcd's clients do it on `revision of auth store is old`, without their knowing."""
    tries: list[int] = []
    propose = Node._propose

    async def late(self: Node, command: Any, caller: Any) -> Any:
        tries.append(caller.auth_revision)
        then = caller.auth_revision - (1 if len(tries) < 3 else 0)
        return await propose(self, command, caller._replace(auth_revision=then))

    with monkeypatch.context() as patched:
        patched.setattr(Node, "_propose", late)
        assert gateway.post(PUT, put("a/k"), headers=raw(user)).status == 200
        assert len(tries) == 3
        patched.setattr(guarded, "_TRIES", 2)
        tries.clear()
        old = (400, 3, "etcdserver: revision of auth store is old")
        assert gateway.post(PUT, put("a/k"), headers=raw(user)).error == old


def test_no_secret_is_logged_or_written(
    gateway: Gateway, inside: Inside, user: str, root: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        as_(gateway, user, PUT, put("a/k"))
        gateway.post("/v3/auth/authenticate", {"name": "user", "password": "a wrong one"})
        inside.run(inside.node._replica.flushed())
    assert user not in caplog.text
    assert "a wrong one" not in caplog.text
    files = [each.read_bytes() for each in inside.config.data_dir.rglob("*") if each.is_file()]
    assert any(b"$2b$04$" in each for each in files), "the hash is in there"
    for needle in (user, root, PASSWORD, ROOT_PASSWORD):
        assert all(needle.encode() not in each for each in files)


def test_who_tries_passwords_by_the_thousand_waits_for_himself(
    gateway: Gateway, inside: Inside, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(passwords, "_WAITING_MAX", 0)
        refusal = gateway.post("/v3/auth/authenticate", {"name": "user", "password": "x"}).error
    assert refusal == (429, 8, "etcdserver: too many requests")
