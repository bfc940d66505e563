"""How much history stays: none that is older than a while, none beyond a number of revisions.

Place in the house   replica -> retention
Takes                at each tick the time and the revision; whether a member is short of space
Gives                the revision up to which history may go, when it is time
Never                compacts anything itself: that is a command like any other, so that all members agree

Every member takes notes of the time, the leader acts. One that was elected just now has noted little, or
nothing, and keeps more than it must, never less.
"""

from __future__ import annotations

from collections import deque

NOTES = 60  # of the time, within the age that stays
SLACK = 10  # a tenth more than stays is let gather, or each revision would be compacted by itself
PRESSED_EVERY_S = 1.0


class Retention:
    def __init__(self, age_s: float, revisions: int) -> None:
        """Seconds, and a count; 0 for no such limit."""
        self._age_s = age_s
        self._revisions = revisions
        self._notes: deque[tuple[float, int]] = deque()
        self._old = 0  # the newest revision known to be older than what stays
        self._taken = 0
        self._pressed_at = float("-inf")

    def note(self, now: float, revision: int) -> None:
        """At `now`, in seconds, the store stands at `revision`."""
        if not self._age_s:
            return
        if not self._notes or now - self._notes[-1][0] >= self._age_s / NOTES:
            self._notes.append((now, revision))
        while now - self._notes[0][0] >= self._age_s:
            self._old = self._notes.popleft()[1]
            if not self._notes:
                break

    def take(self, now: float, revision: int, compacted: int, *, pressed: bool) -> int | None:
        """The revision to compact at, if it is time. Whoever takes it proposes that.

        With `pressed` all history may go: what lives needs the space.
        """
        goal = self._old
        if self._revisions and revision - compacted > self._revisions + self._revisions // SLACK:
            goal = max(goal, revision - self._revisions)
        if pressed and now - self._pressed_at >= PRESSED_EVERY_S:
            self._pressed_at = now
            goal = revision
        if goal <= max(compacted, self._taken):
            return None
        self._taken = goal
        return goal
