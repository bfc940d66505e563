"""How much is measured: the whole of it, and a smoke run that only shows that the benchmark still runs."""

from dataclasses import dataclass

from tests.stores import CALM


@dataclass(frozen=True, kw_only=True)
class Plan:
    rounds: int = 5
    seconds: float = 2.0  # one measurement
    warm_up_s: float = 0.5  # before each, with the same load
    put_connections: tuple[int, ...] = (1, 8, 64, 256)
    connections: tuple[int, ...] = (1, 64)  # of everything else
    keys: int = 10_000  # to read, and to compare and swap
    leases: int = 1_000  # to keep alive
    watchers: tuple[int, ...] = (100, 1_000)
    keys_growing: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    leases_growing: tuple[int, ...] = (10, 1_000, 10_000)
    nodes: tuple[int, ...] = (1, 3, 5)
    tasks: int = 4_000
    tasks_guarded: int = 1_000  # they take longer
    round_trips: int = 200
    session_ttl_s: int = 15  # of beats: the default
    flags: tuple[str, ...] = ()  # of the stores
    fresh_stores: bool = True  # each family begins on empty nodes, and its rival is not there


FULL = Plan()
QUICK = Plan(
    rounds=1,
    seconds=0.2,
    warm_up_s=0.0,
    put_connections=(1, 64),
    connections=(8,),
    keys=100,
    leases=10,
    watchers=(10,),
    keys_growing=(100, 1_000),
    leases_growing=(10, 100),
    nodes=(1, 3),
    tasks=50,
    tasks_guarded=20,
    round_trips=5,
    session_ttl_s=5,
    flags=CALM,
    fresh_stores=False,
)
