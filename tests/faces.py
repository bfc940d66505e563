"""What the web UI and the CLI are shown in tests, as the client and the plugin write it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import msgspec

from jobguard import Client
from jobguard.records import Active, Attempt, Done, Keys, Occurrence, Open, Record, ToldNo, Verdict, encode

NOW = datetime.now(UTC).replace(microsecond=0)


def put(client: Client, key: bytes, record: Record, lease: int = 0) -> None:
    client.put(key, encode(record), lease)


def occurrence(job: str, seconds_ago: float = 0) -> Occurrence:
    return Occurrence(job, NOW - timedelta(seconds=seconds_ago))


@contextmanager
def queue(client: Client, name: str, contenders: int = 1) -> Iterator[None]:
    """The lock `name` held by the first of several contenders, each on a lease of its own."""
    leases = [client.grant(600).id for _ in range(contenders)]
    for number, lease in enumerate(leases):
        value = f'{{"host":"host-{number}","pid":{100 + number},"since":"2026-11-24T02:00:00.000Z"}}'
        client.put(client.key("locks", name, f"{lease:x}", f"nonce{number}"), value, lease)
    yield
    for lease in leases:
        client.revoke(lease)


def run_of(client: Client, job: str, *, n: int = 1, lease: int) -> Occurrence:
    """A run in the middle of its body: open, claimed, active on the worker's lease."""
    keys, run = Keys(client.namespace), occurrence(job, 5)
    active = Active(
        n=n, r=0, host="worker-1", pid=4242, nonce="x", since=NOW, worker="celery@w1", task_id=f"4711-{n}"
    )
    opened = Open(n=n, r=0, job=job, nominal=run.nominal, task="tasks.digest", published=1)
    put(client, keys.open(run), opened)
    put(client, keys.running(run), active)
    put(client, keys.active(run), active, lease)
    put(client, keys.attempt(run, n), Attempt(**msgspec.structs.asdict(active)))
    return run


def done(job: str, seconds_ago: float, verdict: Verdict = Verdict.RAN, reason: str = "") -> Done:
    run = occurrence(job, seconds_ago)
    ran = verdict in (Verdict.RAN, Verdict.FAILED)
    return Done(
        job=job,
        nominal=run.nominal,
        verdict=verdict,
        nonce="n",
        finished=run.nominal + timedelta(seconds=2),
        reason=reason,
        task="tasks.digest",
        n=1,
        host="worker-1" if ran else "",
        pid=4242 if ran else 0,
        token=77 if ran else 0,
        started=run.nominal if ran else None,
    )


def ended(client: Client, *records: Done) -> None:
    for each in records:
        put(client, Keys(client.namespace).done(each.occurrence), each)


def told_no(
    client: Client, run: Occurrence, *, slot: int = 0, seconds_ago: float = 0, token: int = 77
) -> None:
    """A second delivery of `run` that worker-2 dropped, as worker-1 runs it."""
    keys = Keys(client.namespace)
    told = ToldNo(
        job=run.job,
        nominal=run.nominal,
        n=1,
        task_id="4711",
        reason="running",
        text="already running on worker-1 pid 4242",
        at=NOW - timedelta(seconds=seconds_ago),
        worker="celery@w2",
        host="worker-2",
        pid=99,
        token=token,
        holder_host="worker-1",
        holder_pid=4242,
        holder_worker="celery@w1",
    )
    put(client, keys.refusal("celery@w2", slot), told, client.grant(600).id)
