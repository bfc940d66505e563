"""The doctor's findings about messages: when a broker hands one out again, and when one is lost.

Place in the house   celery.doctor -> here -> kombu's connections, an app's settings
Takes                an app, its jobs, how long they have run
Gives                findings
Never                sends anything, or waits long for a broker that is away
"""

from collections.abc import Iterable, Iterator, Mapping

from celery import Celery

from jobguard.celery.optin import OPTION
from jobguard.doctor import Finding, failed, named, passed, warned

VISIBILITY_S = 3600.0  # kombu's default, for Redis; SQS has half an hour
_SQS_VISIBILITY_S = 1800.0
CONSUMER_TIMEOUT_S = 1800.0
"""RabbitMQ closes the channel of a consumer that has not acknowledged for so long."""

_ENOUGH = 2.0  # times the longest run seen: the next may take longer


def broker(app: Celery) -> Finding:
    with app.connection_for_write() as connection:
        where = connection.as_uri()
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=3)
        except Exception as error:  # noqa: BLE001 - each transport has errors of its own
            return failed("broker", f"{where} cannot be reached: {error}", "start it, or correct broker_url")
    return passed("broker", f"{where} answers")


def messages(app: Celery, planned: Mapping[str, str], longest: Mapping[str, float]) -> Iterator[Finding]:
    """`planned`: task by job. `longest`: seconds by job, of those that have run."""
    with app.connection_for_read() as connection:
        transport = connection.transport_cls
    late = {name: task for name, task in planned.items() if _acks_late(app, task)}
    yield from _redelivery(app, transport, late, longest)
    yield from _unguarded(app, transport, set(planned.values()))
    yield from _loss(app, late)
    if "amqp" in transport:
        yield from _confirm(app)
        yield from _countdown(app)


# --- handed out again ---------------------------------------------------------------------------


def handed_out_again_after(app: Celery, transport: str) -> tuple[float, str]:
    """Seconds until a message that is not acknowledged is given to another worker, and what sets them.

    Three settings hold the visibility timeout, and the shortest of them wins.
    """
    if "amqp" in transport:
        arguments = (queue.queue_arguments or {} for queue in app.amqp.queues.values())
        set_ms = [each["x-consumer-timeout"] for each in arguments if "x-consumer-timeout" in each]
        return min(set_ms, default=CONSUMER_TIMEOUT_S * 1000) / 1000, "RabbitMQ's consumer_timeout"
    options = (app.conf.broker_transport_options or {}, app.conf.result_backend_transport_options or {})
    chosen = [float(value) for each in (*options, app.conf) if (value := each.get("visibility_timeout"))]
    default = _SQS_VISIBILITY_S if transport == "sqs" else VISIBILITY_S
    return min(chosen, default=default), "visibility_timeout"


def _redelivery(
    app: Celery, transport: str, late: Mapping[str, str], longest: Mapping[str, float]
) -> Iterator[Finding]:
    after, setting = handed_out_again_after(app, transport)
    ran = {name: longest[name] for name in late if name in longest}
    fix = f"set {setting} above {_ENOUGH:.0f} times the longest run"
    over = {name for name, seconds in ran.items() if seconds >= after}
    near = {name for name, seconds in ran.items() if after / _ENOUGH <= seconds < after}
    for name in sorted(over):
        yield failed(
            "redelivery",
            f"{name} has run for {ran[name]:.0f} s, and its message is handed out again after {after:.0f} s. "
            "The guard drops the copy, and then the broker has none: only on_lost repeats a lost run",
            fix,
        )
    for name in sorted(near):
        yield warned(
            "redelivery",
            f"{name} has run for {ran[name]:.0f} s, and its message is handed out again after {after:.0f} s",
            fix,
        )
    if not over and not near:
        seen = f"the longest run seen took {max(ran.values()):.0f} s" if ran else "none of them has run yet"
        yield passed(
            "redelivery",
            f"{setting} is {after:.0f} s; jobs that acknowledge late: {len(late)}, {seen}"
            if late
            else f"{setting} is {after:.0f} s, and no job acknowledges late",
        )


def _unguarded(app: Celery, transport: str, scheduled: set[str]) -> Iterator[Finding]:
    """Tasks that nobody scheduled have no occurrence: what comes twice runs twice, unless it has a key."""
    after, setting = handed_out_again_after(app, transport)
    others = [
        task for name, task in app.tasks.items() if not name.startswith("celery.") and name not in scheduled
    ]
    longer = {
        task.name
        for task in others
        if task.acks_late and (task.time_limit or after + 1) > after and getattr(task, OPTION, None) is None
    }
    if longer:
        yield warned(
            "unguarded",
            f"{named(longer)}: acks_late, not scheduled, and nothing ends a run before its message is handed "
            f"out again ({setting}, {after:.0f} s): it would run twice at once",
            f"give the task a time_limit below it, or the option {OPTION}; jobguard guards no others but "
            "scheduled ones",
        )
    for_ever = {task.name for task in others if task.acks_late and task.reject_on_worker_lost}
    if for_ever:
        yield warned(
            "unguarded",
            f"{named(for_ever)}: reject_on_worker_lost, so a body that kills its process comes for ever",
            "schedule it (on_lost counts), or do without reject_on_worker_lost",
        )


# --- lost ---------------------------------------------------------------------------------------


def _loss(app: Celery, late: Iterable[str]) -> Iterator[Finding]:
    if app.conf.worker_cancel_long_running_tasks_on_connection_loss and late:
        yield warned(
            "acks",
            f"worker_cancel_long_running_tasks_on_connection_loss: a blip of the broker ends the bodies of "
            f"{named(late)}, and on_lost says what follows",
            "turn it off: the guard drops what the broker then hands out again",
        )
    else:
        yield passed("acks", "runs are recovered by on_lost, whatever was acknowledged")


def _confirm(app: Celery) -> Iterator[Finding]:
    if (app.conf.broker_transport_options or {}).get("confirm_publish"):
        yield passed("confirm", "RabbitMQ confirms what is published")
    else:
        yield warned(
            "confirm",
            "confirm_publish is off: a message that RabbitMQ lost counts as sent, until it is sent again",
            'set broker_transport_options = {"confirm_publish": True}',
        )


def _countdown(app: Celery) -> Iterator[Finding]:
    """A worker takes no more of a quorum queue than its prefetch count, however many of these wait for their
    time. RabbitMQ keeps them until then, but not for a direct exchange, which is Celery's default.
    """
    direct = {
        name
        for name, queue in app.amqp.queues.items()
        if (queue.queue_arguments or {}).get("x-queue-type") == "quorum" and queue.exchange.type == "direct"
    }
    if direct:
        yield warned(
            "countdown",
            f"{named(direct)}: a quorum queue of a direct exchange, so a retry with a countdown takes the "
            "place of other messages in its worker until it is due",
            'set task_default_exchange_type = "topic", or the type of the queue\'s own exchange',
        )


def _acks_late(app: Celery, task: str) -> bool:
    known = app.tasks.get(task)
    return bool(app.conf.task_acks_late if known is None else known.acks_late)
