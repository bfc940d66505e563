"""A node as a build before users was: it reads no command of theirs, and says so to its peers.

Place in the house   test_upgrade -> older (its own process) -> jobguard_store
Takes                the flags of a node
Never                is part of the store: there is no flag that makes a node older than it is
"""

import msgspec

from jobguard_store import anew
from jobguard_store.__main__ import store
from jobguard_store.config import NodeConfig
from jobguard_store.machine import commands

OLDER = 1


class _Envelope(commands._Logged, frozen=True):
    member: int
    boot: int
    sequence: int
    command: (
        commands.Put
        | commands.Txn
        | commands.DeleteRange
        | commands.Range
        | commands.GrantLease
        | commands.RevokeLease
        | commands.ExpireLease
        | commands.Compact
        | commands.RaiseAlarm
        | commands.LowerAlarm
    )
    user: str = ""
    auth_revision: commands.Int64 = 0


if __name__ == "__main__":
    commands._decoder = msgspec.msgpack.Decoder(_Envelope)  # type: ignore[assignment]
    anew.LEVEL = OLDER
    NodeConfig.__init__.__kwdefaults__["level"] = OLDER  # type: ignore[misc]
    store()
