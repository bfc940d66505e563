"""The state, cut from the file of a node at work, beside its writer.

Place in the house   departures, backups -> cutting -> storage (Cut)
Takes                a file, a path to write to; what the core calls the state after an entry
Gives                the state in a file of its own, and its name
Never                holds up the loop, or the process when it is to stop
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from jobguard_store.raft.messages import Snapshot
from jobguard_store.storage.database import Database

NameOf = Callable[[int], Snapshot | None]
"""The name of the state after an entry; None when the log has forgotten it."""


class Overtaken(Exception):
    """It has no name any more: the log was trimmed past it meanwhile."""


async def cut_state(database: Database, target: Path, name_of: NameOf) -> Snapshot:
    """Raises Overtaken, DiskFull."""
    cutting = asyncio.ensure_future(asyncio.to_thread(database.cut, target))
    try:
        cut = await asyncio.shield(cutting)
    except asyncio.CancelledError:
        await asyncio.wait((cutting,))  # its thread goes on, in the file that is the next one's
        if cutting.exception() is None:
            await asyncio.to_thread(cutting.result().close)
        raise
    copying = None
    try:
        name = name_of(cut.applied_index)
        if name is None:
            raise Overtaken("the log was trimmed past it")
        copying = asyncio.ensure_future(asyncio.to_thread(cut.copy, name))
        await asyncio.shield(copying)
    finally:
        if copying is not None and not copying.done():
            cut.interrupt()  # we are to stop, and its thread would keep us
            await asyncio.wait((copying,))
            copying.exception()  # looked at: that it was interrupted is no news
        await asyncio.to_thread(cut.close)
    return name
