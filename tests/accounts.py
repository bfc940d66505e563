"""A store with authentication on, and the sequence of calls that makes it so.

Place in the house   tests -> accounts -> gateway
Gives                users as an operator makes them; their tokens
"""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.gateway import Answer, Gateway, b64

ROOT_PASSWORD = "root's own"
PASSWORD = "user's own"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def raw(token: str) -> dict[str, str]:
    return {"Authorization": token}


def token(gateway: Gateway, user: str, password: str = PASSWORD) -> str:
    found: str = gateway.ok("/v3/auth/authenticate", {"name": user, "password": password})["token"]
    return found


def enable(gateway: Gateway) -> str:
    """The token of root, who is there from here on."""
    gateway.ok("/v3/auth/user/add", {"name": "root", "password": ROOT_PASSWORD})
    gateway.ok("/v3/auth/user/grant", {"user": "root", "role": "root"})
    gateway.ok("/v3/auth/enable")
    return token(gateway, "root", ROOT_PASSWORD)


def disable(gateway: Gateway, root: str) -> None:
    """Off again, and nobody left."""
    as_(gateway, root, "/v3/auth/disable")
    for user in gateway.ok("/v3/auth/user/list").get("users", ()):
        gateway.ok("/v3/auth/user/delete", {"name": user})
    for role in gateway.ok("/v3/auth/role/list").get("roles", ()):
        gateway.ok("/v3/auth/role/delete", {"role": role})


@contextmanager
def enabled(gateway: Gateway) -> Iterator[str]:
    root = enable(gateway)
    try:
        yield root
    finally:
        disable(gateway, token(gateway, "root", ROOT_PASSWORD))


def as_(gateway: Gateway, token: str, path: str, message: object = None) -> Answer:
    """A call with a token, which must succeed."""
    answer = gateway.post(path, message, headers=raw(token))
    assert answer.status == 200, (path, message, answer)
    return answer


def add_user(gateway: Gateway, root: str, name: str, *permissions: tuple[str, str, str]) -> None:
    """With a role of his own name, of such permissions: access, key and range_end."""
    as_(gateway, root, "/v3/auth/user/add", {"name": name, "password": PASSWORD})
    as_(gateway, root, "/v3/auth/role/add", {"name": name})
    for access, key, range_end in permissions:
        perm = {"permType": access, "key": b64(key), "range_end": b64(range_end)}
        as_(gateway, root, "/v3/auth/role/grant", {"name": name, "perm": perm})
    as_(gateway, root, "/v3/auth/user/grant", {"user": name, "role": name})
