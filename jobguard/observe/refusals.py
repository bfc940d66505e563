"""Who was told no: the deliveries that workers dropped lately, and who holds what they asked for.

Place in the house   the pages, the REST API and the CLI -> refusals -> reading, holders, records
Gives                frozen values; their JSON is the API's body
Never                promises to be complete: a worker keeps its last few, for as long as it lives

An occurrence that was refused as a whole (skipped, missed, late) is no delivery: it has its verdict.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from jobguard.observe.holders import Holder
from jobguard.observe.reading import Page, cut, read, run_id, under
from jobguard.records import Keys, ToldNo, decode
from jobguard.wire import KeyValue, RangeRequest, int64

if TYPE_CHECKING:
    from jobguard.client import Client

LATEST_MAX = 2000  # what is looked through: the last refusals of at least 125 workers


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery that was not run. Host, pid and worker are of the process that was told no.

    `holder` is who runs the occurrence, or has run it; null where nobody is in the way.
    """

    job: str
    nominal_time: datetime
    run_id: str
    attempt: int
    retry: int = 0
    task_id: str = ""
    reason: str
    why: str
    refused_at: datetime
    host: str
    pid: int
    worker: str = ""
    holder: Holder | None = None


def refusals(
    client: "Client",
    *,
    job: str | None = None,
    run: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
    stale: bool = False,
) -> Page[Refusal]:
    """A page of refusals, the latest first; of one job, or of the run with this id."""
    keys = Keys(client.namespace)
    snapshot = read(client, [latest_refusals(keys)], stale=stale)
    found = [
        each for each in told_no(snapshot.ranges[0]) if job in (None, each.job) and run in (None, each.run_id)
    ]
    shown, next_cursor = cut(found, [order(each) for each in found], limit, cursor)
    return Page(items=shown, next_cursor=next_cursor, revision=snapshot.revision, stale=stale)


def latest_refusals(keys: Keys, limit: int = LATEST_MAX) -> RangeRequest:
    return msgspec.structs.replace(
        under(keys.prefix("refusals")), sort_target="MOD", sort_order="DESCEND", limit=int64(limit)
    )


def told_no(kvs: Iterable[KeyValue]) -> list[Refusal]:
    """What is under refusals/, the latest first."""
    return sorted((refusal(decode(kv.value, ToldNo)) for kv in kvs), key=order)


def order(refusal: Refusal) -> str:
    """A text that is greater for the older of two."""
    younger = 10**16 - int(refusal.refused_at.timestamp() * 10**6)
    return f"{younger:016d} {refusal.worker} {refusal.pid} {refusal.task_id}"


def refusal(told: ToldNo) -> Refusal:
    holder = Holder(
        host=told.holder_host, pid=told.holder_pid, worker=told.holder_worker, fencing_token=told.token
    )
    return Refusal(
        job=told.job,
        nominal_time=told.nominal,
        run_id=run_id(told.occurrence),
        attempt=told.n,
        retry=told.r,
        task_id=told.task_id,
        reason=told.reason,
        why=sentence(told),
        refused_at=told.at,
        host=told.host,
        pid=told.pid,
        worker=told.worker,
        holder=holder if told.token else None,
    )


def sentence(told: ToldNo) -> str:
    attempt = f"attempt {told.n}" + (f", retry {told.r}" if told.r else "")
    held = f" ({told.holder_worker or told.holder_host}, token {told.token})" if told.token else ""
    return f"{told.worker or told.host} pid {told.pid} was told no for {attempt}: {told.text}{held}."
