"""The first page as one reading: who leads, who runs what, who was told no, what is configured.

Place in the house   the pages -> overview -> holders, occurrences, configuration, cluster
"""

from typing import TYPE_CHECKING

import msgspec

from jobguard.observe.cluster import Cluster, cluster
from jobguard.observe.configuration import ConfigEntry, config_entry
from jobguard.observe.holders import (
    Leader,
    Lock,
    election_leaders,
    held_locks,
    with_leases,
)
from jobguard.observe.occurrences import Run, ended_run, open_runs
from jobguard.observe.reading import read, under
from jobguard.observe.refusals import Refusal, latest_refusals, told_no
from jobguard.records import Keys, Verdict
from jobguard.wire import int64

if TYPE_CHECKING:
    from jobguard.client import Client

RECENT = 12
LOOKED_THROUGH = 100  # of the latest verdicts, to find those that did not start
SHOWN = 5
NOT_STARTED = {Verdict.SKIPPED, Verdict.MISSED, Verdict.LATE, Verdict.EXPIRED, Verdict.UNCLAIMED}


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator wants to know first. All but the cluster and the leases is as of one revision."""

    leaders: list[Leader]
    running: list[Run]
    told_no: list[Refusal]
    not_started: list[Run]
    config: list[ConfigEntry]
    locks: list[Lock]
    locks_held: int
    recent: list[Run]
    cluster: Cluster
    revision: int
    stale: bool = False


def overview(client: "Client", *, stale: bool = False) -> Overview:
    keys = Keys(client.namespace)
    latest = msgspec.structs.replace(
        under(keys.prefix("done")), sort_target="MOD", sort_order="DESCEND", limit=int64(LOOKED_THROUGH)
    )
    prefixes = ("locks", "active", "open", "running", "elections", "config")
    asked = [*(under(keys.prefix(each)) for each in prefixes), latest, latest_refusals(keys, LOOKED_THROUGH)]
    snapshot = read(client, asked, stale=stale)
    contended, active, opened, running, elections, config, done, refused = snapshot.ranges
    locks = held_locks(keys, contended, active)
    ended = [ended_run(keys, kv) for kv in done]
    return Overview(
        leaders=with_leases(client, election_leaders(keys, elections), stale),
        running=open_runs(keys, opened, running, active)[:SHOWN],
        told_no=told_no(refused)[:SHOWN],
        not_started=[run for run in ended if run.verdict in NOT_STARTED][:SHOWN],
        config=[config_entry(keys, kv) for kv in config],
        locks=with_leases(client, locks[:SHOWN], stale),
        locks_held=len(locks),
        recent=ended[:RECENT],
        cluster=cluster(client),
        revision=snapshot.revision,
        stale=stale,
    )
