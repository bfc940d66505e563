"""A cluster that begins anew: from a backup, or with the one member that is left.

Place in the house   commands -> anew -> storage, machine
Takes                a backup and the new member's flags; or the data of a member whose cluster has no quorum
Gives                a file to start a node on, as a member of another cluster; or a one-sentence StartupError
Never                goes on where the old cluster stopped: its clients could not tell the two apart

Some clients saw more of the old cluster than there is here: a write that is lost, an event that never was.
So ids are others, and the revision jumps farther than the old cluster can have come; what is before it is
compacted. Whoever resumes a watch is told so and reads anew, and every new fencing token is larger than all
that were ever given.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from jobguard_store.cluster import new_cluster_id, restored_identity
from jobguard_store.config import NodeConfig
from jobguard_store.errors import StartupError, TooOld
from jobguard_store.machine.apply import Machine
from jobguard_store.machine.commands import LEVEL, decode
from jobguard_store.members import about, founders
from jobguard_store.raft import Configuration, Member
from jobguard_store.raft.messages import EntryId, EntryKind, Snapshot
from jobguard_store.storage import file, meta, snapshot
from jobguard_store.storage.batch import Batch
from jobguard_store.storage.damage import DiskFull, explained
from jobguard_store.storage.database import Database, Loaded
from jobguard_store.storage.meta import to_hex

REVISIONS_SKIPPED = 1_000_000_000
"""Ten thousand writes a second make as many in a day: a nightly backup is not overtaken."""
REVISIONS_SKIPPED_MAX = 10**15
"""A store begins anew some thousands of times before its revisions reach 2^63."""

_DIGEST_BYTES = sha256().digest_size
_COPY_BYTES = 1 << 20
_BATCH_ENTRIES = 1000
_UNFINISHED = "recover was cut off: run jobguard store recover --force-new-cluster again."


# --- from a backup ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begun:
    """What a member of a new cluster begins with."""

    cluster_id: int
    revision: int
    keys: int
    leases: int


def restore(backup: Path, config: NodeConfig, skipped: int = REVISIONS_SKIPPED) -> Begun:
    """Make `config`'s file out of `backup`. To be done once for every member, with the same backup.

    Where it was cut off it may be called again: what it left behind is not in its way.
    """
    base = config.database_path
    try:
        if _is_taken(base):
            raise StartupError(
                f"{config.data_dir} is not empty: give the restored member a --data-dir of its own."
            )
        with file.lock(base):
            return _restore(backup, config, skipped)
    except snapshot.Unfit as unfit:
        raise StartupError(f"{backup} is not a backup that this build can restore ({unfit}).") from unfit
    except DiskFull:
        raise StartupError(f"the disk of {config.data_dir} is too small for {backup}.") from None
    except OSError as error:
        raise StartupError(f"{backup} cannot be restored: {error}.") from error
    except DBAPIError as error:
        raise StartupError(f"{backup} cannot be restored: {error.orig}.") from error


def _is_taken(base: Path) -> bool:
    """By anything but what an earlier `restore` leaves if it does not come to its end."""
    ours = (f"{base.name}.lock", file.arriving(base).name)
    return base.parent.exists() and any(each.name not in ours for each in base.parent.iterdir())


def _restore(backup: Path, config: NodeConfig, skipped: int) -> Begun:
    base = config.database_path
    arrived = file.arriving(base)
    try:
        digest = _copy(backup, arrived)
        staged = snapshot.stage(arrived, None)
        identity = restored_identity(config, digest, skipped)
        level = staged.name.configuration.level
        if level > LEVEL:
            raise TooOld(str(backup), level, LEVEL)
        name = replace(staged.name, configuration=replace(founders(identity), level=level))
        revision = staged.row.revision + skipped
        row = replace(
            meta.with_state_of(meta.NEW, staged.row),
            cluster_id=to_hex(identity.cluster_id),
            member_id=to_hex(identity.member_id),
            name=identity.name,
            initial_members="[]",  # they are in the configuration
            term=staged.name.last.term,
            **meta.anew(name, revision),
        )
        snapshot.make_ones_own(staged, row, {}, alarms={})
        os.rename(arrived, base)
        file.sync_folder(base)
    finally:
        file.remove(arrived)
    machine = staged.machine
    return Begun(identity.cluster_id, revision, len(machine.keys), len(machine.lease_ids()))


def _copy(backup: Path, target: Path) -> bytes:
    """Without the digest at its end, which it returns. Raises StartupError, OSError."""
    digest = sha256()
    with backup.open("rb") as source, target.open("wb") as copy:
        left = os.fstat(source.fileno()).st_size - _DIGEST_BYTES
        while left > 0 and (data := source.read(min(left, _COPY_BYTES))):
            left -= len(data)
            digest.update(data)
            copy.write(data)
        if left or source.read() != digest.digest():
            raise StartupError(
                f"{backup} is not a whole backup, its checksum does not match: use another copy."
            )
    return digest.digest()


# --- with the one that is left ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Survivor:
    """What the member's data has to offer."""

    name: str
    member_id: int
    cluster_id: int
    others: tuple[str, ...]
    term: int
    last: EntryId
    applied: int
    revision: int
    keys: int
    leases: int
    turned_away: str | None


def examine(data_dir: Path) -> Survivor:
    with _opened(data_dir) as (_, loaded):
        identity = loaded.identity
        assert identity is not None
        configuration, machine = _configurations(loaded)[-1], loaded.machine
        _apply_the_rest(loaded, Batch())
        others = (member for member in configuration.members if member.id != identity.member_id)
        return Survivor(
            name=identity.name,
            member_id=identity.member_id,
            cluster_id=identity.cluster_id,
            others=tuple(sorted(about(member).name or f"{member.id:x}" for member in others)),
            term=loaded.hard_state.term,
            last=_last(loaded),
            applied=loaded.applied_index,
            revision=machine.revision,
            keys=len(machine.keys),
            leases=len(machine.lease_ids()),
            turned_away=loaded.expelled,
        )


def recover(data_dir: Path, skipped: int = REVISIONS_SKIPPED) -> Begun:
    """Make the member the only one of a new cluster, with all of its log: what is in it may be committed."""
    with _opened(data_dir) as (database, loaded):
        identity = loaded.identity
        assert identity is not None
        # What is applied may never have been committed: from here on it is no member of the old cluster.
        database.expel(_UNFINISHED)
        _apply_the_rest(loaded, Batch(), database)
        while database.index():
            pass
        said = _configurations(loaded)
        ours = [found for each in said if (found := each.member(identity.member_id)) is not None]
        data = ours[-1].data if ours else b""  # also if we were removed since: where we are reached is in it
        gone = {*said[-1].removed, *said[-1].ids} - {identity.member_id}
        us = Member(identity.member_id, True, data)
        alone = Configuration((us,), tuple(sorted(gone)), said[-1].level)
        cluster_id, revision = new_cluster_id(), loaded.machine.revision + skipped
        database.begin_anew(cluster_id, Snapshot(_last(loaded), alone), revision)
        while database.trim():
            pass
        machine = loaded.machine
        return Begun(cluster_id, revision, len(machine.keys), len(machine.lease_ids()))


@contextmanager
def _opened(data_dir: Path) -> Iterator[tuple[Database, Loaded]]:
    base = NodeConfig(data_dir=data_dir).database_path
    with explained(base):
        there = data_dir.is_dir() and file.generation(base, file.newest_generation(base)).exists()
    if not there:
        raise StartupError(f"{data_dir} holds no member: --data-dir is that of the one that is left.")
    database = Database.open(base)
    try:
        with explained(base):
            loaded = database.load()
            with closing(database.inspection()) as inspection:
                inspection.walk()  # there is no other copy to fall back on once this one is a cluster's
            if loaded.identity is None:
                raise StartupError(f"{data_dir} holds a member that never was in a cluster.")
            if (level := _configurations(loaded)[-1].level) > LEVEL:
                raise TooOld(str(data_dir), level, LEVEL)
            yield database, loaded
    except DiskFull:
        raise StartupError(f"the disk of {data_dir} is full: make room first.") from None
    finally:
        database.close()


def _last(loaded: Loaded) -> EntryId:
    return loaded.entries[-1].id if loaded.entries else loaded.base


def _configurations(loaded: Loaded) -> list[Configuration]:
    """All that the log knows of, the newest last."""
    assert loaded.identity is not None
    said = [Configuration.decode(entry.data) for entry in loaded.entries if entry.kind is EntryKind.CONFIG]
    return [loaded.configuration or founders(loaded.identity), *said]


def _apply_the_rest(loaded: Loaded, batch: Batch, database: Database | None = None) -> None:
    """Of the log, into the machine; and into the file, if there is one to write to."""
    machine: Machine = loaded.machine
    for entry in loaded.entries[loaded.applied_index - loaded.base.index :]:
        rows = None
        if entry.kind is EntryKind.NORMAL:
            origin, command = decode(entry.data)
            rows = machine.apply(command, entry.term, origin.caller).rows
        batch.apply(entry.index, rows)
        if database is not None and len(batch.events) >= _BATCH_ENTRIES:
            database.write(batch)
            batch = Batch()
    if database is not None and batch:
        database.write(batch)
