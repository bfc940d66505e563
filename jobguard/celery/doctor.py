"""The doctor's findings about a Celery app: settings, schedule, tasks, and the workers and beats that run it.

Place in the house   celery.commands -> here -> doctor, entries, sweep; Celery's remote control
Takes                an app, a client
Gives                findings
Never                starts a worker's machinery, or asks who cannot answer
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import celery
import celery.beat
from celery import Celery

from jobguard.celery.beat import Scheduler
from jobguard.celery.entries import Job, jobs
from jobguard.celery.guard import Guard
from jobguard.celery.optin import OPTION
from jobguard.celery.sweep import CannotGuard, sweep
from jobguard.celery.transports import broker, messages
from jobguard.celery.worker import Guarding
from jobguard.client import Client
from jobguard.doctor import (
    Finding,
    clock_change,
    failed,
    guarding_workers,
    longest_runs,
    named,
    of_store,
    passed,
    tasks_of_made,
    warned,
)
from jobguard.errors import ConfigurationError
from jobguard.policy import DEFAULTS
from jobguard.records import Worker
from jobguard.settings import Settings

_STOCK_FILE_FRESH_S = 600.0  # stock beat writes its file every three minutes
_INSPECT_S = 1.0
_KEEPS_CLAIMS = "prefork"


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers: what they answered, and what they have put into the store."""

    answered: Mapping[str, Mapping[str, Any]]  # by node name: its settings
    tasks: Mapping[str, Iterable[str]]
    guarding: Mapping[str, Worker]


def of_app(app: Celery, client: Client) -> Iterator[Finding]:
    """The store first: without it, what is known of an app is only what it says of itself."""
    from_store = list(of_store(client))
    yield from from_store
    store_answers = from_store[0].status != "fail"
    yield from _versions()
    yield from _install(app)
    yield from _guardable(app)
    yield from _always_eager(app)
    yield from _protocol(app)
    planned: dict[str, Job] = {}
    try:
        planned = _planned(app)
    except ConfigurationError as error:
        yield failed("schedule", str(error), "correct the entry or its policy")
    else:
        yield from _schedule(app, planned)
    from_broker = broker(app)
    yield from_broker
    broker_answers = from_broker.status != "fail"
    fleet = _fleet(app, client, store_answers, broker_answers)
    if broker_answers:
        yield from _workers(fleet, store_answers)
    yield from _pools(fleet)
    if store_answers:
        yield from turns(app, fleet)
    tasks = {name: job.task for name, job in planned.items()}
    tasks |= tasks_of_made(client) if store_answers else {}
    yield from _tasks(tasks, fleet)
    yield from _schedulers(app, fleet, broker_answers)
    yield from messages(app, tasks, longest_runs(client) if store_answers else {})


# --- the app ------------------------------------------------------------------------------------


def _versions() -> Iterator[Finding]:
    have = tuple(int(part) for part in celery.__version__.split(".")[:2])
    if (5, 5) <= have < (6, 0):
        yield passed("celery", f"Celery {celery.__version__}, Python {sys.version.split()[0]}")
    else:
        yield failed(
            "celery", f"Celery {celery.__version__} is not supported", "use Celery 5.5 or newer, below 6"
        )


def _install(app: Celery) -> Iterator[Finding]:
    if Guarding in app.steps["worker"]:
        yield passed("install", f"jobguard.install was called on app {app.main or app!r}")
    else:
        yield failed(
            "install",
            "jobguard.install(app) was not called: workers of this app guard nothing",
            "call jobguard.install(app) in the module that makes the app",
        )


def _guardable(app: Celery) -> Iterator[Finding]:
    """As a worker does when it boots; this process ends before it could matter."""
    app.loader.import_default_modules()
    try:
        sweep(app, Guard(app))
    except CannotGuard as error:
        yield failed("guardable", str(error), "give the task a class of its own that can be changed")
    else:
        yield passed("guardable", f"{len(app.tasks)} tasks, and each can be guarded")


def _always_eager(app: Celery) -> Iterator[Finding]:
    if app.conf.task_always_eager:
        yield failed(
            "eager",
            "task_always_eager is on: beat would run the bodies itself, past every guard",
            "leave it to tests; jobguard.testing has a run for them",
        )


def _protocol(app: Celery) -> Iterator[Finding]:
    if app.conf.task_protocol != 2:
        yield failed(
            "protocol",
            f"task_protocol is {app.conf.task_protocol}: its messages do not carry the headers a guard needs",
            "set task_protocol = 2, Celery's default",
        )


# --- the schedule -------------------------------------------------------------------------------


def _planned(app: Celery) -> dict[str, Job]:
    """Every entry as beat would plan it. Raises ConfigurationError."""
    settings = Settings.from_app(app)
    stock = celery.beat.Scheduler(app, lazy=True)
    stock.merge_inplace(app.conf.beat_schedule)
    stock.install_default_entries(stock.schedule)
    return jobs(app, stock.schedule, settings)


def _schedule(app: Celery, planned: Mapping[str, Job]) -> Iterator[Finding]:
    chosen = Settings.from_app(app).jobs
    ambiguous = {
        name: note
        for name, job in planned.items()
        if "dst" not in {**chosen.get(DEFAULTS, {}), **chosen.get(name, {})}
        and (note := clock_change(job.times))
    }
    for name, note in sorted(ambiguous.items()):
        yield warned(
            "dst",
            f"{name} ({planned[name].times.text}): {note}",
            f'move it out of that hour, or say: jobguard_jobs = {{"{name}": {{"dst": "once"}}}}',
        )
    if not ambiguous:
        yield passed("dst", f"{len(planned)} jobs, and none falls where the clocks change without a policy")


# --- the workers --------------------------------------------------------------------------------


def _fleet(app: Celery, client: Client, store_answers: bool, broker_answers: bool) -> Fleet:
    """What remote control and the store tell, each where it can be asked."""
    ask = app.control.inspect(timeout=_INSPECT_S)
    answered = (ask.conf(with_defaults=True) or {}) if broker_answers else {}
    return Fleet(
        answered=answered,
        tasks=(ask.registered() or {}) if answered else {},
        guarding=guarding_workers(client) if store_answers else {},
    )


def _workers(fleet: Fleet, store_answers: bool) -> Iterator[Finding]:
    if not fleet.answered:
        yield warned("workers", "no worker answers", "start one; with remote control off nobody can be asked")
        return
    if not store_answers:
        return
    unguarded = fleet.answered.keys() - fleet.guarding.keys()
    if unguarded:
        yield failed(
            "workers",
            f"{named(unguarded)} answer{'s' * (len(unguarded) == 1)} and guard{'s' * (len(unguarded) == 1)} "
            "nothing: what they take may run twice",
            "call jobguard.install(app) there, with the same endpoints and namespace",
        )
    else:
        count = len(fleet.answered)
        yield passed("workers", "1 answers, and guards" if count == 1 else f"{count} answer, and all guard")
    versions = {worker.version for worker in fleet.guarding.values()}
    if len(versions) > 1:
        yield warned("worker-versions", f"the workers run jobguard {named(versions)}", "finish the upgrade")


def _pools(fleet: Fleet) -> Iterator[Finding]:
    """Elsewhere a body cannot be killed in time, and in threads and solo one that keeps the interpreter busy
    keeps the lease's renewal from it, too.
    """
    others = {node: worker.pool for node, worker in fleet.guarding.items() if worker.pool != _KEEPS_CLAIMS}
    if others:
        yield warned(
            "pools",
            f"bodies cannot be stopped on {named(f'{node} ({pool})' for node, pool in others.items())}: one "
            "that outlives its lease is told (check() raises) and fenced, no more",
            "run scheduled jobs in a prefork worker, or fence their writes (jobguard.fencing)",
        )
    elif fleet.guarding:
        yield passed(
            "pools", "all workers that guard are prefork: a body is stopped before its lease passes on"
        )


def turns(app: Celery, fleet: Fleet) -> Iterator[Finding]:
    """Tasks that ask for their turn, on workers that know the tasks and not the option."""
    asking = {name for name, task in app.tasks.items() if getattr(task, OPTION, None) is not None}
    knowing = {node: asking & _named_tasks(tasks) for node, tasks in fleet.tasks.items()}
    giving = {node for node, worker in fleet.guarding.items() if worker.turns}
    without = {node: tasks for node, tasks in knowing.items() if tasks and node not in giving}
    if without:
        yield failed(
            "turns",
            f"{named(without)} would run {named(set().union(*without.values()))} without a turn: jobguard is "
            f"not installed there, or older than the task option {OPTION}",
            "upgrade jobguard there, and call jobguard.install(app), before you send such a task",
        )
    elif any(knowing.values()):
        yield passed("turns", f"each worker that knows {named(asking)} gives it its turn")


def _named_tasks(told: Iterable[str]) -> set[str]:
    """Remote control tells some of a task's options behind its name."""
    return {task.split(" ")[0] for task in told}


def _tasks(wanted: Mapping[str, str], fleet: Fleet) -> Iterator[Finding]:
    """`wanted`: by job."""
    if not fleet.tasks or not wanted:
        return
    known = {task for tasks in fleet.tasks.values() for task in _named_tasks(tasks)}
    unknown = {
        name: task
        for name, task in wanted.items()
        if task not in known and not task.startswith("celery.")  # they do not tell what Celery brings
    }
    for name, task in sorted(unknown.items()):
        yield failed(
            "tasks",
            f"{name}: no worker that answers knows task {task}",
            "import its module in the workers (imports, include), or correct the schedule",
        )
    if not unknown:
        yield passed("tasks", f"the tasks of all {len(wanted)} jobs are known to a worker")


# --- other schedulers ---------------------------------------------------------------------------


def _schedulers(app: Celery, fleet: Fleet, broker_answers: bool) -> Iterator[Finding]:
    """Whatever else may publish the same schedule, without an occurrence's identity."""
    looks = (*_OTHERS, _redbeat_leads) if broker_answers else _OTHERS
    found = [finding for look in looks for finding in look(app, fleet)]
    yield from found
    if not found:
        yield passed("schedulers", "no other scheduler is set or seen")


def _another_is_set(app: Celery, _: Fleet) -> Iterator[Finding]:
    if not _is_ours(app.conf.beat_scheduler):
        yield failed(
            "schedulers",
            f"beat_scheduler is {app.conf.beat_scheduler!r}: a beat of this app publishes unguarded messages",
            'set beat_scheduler = "jobguard"',
        )


def _another_is_set_elsewhere(_: Celery, fleet: Fleet) -> Iterator[Finding]:
    others = {
        node: conf["beat_scheduler"]
        for node, conf in fleet.answered.items()
        if not _is_ours(conf.get("beat_scheduler", "jobguard"))
    }
    if others:
        yield warned(
            "schedulers",
            f"set differently on {named(f'{node} ({name})' for node, name in others.items())}: a beat beside "
            "it would publish everything a second time, unguarded",
            "roll out the same configuration everywhere",
        )


def _stock_beat_wrote(app: Celery, _: Fleet) -> Iterator[Finding]:
    path = Path(app.conf.beat_schedule_filename)
    ages = [time.time() - each.stat().st_mtime for each in path.parent.glob(f"{path.name}*")]
    if ages and min(ages) < _STOCK_FILE_FRESH_S:
        yield failed(
            "schedulers",
            f"a stock beat wrote {path} {min(ages):.0f} s ago: it publishes the same schedule",
            "stop it, and delete the file",
        )


def _redbeat_leads(app: Celery, _: Fleet) -> Iterator[Finding]:
    """Its lock is in the broker's Redis unless it was told otherwise."""
    key = app.conf.get("redbeat_lock_key") or f"{app.conf.get('redbeat_key_prefix') or 'redbeat:'}:lock"
    with app.connection_for_read() as connection:
        held = "redis" in connection.transport_cls and connection.default_channel.client.exists(key)
    if held:
        yield failed("schedulers", f"a redbeat scheduler holds {key}", "stop that beat")


def _django_has_another(_: Celery, __: Fleet) -> Iterator[Finding]:
    apps = sys.modules.get("django.apps")
    if apps is not None and apps.apps.ready and apps.apps.is_installed("django_celery_beat"):
        yield warned(
            "schedulers",
            "django_celery_beat is installed: jobguard's beat does not read its tables",
            "move its periodic tasks to beat_schedule, and stop beats with its DatabaseScheduler",
        )


_OTHERS: tuple[Callable[[Celery, Fleet], Iterator[Finding]], ...] = (
    _another_is_set,
    _another_is_set_elsewhere,
    _stock_beat_wrote,
    _django_has_another,
)


def _is_ours(scheduler: object) -> bool:
    path = Scheduler.__module__, Scheduler.__qualname__
    return scheduler in ("jobguard", Scheduler, ":".join(path), ".".join(path))
