"""The lives of the other members that this node has met: what tells a restart from another disk.

Place in the house   database -> lives -> tables
Takes                the transaction it works in
Gives                each member's newest known life, or Damage
Never                commits; judges a life (cluster.Members does)
"""

from dataclasses import dataclass
from zlib import crc32

from sqlalchemy import Connection, select

from jobguard_store.storage.damage import Damage
from jobguard_store.storage.tables import insert_rows, lives


@dataclass(frozen=True, slots=True)
class Life:
    """One start of a member: on the disk that drew this number, for the `boot`-th time; `nonce` names it."""

    disk: int
    boot: int
    nonce: int


def remember(tx: Connection, member: int, life: Life) -> None:
    """In place of what was known of `member` before."""
    values = (f"{member:x}", life.disk, life.boot, life.nonce, checksum(member, life))
    insert_rows(tx, lives, values, replace=True)


def load(tx: Connection) -> dict[int, Life]:
    """By member. Raises Damage."""
    found = {}
    for member_id, disk, boot, nonce, noted in tx.execute(select(lives)):
        member, life = int(member_id, 16), Life(disk, boot, nonce)
        if checksum(member, life) != noted:
            raise Damage(f"what it knows of member {member:x} is not what was written")
        found[member] = life
    return found


def checksum(member: int, life: Life) -> int:
    return crc32(b"%d %d %d %d" % (member, life.disk, life.boot, life.nonce))
