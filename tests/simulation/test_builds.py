"""Rolling upgrades, and half of them back, in a cluster in trouble: no node meets what it cannot read.

A history that breaks is seen again by its seed, which the failure names: MixedWorld(seed).run().
"""

import secrets
from collections import Counter

import pytest

from tests.simulation.builds import BuiltNode, MixedWorld

FIXED = range(30)
FRESH = 10


def run(seed: int, node: type[BuiltNode] = BuiltNode) -> Counter[str]:
    world = MixedWorld(seed, node=node)
    try:
        world.run()
    except Exception as failure:
        failure.add_note(f"{world.tail(30)}\n{world.temper}\nMixedWorld({seed})")
        raise
    return world.seen


def test_no_node_meets_what_it_cannot_read_and_the_upgrade_ends() -> None:
    seen = sum((run(seed) for seed in FIXED), Counter[str]())
    assert min(seen[what] for what in ("raised", "stopped", "refused to start", "told to wait")) > 4, seen
    assert seen["new commands"] > 500, seen


def test_nor_in_histories_nobody_has_seen() -> None:
    for _ in range(FRESH):
        run(secrets.randbelow(1 << 48))


class ReadsOn(BuiltNode):
    """It goes by what the leader knows of it, which may be of its last life."""

    def _refuse_what_we_cannot_read(self) -> None:
        pass


class Trusts(BuiltNode):
    """It proposes what it can read itself."""

    def may_propose(self, level: int) -> bool:
        return level <= self.build


class AsksNobody(BuiltNode):
    """It raises the level alone, and is believed."""

    def _maybe_raise(self) -> None:
        self.said = dict.fromkeys(self.up.configuration.ids, self.build)
        super()._maybe_raise()


@pytest.mark.parametrize(("bug", "histories"), [(ReadsOn, 60), (Trusts, 10)])
def test_a_planted_bug_is_caught(bug: type[BuiltNode], histories: int) -> None:
    for seed in range(histories):
        try:
            MixedWorld(seed, node=bug).run()
        except AssertionError:
            return
    pytest.fail(f"{histories} histories went by, and nobody noticed {bug.__name__}")


def test_safety_does_not_rest_on_what_members_say() -> None:
    """Whom the leader wrongs stops, and starts with what the others run."""
    seen = sum((run(seed, AsksNobody) for seed in range(12)), Counter[str]())
    assert seen["stopped"] > 4, seen
