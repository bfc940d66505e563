"""Commits that may wait, and those that may not."""

import asyncio
from collections import defaultdict
from typing import Any, cast

from jobguard_store.counts import Traffic
from jobguard_store.courier import Courier
from jobguard_store.peer_messages import Question, Told
from jobguard_store.raft.messages import AppendEntries, Commit, EntryId, Heartbeat
from jobguard_store.transport import Transport
from tests.node.members import eventually, run


class Posted:
    """Stands in for the transport."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.flushes = 0
        self.traffic = defaultdict[int, Traffic](Traffic)

    def post(self, message: Any) -> bool:
        self.messages.append(message)
        return True

    def flush(self) -> None:
        self.flushes += 1


def commit(index: int, to: int = 2) -> Commit:
    return Commit(sender=1, to=to, term=1, commit=index)


def append(index: int, to: int = 2) -> AppendEntries:
    return AppendEntries(sender=1, to=to, term=1, previous=EntryId(1, index), entries=(), commit=index)


def told(to: int = 2) -> Told:
    return Told(sender=1, to=to, context=1, question=Question.BARRIER, index=5)


def courier() -> tuple[Courier, Posted]:
    posted = Posted()
    return Courier(cast(Transport, posted)), posted


def test_an_append_takes_the_commit_along() -> None:
    async def story() -> None:
        mail, posted = courier()
        mail.post(commit(5))
        mail.post(append(6))
        await eventually(lambda: posted.flushes)
        assert posted.messages == [append(6)]

    run(story())


def test_without_one_the_newest_commit_leaves_by_itself() -> None:
    async def story() -> None:
        mail, posted = courier()
        mail.post(commit(5))
        mail.post(commit(6))
        mail.post(commit(6, to=3))
        assert posted.messages == []
        await eventually(lambda: posted.flushes)
        assert posted.messages == [commit(6), commit(6, to=3)]

    run(story())


def test_a_peer_that_waits_is_told_at_once() -> None:
    async def story() -> None:
        mail, posted = courier()
        mail.awaited(2, 6)
        mail.post(commit(5))
        mail.post(commit(6))
        assert posted.messages == [commit(5), commit(6)]
        mail.post(commit(7))
        assert len(posted.messages) == 2
        mail.post(told())
        assert posted.messages[2:] == [commit(7), told()]

    run(story())


def test_nothing_else_is_held_or_reordered() -> None:
    async def story() -> None:
        mail, posted = courier()
        beat = Heartbeat(sender=1, to=2, term=1, commit=5, context=0)
        mail.post(commit(5))
        for message in (beat, told(to=3), append(5, to=3)):
            mail.post(message)
        assert posted.messages == [beat, told(to=3), append(5, to=3)]
        await asyncio.sleep(0)

    run(story())
