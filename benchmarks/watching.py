"""How soon many watchers know of one writer's puts (watch_client.py)."""

import json

from benchmarks.results import Row
from benchmarks.session import Session, leader, module, output_of


def watch(session: Session) -> None:
    plan = session.plan
    for cluster in session.turns():
        for watchers in plan.watchers:
            command = module("watch_client", leader(cluster).url, watchers, plan.warm_up_s, plan.seconds)
            session.record(Row("watch", watchers), cluster.kind, json.loads(output_of(command)))
