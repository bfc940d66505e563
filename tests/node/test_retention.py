"""What history is let go, by age and by number; with a clock of the test's own."""

from jobguard_store.retention import NOTES, PRESSED_EVERY_S, Retention


def test_what_is_older_than_its_age_goes_and_nothing_younger() -> None:
    retention = Retention(age_s=60.0, revisions=0)
    compacted = -1
    for second in range(300):  # ten revisions a second
        retention.note(float(second), 10 * second)
        goal = retention.take(float(second), 10 * second, compacted, pressed=False)
        if goal is not None:
            compacted = goal
        assert compacted <= max(10 * (second - 60), -1)
        if second > 62:
            assert compacted >= 10 * (second - 60 - 60 // NOTES - 1)


def test_an_idle_store_is_compacted_once() -> None:
    retention = Retention(age_s=60.0, revisions=0)
    taken = []
    for second in range(300):
        retention.note(float(second), 500)
        taken.append(retention.take(float(second), 500, -1, pressed=False))
    assert [goal for goal in taken if goal is not None] == [500]


def test_more_revisions_than_may_stay_go_a_tenth_at_a_time() -> None:
    retention = Retention(age_s=0.0, revisions=1000)
    compacted, goals = -1, []
    for revision in range(1, 5000):
        retention.note(0.0, revision)
        goal = retention.take(0.0, revision, compacted, pressed=False)
        if goal is not None:
            compacted = goal
            goals.append(goal)
        assert revision - compacted <= 1101
        assert compacted <= max(revision - 1000, -1)
    assert len(goals) == 39


def test_neither_limit_keeps_everything() -> None:
    retention = Retention(age_s=0.0, revisions=0)
    for revision in range(1, 100_000, 1000):
        retention.note(float(revision), revision)
        assert retention.take(float(revision), revision, -1, pressed=False) is None


def test_short_of_space_all_of_it_goes_but_not_with_each_delete() -> None:
    retention = Retention(age_s=3600.0, revisions=1_000_000)
    assert retention.take(0.0, 700, -1, pressed=True) == 700
    assert retention.take(PRESSED_EVERY_S / 2, 701, 700, pressed=True) is None
    assert retention.take(PRESSED_EVERY_S, 702, 700, pressed=True) == 702
    assert retention.take(PRESSED_EVERY_S * 2, 702, 702, pressed=True) is None


def test_who_was_just_elected_knows_no_age_and_keeps_all() -> None:
    retention = Retention(age_s=60.0, revisions=0)
    retention.note(1000.0, 5000)
    assert retention.take(1000.0, 5000, 10, pressed=False) is None
    retention.note(1060.0, 6000)
    assert retention.take(1060.0, 6000, 10, pressed=False) == 5000
