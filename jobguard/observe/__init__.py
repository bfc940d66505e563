"""What an operator asks the store: who leads, who runs what, what is configured, and is it well.

Place in the house   the web UI, the REST API and the CLI  ->  observe  ->  client, records
Takes                a client; `stale=True` asks what one node remembers, for when there is no leader
Gives                frozen values whose JSON is the API's body and the CLI's `-o json`
Never                changes anything: that is operate.py
"""

from typing import TYPE_CHECKING

from jobguard.observe.changes import Change, schedule_changes
from jobguard.observe.cluster import Cluster, Member, cluster
from jobguard.observe.configuration import ConfigEntry, config, config_value
from jobguard.observe.deploys import Deploy, deploy
from jobguard.observe.holders import Held, Holder, Leader, Lock, leaders, lock, locks
from jobguard.observe.late import Late, late
from jobguard.observe.occurrences import VERDICTS, Run, Try, run, runs
from jobguard.observe.overview import Overview, overview
from jobguard.observe.reading import BadCursor, NotFound, Page, run_id, to_json
from jobguard.observe.refusals import Refusal, refusals
from jobguard.observe.schedules import Schedule, job_of, schedule, schedules, upcoming_fires

if TYPE_CHECKING:
    from jobguard.client import Client

__all__ = [
    "VERDICTS",
    "BadCursor",
    "Change",
    "Cluster",
    "ConfigEntry",
    "Deploy",
    "Held",
    "Holder",
    "Late",
    "Leader",
    "Lock",
    "Member",
    "NotFound",
    "Overview",
    "Page",
    "Refusal",
    "Run",
    "Schedule",
    "Try",
    "cluster",
    "config",
    "config_value",
    "confirm",
    "deploy",
    "job_of",
    "late",
    "leaders",
    "lock",
    "locks",
    "overview",
    "refusals",
    "run",
    "run_id",
    "runs",
    "schedule",
    "schedule_changes",
    "schedules",
    "to_json",
    "upcoming_fires",
]


def confirm(client: "Client") -> None:
    """Return if the store confirms a read, so that it has a leader. Raises Unavailable."""
    client.get(client.key("nothing"))
