"""A member's file, opened: who it is, what it knows, and the thread that will write it.

Place in the house   replica -> opening -> writer, storage.database, cluster, joining
Takes                the flags
Gives                Opened, or a StartupError of one sentence with nothing left open
Never                lets flags and file disagree about the cluster or the member
"""

from __future__ import annotations

from dataclasses import dataclass

from jobguard_store.cluster import check_same_cluster, identity_from
from jobguard_store.config import NEW, NodeConfig
from jobguard_store.errors import StartupError
from jobguard_store.joining import join
from jobguard_store.storage.database import Database, Identity, Loaded
from jobguard_store.writer import Writer


@dataclass(frozen=True, slots=True)
class Opened:
    identity: Identity
    loaded: Loaded
    database: Database
    writer: Writer


async def open_file(config: NodeConfig) -> Opened:
    """All of it on the writer's thread, which the connection belongs to."""
    writer, database = Writer(), None
    try:
        database = await writer.call(lambda: Database.open(config.database_path))
        loaded = await writer.call(database.load)
        if loaded.expelled is not None:
            raise StartupError(loaded.expelled)
        identity = loaded.identity
        if identity is None:
            identity = found = (
                identity_from(config) if config.initial_cluster_state == NEW else await join(config)
            )
            await writer.call(lambda: database.found(found))
        check_same_cluster(identity, config)
    except BaseException:
        await writer.stop(database.close if database is not None else None)
        raise
    return Opened(identity, loaded, database, writer)
