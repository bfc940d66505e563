"""Space is given back while a member may crash at any moment: nothing that can still be read goes with it."""

import subprocess
import sys
from pathlib import Path

from jobguard_store.machine.commands import (
    AlarmKind,
    Compact,
    DeleteRange,
    GrantLease,
    Put,
    RaiseAlarm,
    Range,
)
from jobguard_store.machine.results import HistoricRange
from tests.storage.member import Member

GIVE_BACK = """
import itertools, os, shutil, signal, sys
from pathlib import Path
from jobguard_store.raft.configuration import Configuration
from jobguard_store.raft.messages import EntryId, Snapshot
from jobguard_store.storage import index, raft_log, state
from jobguard_store.storage.database import Database

# Copies of `folder` in `crashed`, each after a crash one step later than the one before; the last after
# none. A step is a line of one of these functions.
folder, crashed, base = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
functions = (
    Database.compact, Database.index, Database.reclaim, Database.rebase, Database.trim,
    Database._commit_meta, state.sweep, raft_log.trim,
)
watched = {function.__code__ for function in functions}
state._SWEEP_ROWS = 8
index.SLICE_ROWS = 16

def give_back(path, fatal):
    database = Database.open(path)
    database.load()
    steps = itertools.count(1)

    def step(frame, event, argument):
        if frame.f_code not in watched:
            return None
        if event == "line" and next(steps) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return step

    sys.settrace(step)
    database.rebase(Snapshot(EntryId(3, base), Configuration.of((1, 2, 3))))
    while database.trim(): pass
    while database.compact(): pass
    while database.reclaim(6): pass
    os._exit(0)

for fatal in itertools.count(1):
    shutil.copytree(folder, crashed / f"{fatal:04}")
    child = os.fork() or give_back(crashed / f"{fatal:04}" / "node.sqlite", fatal)
    if os.waitpid(child, 0)[1] != signal.SIGKILL:
        break
"""


def test_a_crash_at_any_step_of_giving_space_back_loses_nothing(member: Member, tmp_path: Path) -> None:
    member.do(GrantLease(5, 60), Put(b"leased", b"x", 5))
    for number in range(5):
        member.do(Put(b"k", b"%d" % number * 3000), Put(b"gone", b"x"), DeleteRange(b"gone"))
    compacted = member.machine.revision - 4
    member.do(Compact(compacted), RaiseAlarm(7, AlarmKind.NOSPACE))
    member.flush()
    state, hashed = member.machine.fingerprint(), hashes(member, compacted)
    last, folder = member.index, member.path.parent
    member.database.close()
    crashed = tmp_path / "crashed"
    told = [str(each) for each in (folder, crashed, last - 3)]
    subprocess.run([sys.executable, "-c", GIVE_BACK, *told], timeout=280, check=True)

    copies = sorted(crashed.iterdir())
    assert len(copies) > 50
    for copy in copies:
        found = Member(copy / "node.sqlite")
        assert (found.machine.fingerprint(), found.index) == (state, last)
        assert hashes(found, compacted) == hashed
        found.sweep()
        assert hashes(found, compacted) == hashed
        while found.database.reclaim() or found.database.trim():
            pass
        sizes = found.database.sizes()
        assert sizes.total == sizes.in_use
        found.do(DeleteRange(b"k"))
        found.flush()
        found.database.close()


def hashes(member: Member, compacted: int) -> list[object]:
    """All that can be read since the compaction, and what was there at each revision."""
    member.index_all()
    revisions = range(compacted, member.machine.revision + 1)
    everything = (Range(b"\0", b"\0", revision=revision) for revision in revisions)
    asked = [HistoricRange(member.machine.revision, each, each.revision) for each in everything]
    return [
        *(member.database.hash_kv(revision) for revision in revisions),
        *(member.database.range_at(each, ()).kvs for each in asked),
    ]
