"""Is this host's beat well: what a probe is told, whatever the store does.

Place in the house   the CLI -> here -> pulse, client
Takes                a client, for its namespace and one question
Gives                Health: leader, follower, no quorum, stalled or no beat, with the age of the last turn
Never                waits for the store longer than PATIENCE_S
"""

from typing import TYPE_CHECKING, Literal

import msgspec

from jobguard import pulse
from jobguard.errors import JobguardError
from jobguard.ops import get_op
from jobguard.session import boottime

if TYPE_CHECKING:
    from jobguard.client import Client

PATIENCE_S = 2.0

State = Literal["leader", "follower", "no quorum", "stalled", "no beat"]


class Beating(msgspec.Struct, frozen=True, kw_only=True):
    """One beat of this host."""

    pid: int
    state: State
    last_tick_seconds: float
    trouble: str = ""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The worst state of this host's beats. `summary` is the sentence for people."""

    state: State
    summary: str
    beats: list[Beating]

    @property
    def exit_code(self) -> int:
        """0 well; 1 hangs or is not there, so a restart helps; 6 the store has no quorum, so none does."""
        return {"leader": 0, "follower": 0, "no quorum": 6}.get(self.state, 1)


_WORST_FIRST: tuple[State, ...] = ("stalled", "no quorum", "follower", "leader")


def health(client: "Client") -> Health:
    """Of the beats that run on this host in the client's namespace. Raises nothing when the store is away."""
    away = _store_is_away(client)
    beats = [_beating(each, away) for each in pulse.beats(client.namespace)]
    if not beats:
        return Health(
            state="no beat",
            summary=f"no jobguard beat of namespace {client.namespace!r} runs on this host",
            beats=[],
        )
    worst = min(beats, key=lambda each: _WORST_FIRST.index(each.state))
    trouble = f": {away or worst.trouble}" if away or worst.trouble else ""
    return Health(
        state=worst.state,
        summary=f"{worst.state}, last tick {worst.last_tick_seconds:.1f} s ago (pid {worst.pid}){trouble}",
        beats=beats,
    )


def _beating(beat: pulse.Beat, away: str) -> Beating:
    age = max(boottime() - beat.at, 0.0)
    state: State = "stalled" if age > pulse.STALLED_S else "no quorum" if away else beat.role
    return Beating(pid=beat.pid, state=state, last_tick_seconds=round(age, 3), trouble=beat.trouble)


def _store_is_away(client: "Client") -> str:
    """Why no quorum of the store confirms a read; empty if one does."""
    try:
        client.txn(success=[get_op(client.key("nothing"))], timeout=PATIENCE_S)
    except JobguardError as error:
        return str(error)
    return ""
