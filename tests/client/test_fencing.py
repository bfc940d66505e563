"""A late holder's write is refused by the resource itself."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis as redis_py
from sqlalchemy import Engine, MetaData, create_engine, event, select, text
from sqlalchemy.orm import Session

from jobguard.client import Client
from jobguard.errors import Fenced, LockLost
from jobguard.fencing import redis as fenced_redis
from jobguard.fencing.sqlalchemy import advance, create_guards, fence, guard_table, guards, move
from tests import broker


@dataclass(frozen=True)
class Token:
    """A holder as it was: what a paused process still believes."""

    fencing_token: int
    cluster_id: int = 1


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path}/app.sqlite")
    create_guards(engine)
    create_guards(engine)
    with engine.begin() as transaction:
        transaction.execute(text("CREATE TABLE outbox (recipient TEXT)"))
    yield engine
    engine.dispose()


def send(engine: Engine, holder: Token, recipient: str) -> None:
    with engine.begin() as transaction:
        fence(transaction, "outbox", holder)
        transaction.execute(text("INSERT INTO outbox VALUES (:recipient)"), {"recipient": recipient})


def sent(engine: Engine) -> list[str]:
    with engine.begin() as transaction:
        return list(transaction.scalars(text("SELECT recipient FROM outbox")))


def test_a_late_holder_is_refused_and_its_write_with_it(engine: Engine) -> None:
    send(engine, Token(5), "a")
    send(engine, Token(5), "b")  # the same holder again
    send(engine, Token(9), "c")
    with pytest.raises(Fenced, match="has seen token 9; 5 came too late"):
        send(engine, Token(5), "late")
    send(engine, Token(9), "d")
    assert sent(engine) == ["a", "b", "c", "d"]


def test_a_guard_taken_in_a_transaction_that_rolled_back_was_not_taken(engine: Engine) -> None:
    with engine.begin() as transaction:
        fence(transaction, "outbox", Token(9))
        transaction.rollback()
    send(engine, Token(5), "a")


def test_resources_are_guarded_apart(engine: Engine) -> None:
    with engine.begin() as transaction:
        advance(transaction, "one", 9, 1)
        advance(transaction, "other", 5, 1)


def test_an_orm_session_will_do(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        fence(session, "outbox", Token(7))
    with pytest.raises(Fenced), Session(engine) as session, session.begin():
        fence(session, "outbox", Token(6))


def test_tokens_of_another_cluster_are_not_compared_until_moved(engine: Engine) -> None:
    send(engine, Token(900, cluster_id=0xAB), "old")
    with pytest.raises(Fenced, match=r"guarded for cluster ab, not cd: see move\(\)"):
        send(engine, Token(1000, cluster_id=0xCD), "new")
    with engine.begin() as transaction:
        assert move(transaction, 0xAB, 0xCD) == 1
    send(engine, Token(3, cluster_id=0xCD), "new")
    with pytest.raises(Fenced):
        send(engine, Token(1000, cluster_id=0xAB), "late")


def test_an_own_table_in_the_users_metadata(engine: Engine) -> None:
    metadata = MetaData()
    table = guard_table(metadata, "my_guards")
    metadata.create_all(engine)
    with engine.begin() as transaction:
        fence(transaction, "outbox", Token(4, cluster_id=2**64 - 1), table=table)
        assert transaction.execute(select(table.c.token, table.c.cluster)).one() == (4, str(2**64 - 1))
        assert transaction.execute(select(guards)).all() == []


def test_two_newcomers_insert_the_first_guard_at_once(engine: Engine) -> None:
    @event.listens_for(engine, "begin")
    def at_once(connection):  # type: ignore[no-untyped-def]
        connection.exec_driver_sql("PRAGMA busy_timeout = 5000")

    barrier = threading.Barrier(4)

    def arrive(number: int) -> None:
        barrier.wait()
        with suppress(Fenced):
            send(engine, Token(number), str(number))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(arrive, [1, 2, 3, 4]))
    order = [int(number) for number in sent(engine)]
    assert order == sorted(order)
    assert order[-1] == 4


def test_a_real_lock_fences_the_one_before_it(client: Client, other: Client, engine: Engine) -> None:
    late, newcomer = client.lock("digest"), other.lock("digest")
    late.acquire()
    send(engine, late, "a")  # type: ignore[arg-type]
    other.delete(late._held().key)  # released by hand; the holder does not know
    with newcomer:
        send(engine, newcomer, "b")  # type: ignore[arg-type]
        with pytest.raises(Fenced):
            send(engine, late, "late")  # type: ignore[arg-type]
    with pytest.raises(LockLost):
        late.release()
    assert sent(engine) == ["a", "b"]


# --- redis ---


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator["redis_py.Redis"]:
    with (
        broker.running(tmp_path_factory.mktemp("redis")) as started,
        redis_py.Redis.from_url(started.url) as connection,
    ):
        yield connection


def test_redis_refuses_a_late_holder_and_runs_none_of_its_commands(redis: "redis_py.Redis") -> None:
    fenced_redis.fence(redis, "r1", Token(5))
    replies = fenced_redis.guarded(redis, "r1", Token(5), ["SET", "r1:a", "1"], ["INCRBY", "r1:a", 4])
    assert replies[1] == 5
    fenced_redis.fence(redis, "r1", Token(10))  # longer, though smaller as a text
    with pytest.raises(Fenced, match="'r1' has seen token 10; 5 came too late"):
        fenced_redis.guarded(redis, "r1", Token(5), ["SET", "r1:a", "late"])
    assert redis.get("r1:a") == b"5"


def test_redis_compares_tokens_beyond_the_exact_numbers_of_lua(redis: "redis_py.Redis") -> None:
    fenced_redis.fence(redis, "r2", Token(2**53 + 1))
    with pytest.raises(Fenced):
        fenced_redis.fence(redis, "r2", Token(2**53))


def test_redis_keeps_clusters_apart_until_moved(redis: "redis_py.Redis") -> None:
    fenced_redis.fence(redis, "r3", Token(900, cluster_id=0xAB))
    newcomer = Token(3, cluster_id=0xCD)
    with pytest.raises(Fenced, match=r"guarded for cluster ab, not cd: see move\(\)"):
        fenced_redis.fence(redis, "r3", newcomer)
    fenced_redis.move(redis, "r3", newcomer)
    fenced_redis.fence(redis, "r3", newcomer)
