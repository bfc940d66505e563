"""How unkind a history is, and to what.

Place in the house   world, node  ->  temper
Takes                a source of randomness, or values for a history of one's own
"""

import random
from dataclasses import dataclass

from jobguard_store.raft import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Temper:
    """Each history is mostly one kind of trouble; the defaults of the later fields are none of theirs."""

    voters: int
    election_ticks: int  # short elections collide
    limits: Limits  # small batches part what usually travels together
    crash_rate: float  # between two steps of a Ready
    reign_max: int  # how soon a new leader crashes, or 0; the stuff of Figure 8
    duplicate_rate: float
    late_rate: float
    hint_rate: float
    chaos_pause: int
    lame_disk: int = 0  # how long the first node's disk may take, or 0 for as long as the others'
    client_pause: int = 25  # between what clients ask for, at most
    drift_max: int = 0  # how much longer or shorter than ten a node's tick may be
    compact_rate: float = 0.0  # of ticks: the log is trimmed, and who is behind needs a snapshot
    change_pause: int = 0  # between changes of membership, or 0
    transfer_rate: float = 0.0  # of what clients ask for

    @classmethod
    def draw(cls, random: random.Random) -> "Temper":
        return cls(
            voters=random.choice((1, 2, 3, 3, 3, 3, 5, 5, 5)),
            election_ticks=random.choice((2, 3, 10)),
            limits=Limits(
                append_entries=random.choice((1, 2, 4096)),
                in_flight=random.choice((1, 3, 128)),
                in_flight_bytes=random.choice((1, 20, 1 << 20)),
                committed=random.choice((1, 5, 1024)),
            ),
            crash_rate=random.choice((0.0, 0.0003, 0.003)),
            reign_max=random.choice((0, 0, 15, 60)),
            duplicate_rate=random.choice((0.0, 0.02, 0.2)),
            late_rate=random.choice((0.0, 0.02, 0.1)),
            hint_rate=random.choice((0.0, 0.5, 1.0)),
            chaos_pause=random.choice((60, 150, 400)),
            lame_disk=random.choice((0, 0, 60, 300)),
            client_pause=random.choice((5, 25, 25)),
            drift_max=random.choice((0, 0, 1, 4)),
            compact_rate=random.choice((0.0, 0.03, 0.3)),
            change_pause=random.choice((0, 0, 30, 100, 300)),
            transfer_rate=random.choice((0.0, 0.0, 0.02, 0.2)),
        )
