"""A minute of trouble that is the same every time; `make chaos SECONDS=600` makes a new one."""

import pytest

from tests.linearizable import Operation, Put, Read
from tests.processes.chaos import not_linearizable, run, wrong_events, wrong_revisions
from tests.processes.load import KEYS, Event, Record, Written

KEY = KEYS[0]


@pytest.mark.timeout(600)
def test_what_clients_were_told_holds_through_a_minute_of_faults() -> None:
    report = run(seconds=40, seed=1, faults_min=8, answers_min=1001)
    print(report)
    assert report.violations == [], str(report)
    assert report.faults.total() >= 8
    assert report.faults["replace"] >= 1
    assert report.outcomes["ok"] > 1000


# --- the judge sees what is wrong -----------------------------------------------------------------


def test_a_lost_write_is_told_with_what_speaks_of_it() -> None:
    record = Record()
    record.operations[KEY] = [Operation(Put("a"), 0, 1), Operation(Read(None), 2, 3)]
    (violation,) = not_linearizable(record)
    assert f"{KEY} is not linearizable: after 1 operations it holds 'a'" in violation


def test_revisions_are_unique_ordered_and_belong_to_one_value() -> None:
    first, second = Written(2, KEY, "a", 0, 1), Written(3, KEY, "b", 2, 3)
    assert wrong_revisions(Record(written=[second, first])) == []
    assert wrong_revisions(Record(written=[first, Written(2, KEY, "b", 2, 3)]))
    assert wrong_revisions(Record(written=[Written(4, KEY, "a", 0, 1), second]))
    assert wrong_revisions(Record(written=[first], sightings={(KEY, "a", 2)})) == []
    assert wrong_revisions(Record(written=[first], sightings={(KEY, "a", 3)})), "applied twice"
    assert wrong_revisions(Record(sightings={(KEY, "a", 2), (KEY, "a", 3)}))


def test_every_change_is_seen_once_in_order_by_all() -> None:
    events = [Event(2, KEY, "a"), Event(3, KEY, None)]
    record = Record(written=[Written(2, KEY, "a", 0, 1), Written(3, KEY, None, 2, 3)])
    assert wrong_events(record, [events, events]) == []
    assert wrong_events(record, [events, events[:1]])
    assert wrong_events(record, [events[1:], events[1:]]), "missed"
    assert wrong_events(record, [events[::-1], events[::-1]])
    assert wrong_events(record, [events[:1] * 2 + events[1:]] * 2), "doubled"
    assert wrong_events(Record(written=[Written(3, KEY, "b", 2, 3)]), [events, events])
