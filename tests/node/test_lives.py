"""Which life of a peer is let in: a later start on the same disk, and no other."""

from dataclasses import replace

import pytest

from jobguard_store.cluster import identity_from
from jobguard_store.config import NodeConfig
from jobguard_store.members import Members, founders
from jobguard_store.peer_messages import Hello
from jobguard_store.storage.lives import Life

CONFIG = NodeConfig()
KNOWN = Life(disk=5, boot=3, nonce=9)
HELLO = Hello(cluster_id=1, sender=2, to=1, boot=3, nonce=9, name="s2", disk=5)


@pytest.mark.parametrize(
    ("hello", "welcome"),
    [
        (HELLO, True),  # the connection broke, the process did not
        (replace(HELLO, boot=4, nonce=1), True),
        (replace(HELLO, boot=9, nonce=1), True),  # it was started in between, and met nobody
        (replace(HELLO, boot=3, nonce=1), False),  # its write-ahead log is gone, or it runs twice
        (replace(HELLO, boot=2, nonce=1), False),  # an old copy of its file
        (replace(HELLO, disk=6, boot=1, nonce=1), False),  # no file
        (replace(HELLO, disk=6, boot=4, nonce=1), False),  # .. and a supervisor that kept trying
    ],
)
def test_what_a_life_must_follow(hello: Hello, welcome: bool) -> None:
    members = Members(founders(identity_from(CONFIG)), {2: KNOWN})
    refusal = members.refusal(hello)
    assert (refusal is None) is welcome
    if refusal is not None:
        assert refusal.fatal
        assert "`member remove`" in refusal.reason
        assert "`member add`" in refusal.reason


def test_whoever_comes_first_is_new_and_then_known() -> None:
    members = Members(founders(identity_from(CONFIG)), {})
    assert members.refusal(HELLO) is None
    assert not members.knows(HELLO)
    members.met(HELLO)
    assert members.knows(HELLO)
    assert not members.knows(replace(HELLO, boot=4))


def test_one_that_was_removed_is_turned_away_for_good() -> None:
    configuration = replace(founders(identity_from(CONFIG)), removed=(2,))
    refusal = Members(configuration, {2: KNOWN}).refusal(replace(HELLO, boot=4, nonce=1))
    assert refusal is not None
    assert refusal.fatal
    assert "was removed from the cluster" in refusal.reason


@pytest.mark.parametrize(("level", "welcome"), [(1, False), (2, True), (3, True)])
def test_one_that_cannot_read_what_all_others_can_is_turned_away_until_it_is_upgraded(
    level: int, welcome: bool
) -> None:
    members = Members(replace(founders(identity_from(CONFIG)), level=2), {})
    refusal = members.refusal(replace(HELLO, level=level))
    assert (refusal is None) is welcome
    if refusal is not None:
        assert refusal.too_old
        assert not refusal.fatal
        assert "needs a newer jobguard: its log is at level 2, and this one reads level 1" in refusal.reason
