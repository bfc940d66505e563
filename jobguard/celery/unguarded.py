"""A body that runs though nobody could be asked: the store was away, and its job says `run-unguarded`.

Place in the house   guard -> here -> current, claims
Takes                a delivery that could not be claimed
Gives                what the body gave; a verdict, left to the parent for when the store answers again
Never                lets it pass for a guarded run: it has no token, and fencing refuses it
"""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from celery.exceptions import Ignore, Reject, Retry
from celery.utils.log import get_logger

from jobguard import runs
from jobguard.celery import current
from jobguard.celery.child import HOST, Child
from jobguard.celery.claiming import Delivery
from jobguard.masking import error_text
from jobguard.records import Done, Verdict

logger = get_logger(__name__)


def run(child: Child, delivery: Delivery, why: str, body: Callable[[], Any]) -> Any:
    """Once for each delivery: another one of the same attempt runs it again."""
    logger.warning("%s runs unguarded: %s", delivery, why)
    started = datetime.now(UTC)

    def tell(verdict: Verdict, error: str = "") -> None:
        done = Done(
            job=delivery.header.job,
            nominal=delivery.occurrence.nominal,
            verdict=verdict,
            nonce=delivery.nonce,
            finished=datetime.now(UTC),
            reason=f"unguarded, as the store was away: {why}",
            task=delivery.task.name,
            n=delivery.header.n,
            r=delivery.r,
            host=HOST,
            pid=os.getpid(),
            worker=delivery.request.hostname or "",
            started=started,
            error=error,
        )
        step = runs.record_unguarded(child.keys, delivery.occurrence, delivery.header.n, delivery.r, done)
        child.leave(f"{delivery.nonce}-unguarded", step)

    token = current.enter(_without_token(delivery))
    try:
        result = body()
    except (Retry, Ignore, Reject):
        raise  # its message, or the leader's, comes again
    except Exception as error:
        tell(Verdict.FAILED, error_text(error))
        raise
    finally:
        current.leave(token)
    tell(Verdict.RAN)
    return result


def _without_token(delivery: Delivery) -> current.Run:
    return current.Run(
        job=delivery.header.job,
        nominal_time=delivery.occurrence.nominal,
        attempt=delivery.header.n,
        fencing_token=0,
        cluster_id=0,
        check_held=lambda: None,
    )
