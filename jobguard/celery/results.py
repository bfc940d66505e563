"""Results twice told: what a second delivery of a completed attempt may have to give.

Place in the house   guard, claiming, request -> here -> celery's result backend
Takes                a task and its request
Gives                the result as the verdict keeps it; whether Celery needs it again
Never                stores what a body gave

A child may die after our verdict is recorded and before Celery has stored the result, called the links and
gone on with the chain. So the verdict keeps what those would need.
"""

from typing import Any

import msgspec
from celery.app.task import Context
from celery.backends.base import DisabledBackend
from celery.states import READY_STATES

RESULT_BYTES_MAX = 4 * 1024
LINKED_RESULT_BYTES_MAX = 64 * 1024  # a lost one stops a chain, so more is kept


def kept(task: Any, request: Context, result: Any) -> str | None:
    """The JSON of a result; None where nobody will ask for it, or it is too large or no JSON."""
    linked = _has_links(request)
    if not linked and not _is_stored(task, request):
        return None
    try:
        encoded = msgspec.json.encode(result)
    except (TypeError, ValueError, OverflowError):
        return None
    largest = LINKED_RESULT_BYTES_MAX if linked else RESULT_BYTES_MAX
    return encoded.decode() if len(encoded) <= largest else None


def is_settled(task: Any, request: Context) -> bool:
    """Whether Celery has got all it will ask for: the result is there, or nobody keeps one and nothing
    follows.
    """
    if not _is_stored(task, request):
        return not _has_links(request)
    return task.backend.get_task_meta(request.id)["status"] in READY_STATES


def fail(task: Any, request: Context, error: Exception) -> None:
    """After Celery has stored another state: nobody will end what somebody may wait for."""
    task.backend.mark_as_failure(request.id, error, request=request, store_result=_is_stored(task, request))


def ignores_result(task: Any, request: Context) -> bool:
    """What the message says, and where it says nothing, what the task says."""
    asked = vars(request).get("ignore_result")  # the attribute of the class would always answer
    return bool(task.ignore_result if asked is None else asked)


def _is_stored(task: Any, request: Context) -> bool:
    return not ignores_result(task, request) and not isinstance(task.backend, DisabledBackend)


def _has_links(request: Context) -> bool:
    return bool(request.callbacks or request.chain or request.chord)
