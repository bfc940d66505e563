"""Who was told no: every delivery that was dropped, kept for people to see.

Place in the house   claiming leaves one -> the worker's directory -> the parent's errands write them
Takes                a delivery that was refused, and what stood in its way
Gives                refusals/<worker>/<slot> on the worker's lease, and gone with it
Never                makes a delivery wait or fail, is sent twice, or grows

A child leaves a small file and goes on: it calls nobody. The parent writes what was left in one transaction a
second, whatever storm of redeliveries there is. What finds no free file, no lease or no store is not kept:
nothing depends on it, and the log has it.
"""

import itertools
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from celery.utils.log import get_logger

from jobguard.celery.child import HOST, Child
from jobguard.celery.deadline import REFUSALS_MAX, WorkerDirectory
from jobguard.errors import JobguardError
from jobguard.ops import put_op
from jobguard.records import ToldNo, encode
from jobguard.runs import Refused

if TYPE_CHECKING:
    from jobguard.celery.burial import Store
    from jobguard.celery.claiming import Delivery

logger = get_logger(__name__)


def leave(child: Child, delivery: "Delivery", refused: Refused) -> None:
    """Leave it to the parent, in any process that runs bodies."""
    holder = (refused.holder or refused.done) if refused.token else None
    told = ToldNo(
        job=delivery.header.job,
        nominal=delivery.occurrence.nominal,
        n=delivery.header.n,
        r=delivery.r,
        task_id=delivery.request.id,
        reason=refused.reason,
        text=refused.text,
        at=datetime.now(UTC),
        worker=delivery.request.hostname or "",
        host=HOST,
        pid=child.pid,
        token=int(refused.token),
        holder_host=holder.host if holder else "",
        holder_pid=holder.pid if holder else 0,
        holder_worker=holder.worker if holder else "",
    )
    child.leave_refusal(delivery.nonce, encode(told))


class Ring:
    """A worker's last refusals in the store: what is new takes the place of what is oldest."""

    def __init__(self, store: "Store", directory: WorkerDirectory, worker: str) -> None:
        self._store, self._directory = store, directory
        slots = itertools.cycle(range(REFUSALS_MAX))
        self._keys = (store.keys.refusal(worker, slot) for slot in slots)

    def write(self, lease: int) -> None:
        """Write what children have left, once."""
        left = self._directory.take_refusals()
        if not left or not lease:
            return
        try:
            self._store.client.txn(
                success=[put_op(key, each, lease) for each, key in zip(left, self._keys, strict=False)]
            )
        except JobguardError as error:
            logger.info("jobguard: %d refusals are only in the log: %s", len(left), error)
