"""One lock that nobody else wants, taken and given back for a while, by one of the libraries that offer one:

    python -m benchmarks.lock_client jobguard|etcd3gw|redis URL WARM_UP_S SECONDS
    python -m benchmarks.lock_client pysyncobj OWN,OTHER,OTHER WARM_UP_S SECONDS

Each is used as its own documentation shows it, with a TTL of 15 s. PySyncObj's lock manager lives in the
processes that use it: three of them, of which one takes the lock; those with SECONDS 0 only take part, until
they are killed.
"""

import json
import sys
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from benchmarks.results import spread

TTL_S = 15
PATIENCE_S = 60.0
NAME = "benchmark"


def jobguard(url: str) -> Callable[[], None]:
    from jobguard import Client

    client = Client([url])

    def cycle() -> None:
        with client.lock(NAME, ttl=TTL_S):
            pass

    return cycle


def etcd3gw(url: str) -> Callable[[], None]:
    import etcd3gw

    address = urlsplit(url)
    client = etcd3gw.client(host=str(address.hostname), port=address.port or 0)

    def cycle() -> None:
        lock = client.lock(NAME, ttl=TTL_S)
        assert lock.acquire()
        assert lock.release()

    return cycle


def redis(url: str) -> Callable[[], None]:
    from redis import Redis

    client = Redis.from_url(url)

    def cycle() -> None:
        with client.lock(NAME, timeout=TTL_S):
            pass

    return cycle


def pysyncobj(addresses: str) -> Callable[[], None]:
    from pysyncobj import SyncObj
    from pysyncobj.batteries import ReplLockManager

    own, *others = addresses.split(",")
    locks = ReplLockManager(autoUnlockTime=TTL_S)
    cluster = SyncObj(own, others, consumers=[locks])
    deadline = time.monotonic() + PATIENCE_S
    while not cluster.isReady():
        if time.monotonic() > deadline:
            raise SystemExit(f"PySyncObj found no leader within {PATIENCE_S:.0f} s")
        time.sleep(0.01)

    def cycle() -> None:
        assert locks.tryAcquire(NAME, sync=True)
        locks.release(NAME, sync=True)

    return cycle


LIBRARIES = {each.__name__: each for each in (jobguard, etcd3gw, redis, pysyncobj)}


def timed(cycle: Callable[[], None], seconds: float) -> list[float]:
    """How long each took, in seconds; one at least."""
    end = time.monotonic() + seconds
    taken: list[float] = []
    while not taken or time.monotonic() < end:
        begin = time.monotonic()
        cycle()
        taken.append(time.monotonic() - begin)
    return taken


def main(library: str, url: str, warm_up_s: float, seconds: float) -> None:
    cycle = LIBRARIES[library](url)
    while not seconds:
        time.sleep(3600)
    timed(cycle, warm_up_s)
    taken = timed(cycle, seconds)
    print(json.dumps({"rate": len(taken) / sum(taken), **spread(taken)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
    sys.exit(0)
