"""What every step of a leading beat shares: how it is sent, and what ends it.

Place in the house   leader, definitions, upkeep -> here -> steps, client
Never                decides which step to take
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from celery.utils.log import get_logger

from jobguard.client import Client
from jobguard.errors import OutcomeUnknown, Unavailable
from jobguard.steps import Deposed, Transaction, together

logger = get_logger("jobguard.beat")

T = TypeVar("T")

AFTER_FAILURE = timedelta(seconds=30)
LONG_AGO = datetime.min.replace(tzinfo=UTC)


class LeadLost(Exception):
    """Another beat leads, or none: drop everything and follow."""


class Stale(Exception):
    """The store holds something else than we remember: read it again before the next step."""


@contextmanager
def apart(what: str) -> Iterator[None]:
    """One job's trouble (a record of a newer version, a refusal, a bug) stays its own: the others go on.

    What concerns the whole term passes through.
    """
    try:
        yield
    except (LeadLost, Stale, Unavailable, OutcomeUnknown):
        raise
    except Exception:
        logger.exception("jobguard: %s is set aside for %d s", what, AFTER_FAILURE.total_seconds())


def send(client: Client, step: Transaction[T]) -> T:
    """Carry out a step. Raises LeadLost, Unavailable, OutcomeUnknown."""
    outcome = step.read(client.txn_until_known(step.compare, step.success, step.failure))
    if isinstance(outcome, Deposed):
        raise LeadLost
    return outcome


def send_all(client: Client, steps: Sequence[Transaction[T]]) -> list[T]:
    """Carry out steps that do not depend on each other, in one transaction. Raises as `send` does."""
    if len(steps) == 1:
        return [send(client, steps[0])]
    step = together(steps)
    outcomes = step.read(client.txn_until_known(step.compare, step.success, step.failure))
    if any(isinstance(outcome, Deposed) for outcome in outcomes):
        raise LeadLost
    return outcomes
