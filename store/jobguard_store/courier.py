"""What leaves for the peers, and the one thing that may wait a moment: word of a newer commit index.

Place in the house   replica -> courier -> transport
Takes                messages to post, in order; which peers wait for a commit
Gives                the same to the transport, with fewer Commits
Never                holds anything but a Commit, or a Commit from a peer that is known to wait for it

Under load the next append comes within a millisecond and carries the commit index anyway. A Commit of its
own, for every write, wakes each follower once more: a tenth of what a lone writer's put costs all together.
It is a hint, which the next heartbeat would repeat, so holding it can delay, but never harm.
"""

from __future__ import annotations

import asyncio

from jobguard_store.peer_messages import PeerMessage, Told
from jobguard_store.raft.messages import AppendEntries, Commit, Heartbeat
from jobguard_store.transport import Transport

HOLD_S = 0.002


class Courier:
    """Between the replica and its transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held: dict[int, Commit] = {}
        self._awaited: dict[int, int] = {}
        self._timer_runs = False

    def awaited(self, peer: int, index: int) -> None:
        """`peer` answers somebody as soon as it knows that `index` is committed."""
        self._awaited[peer] = index

    def post(self, message: PeerMessage) -> bool:
        match message:
            case Commit():
                return self._post_or_hold(message)
            case AppendEntries():
                self._held.pop(message.to, None)  # it says the same, and more
            case Heartbeat():
                return self._post_and_time(message)
            case Told() if held := self._held.pop(message.to, None):
                self._transport.post(held)  # whoever is told of an index waits until it is committed there
        return self._transport.post(message)

    def _post_and_time(self, heartbeat: Heartbeat) -> bool:
        posted = self._transport.post(heartbeat)
        if posted:
            self._transport.traffic[heartbeat.to].asked(heartbeat.context)
        return posted

    def _post_or_hold(self, commit: Commit) -> bool:
        index = self._awaited.get(commit.to)
        if index is not None:
            if commit.commit >= index:
                del self._awaited[commit.to]
            return self._transport.post(commit)
        self._held[commit.to] = commit
        if not self._timer_runs:
            self._timer_runs = True
            self._loop.call_later(HOLD_S, self._release)
        return True

    def _release(self) -> None:
        self._timer_runs = False
        for commit in self._held.values():
            self._transport.post(commit)
        self._held.clear()
        self._transport.flush()
