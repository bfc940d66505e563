"""Current if the store has a leader; marked stale if one node answers from memory; an error if none does.

Place in the house   pages, api -> freshness -> jobguard.observe
Never                shows an old answer without saying so

A store without a leader answers linearizable reads with an error, late: so once it has failed, the next few
seconds go to the stale reading at once, and a page still comes quickly.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from flask import current_app, g

from jobguard.errors import OutcomeUnknown, Unavailable

if TYPE_CHECKING:
    from jobguard import Client

T = TypeVar("T")
NO_LEADER_REMEMBERED_S = 3.0


@dataclass
class Store:
    """The client, and when it last failed to get a confirmed answer."""

    client: "Client"
    failed_at: float = float("-inf")
    failure: str = ""


def store() -> Store:
    found: Store = current_app.extensions["jobguard_store"]
    return found


def look(question: Callable[..., T], *args: Any, **how: Any) -> T:
    """Ask; without a leader, ask again what a single node remembers, and mark this answer as stale."""
    known = store()
    if time.monotonic() - known.failed_at > NO_LEADER_REMEMBERED_S:
        try:
            return question(known.client, *args, **how)
        except (Unavailable, OutcomeUnknown) as error:
            known.failed_at, known.failure = time.monotonic(), sentence(str(error))
    g.stale_because = known.failure
    return question(known.client, *args, **how, stale=True)


def stale_because() -> str:
    """Why this request's answer may be out of date; empty when it is current."""
    return str(g.get("stale_because", ""))


def sentence(text: str) -> str:
    text = text.strip() or "the store did not answer"
    return text[0].upper() + text[1:].rstrip(".") + "."
