"""The doctor's findings about the store and what is kept in it; those about a Celery app are celery.doctor's.

Place in the house   the CLI, celery.doctor -> here -> observe, client
Takes                a client
Gives                findings, in order: what was looked at, pass, warn or fail, and what to do
Never                changes anything, or lets one check that fails hide the others
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Literal

import msgspec

from jobguard import observe
from jobguard.client import Client
from jobguard.errors import JobguardError
from jobguard.ops import prefix_end
from jobguard.preview import preview
from jobguard.records import Active, Done, Keys, Schedule, Worker, decode
from jobguard.schedule import CLOCK_LIMIT_S, Cron, Times, times_of
from jobguard.wire import KeyValue

_CLOCK_WARN_S = 2.0  # the store tells whole seconds
_PATIENCE_S = 2.0
_RUNS_MAX = 2000
_NAMED_MAX = 5
_FIRES_LOOKED_AT = 500

Status = Literal["pass", "warn", "fail"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one look found. `check` is a lasting name; `fix` is empty where nothing is to be done."""

    check: str
    status: Status
    text: str
    fix: str = ""


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was looked at, and the worst of it."""

    worst: Status
    findings: list[Finding]


Check = Callable[[], Iterable[Finding]]


def diagnosis(findings: Iterable[Finding]) -> Diagnosis:
    found = list(findings)
    seen = {each.status for each in found}
    worst: Status = "fail" if "fail" in seen else "warn" if "warn" in seen else "pass"
    return Diagnosis(worst=worst, findings=found)


def passed(check: str, text: str) -> Finding:
    return Finding(check=check, status="pass", text=text)


def warned(check: str, text: str, fix: str) -> Finding:
    return Finding(check=check, status="warn", text=text, fix=fix)


def failed(check: str, text: str, fix: str) -> Finding:
    return Finding(check=check, status="fail", text=text, fix=fix)


def apart(check: str, look: Check) -> Iterator[Finding]:
    """One look; what it cannot find out is a finding, too."""
    try:
        yield from look()
    except JobguardError as error:
        yield failed(check, f"cannot be looked at: {error}", "see what stands above")


def named(names: Iterable[str]) -> str:
    """Some of the names, and how many more there are."""
    every = sorted(names)
    more = f" and {len(every) - _NAMED_MAX} more" if len(every) > _NAMED_MAX else ""
    return ", ".join(every[:_NAMED_MAX]) + more


# --- the store ----------------------------------------------------------------------------------


def of_store(client: Client) -> Iterator[Finding]:
    """The store, as this host sees it. Where no endpoint answers, that is all there is to say."""
    nodes = [client.at([url], timeout=_PATIENCE_S) for url in client.urls]
    with ThreadPoolExecutor(len(nodes)) as pool:
        silent = dict(zip(client.urls, pool.map(_trouble, nodes), strict=True))
    why = {url: trouble for url, trouble in silent.items() if trouble}
    if len(why) == len(nodes):
        yield failed(
            "endpoints",
            f"no endpoint answers: {'; '.join(f'{url}: {text}' for url, text in why.items())}",
            "start the store (jobguard store), or correct jobguard_endpoints",
        )
        return
    if why:
        yield warned(
            "endpoints",
            f"{len(nodes) - len(why)} of {len(nodes)} endpoints answer; not {named(why)}",
            "start that node again, or take its address out of jobguard_endpoints",
        )
    else:
        yield passed("endpoints", f"{len(nodes)} of {len(nodes)} endpoints answer")
    yield from apart("quorum", lambda: _quorum(client))
    yield from _clock(nodes)
    yield from apart("beats", lambda: _beats(client))
    yield from apart("dst", lambda: _clock_changes(client))


def _trouble(node: Client) -> str:
    try:
        node.status()
    except JobguardError as error:
        return str(error).rpartition("[Errno ")[2].partition("] ")[2] or str(error)
    return ""


def _quorum(client: Client) -> Iterator[Finding]:
    cluster = observe.cluster(client)
    voters = [member for member in cluster.members if not member.learner]
    match cluster.health:
        case "down":
            yield failed("quorum", cluster.summary, "start the nodes that do not answer")
        case "degraded":
            yield warned("quorum", cluster.summary, "start the nodes that do not answer")
        case "well" if len(voters) < 3:
            yield warned("quorum", cluster.summary, "three nodes survive the loss of one")
        case "well":
            yield passed("quorum", cluster.summary)
    versions = {member.version for member in cluster.members if member.version}
    if len(versions) > 1:
        yield warned("versions", f"the store's nodes run {named(versions)}", "finish the upgrade")
    else:
        yield passed("versions", f"jobguard {version('jobguard')}, store {named(versions)}")


def _clock(nodes: Iterable[Client]) -> Iterator[Finding]:
    """This host's clock beside that of every node that answered."""
    offsets = {node.urls[0]: offset for node in nodes if (offset := node.clock_offset()) is not None}
    url, offset = max(offsets.items(), key=lambda each: abs(each[1]))
    text = f"this host's clock is {abs(offset):.0f} s {'behind' if offset > 0 else 'ahead of'} that of {url}"
    fix = f"synchronise the clocks (NTP); a beat that is {CLOCK_LIMIT_S:.0f} s off does not lead"
    if abs(offset) > CLOCK_LIMIT_S:
        yield failed("clock", text, fix)
    elif abs(offset) > _CLOCK_WARN_S:
        yield warned("clock", text, fix)
    else:
        yield passed("clock", f"this host's clock agrees with {len(offsets)} of the store's nodes")


def _beats(client: Client) -> Iterator[Finding]:
    leader = next((each for each in observe.leaders(client).items if each.election == "beat"), None)
    if leader is None:
        yield failed(
            "beats",
            "no beat leads: nothing is planned",
            'start beats with beat_scheduler = "jobguard"; their log says why none stands for election',
        )
    elif not leader.standing_by:
        yield warned(
            "beats", f"{leader.where} leads and nobody stands by", "start a second beat on another host"
        )
    else:
        count = len(leader.standing_by)
        yield passed("beats", f"{leader.where} leads, {count} stand{'s' * (count == 1)} by")


def _clock_changes(client: Client) -> Iterator[Finding]:
    """Of the schedules made at run time; those of the code are known in full to its app alone."""
    made = list(_made(client))
    ambiguous = {
        each.job: f"{each.job} ({each.text}): {note}"
        for each in made
        if "dst" not in each.policy and (note := _note(each))
    }
    for job, text in ambiguous.items():
        yield warned(
            "dst", text, f"move it out of that hour, or say: jobguard schedules change {job} --dst once"
        )
    if made and not ambiguous:
        yield passed("dst", f"{len(made)} made at run time, and none falls where the clocks change unsaid")


def _note(schedule: Schedule) -> str:
    try:
        return clock_change(times_of(schedule.fingerprint))
    except ValueError:
        return ""  # times of later code, and left to it


def clock_change(times: Times) -> str:
    """The next of the times that the clocks make ambiguous, within what is looked at."""
    if not isinstance(times, Cron):
        return ""
    for fire in preview(times, datetime.now(UTC), _FIRES_LOOKED_AT):
        for note in fire.note.split("; "):
            if "does not exist" in note:
                return note
            if "comes twice" in note:
                return f"{fire.local:%Y-%m-%d} {note}"
    return ""


# --- what is kept in it -------------------------------------------------------------------------


def longest_runs(client: Client) -> dict[str, float]:
    """By job, the seconds of its longest run: of the last that ended, and of those that still run."""
    keys = Keys(client.namespace)
    longest: dict[str, float] = {}

    def count(job: str, seconds: float) -> None:
        longest[job] = max(longest.get(job, 0.0), seconds)

    for kv in _newest(client, keys.prefix("done")):
        done = decode(kv.value, Done)
        if done.started is not None:
            count(done.job, (done.finished - done.started).total_seconds())
    for kv in client.prefix(keys.prefix("active")).kvs:
        since = decode(kv.value, Active).since
        count(keys.occurrence(kv.key).job, (datetime.now(UTC) - since).total_seconds())
    return longest


def _newest(client: Client, prefix: bytes) -> Iterable[KeyValue]:
    return client.range(
        prefix, prefix_end(prefix), limit=_RUNS_MAX, sort_target="MOD", sort_order="DESCEND"
    ).kvs


def tasks_of_made(client: Client) -> dict[str, str]:
    """By job, the tasks of the schedules that were made at run time: no code names them."""
    return {each.job: each.task for each in _made(client)}


def _made(client: Client) -> Iterator[Schedule]:
    for kv in client.prefix(Keys(client.namespace).prefix("schedules")).kvs:
        try:
            schedule = decode(kv.value, Schedule)
        except msgspec.DecodeError:
            continue  # newer code's, and left to it
        if schedule.made:
            yield schedule


def guarding_workers(client: Client) -> dict[str, Worker]:
    """By Celery's node name, the workers that say that they guard."""
    keys = Keys(client.namespace)
    found = (decode(kv.value, Worker) for kv in client.prefix(keys.prefix("workers")).kvs)
    return {worker.worker: worker for worker in found}
