"""What goes to the disk in which batch, and which messages wait for it."""

import asyncio
from typing import Any, cast

from jobguard_store.journal import ROWS_IN_COMPANY, Journal
from jobguard_store.machine.results import Rows
from jobguard_store.raft.messages import AppendReply, Entry, EntryKind, HardState, Ready
from jobguard_store.storage.database import Database
from jobguard_store.writer import Job, Writer
from tests.node.members import eventually, run
from tests.stopwatch import Stopwatch


class Queue:
    """Stands in for the writer and its file."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.durable: list[Job] = []
        self.journal = Journal(cast(Database, None), cast(Writer, self), on_durable=self.durable.append)

    def put(self, job: Job) -> None:
        self.jobs.append(job)

    async def stop(self, last: Any) -> None: ...

    def done(self, count: int) -> None:
        finished, self.jobs = self.jobs[:count], self.jobs[count:]
        self.journal.durable(finished)


def entries(*indexes: int) -> tuple[Entry, ...]:
    return tuple(Entry(index, 1, EntryKind.NORMAL, b"") for index in indexes)


def ack(match: int) -> AppendReply:
    return AppendReply(sender=2, to=1, term=1, match=match)


def test_messages_wait_for_their_batch_and_for_all_before_it() -> None:
    async def story() -> None:
        queue = Queue()
        journal = queue.journal
        assert journal.persist(Ready(messages_after_persist=(ack(0),))) == (ack(0),), "nothing to wait for"
        assert journal.persist(Ready(entries=entries(1), messages_after_persist=(ack(1),))) == ()
        assert journal.persist(Ready(messages_after_persist=(ack(2),))) == (), "the disk still writes 1"
        assert journal.persist(Ready(hard_state=HardState(2, 1))) == ()
        assert [bool(job.batch) for job in queue.jobs] == [True, False, True]
        assert [job.messages for job in queue.jobs] == [(ack(1),), (ack(2),), ()]
        queue.done(3)
        assert [job.last.index if job.last else None for job in queue.durable] == [1, None, None]
        assert queue.durable[2].hard_state == HardState(2, 1)
        assert journal.persist(Ready(messages_after_persist=(ack(3),))) == (ack(3),)

    run(story())


def test_rows_ride_on_a_batch_of_entries_once_they_are_a_few() -> None:
    async def story() -> None:
        queue = Queue()
        for index in range(1, ROWS_IN_COMPANY):
            queue.journal.applied(index, Rows(revision=index + 1))
        queue.journal.persist(Ready(entries=entries(100)))
        assert queue.jobs[-1].batch.applied_index is None
        queue.journal.applied(ROWS_IN_COMPANY)
        queue.journal.persist(Ready(entries=entries(101)))
        assert queue.jobs[-1].batch.applied_index == ROWS_IN_COMPANY
        assert queue.jobs[-1].batch.revision == ROWS_IN_COMPANY
        queue.journal.persist(Ready(entries=entries(102)))
        assert queue.jobs[-1].batch.applied_index is None

    run(story())


def test_lonely_rows_go_by_themselves_soon() -> None:
    async def story() -> None:
        queue = Queue()
        with Stopwatch() as watch:
            queue.journal.applied(1, Rows(revision=2))
            await eventually(lambda: queue.jobs, "the flush")
            assert watch.seconds < 2
        assert (queue.jobs[0].batch.applied_index, queue.jobs[0].batch.revision) == (1, 2)
        await asyncio.sleep(0)
        assert len(queue.jobs) == 1

    run(story())


def test_closing_writes_what_is_applied_and_nothing_after() -> None:
    async def story() -> None:
        queue = Queue()
        queue.journal._database = cast(Database, type("File", (), {"close": None}))
        queue.journal.applied(1, Rows(revision=2))
        await queue.journal.close()
        assert queue.jobs[0].batch.applied_index == 1
        queue.journal.applied(2, Rows(revision=3))
        queue.journal.flush()
        assert len(queue.jobs) == 1

    run(story())
