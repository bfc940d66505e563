"""What no correct peer can have sent, however its state differs from ours.

Place in the house   transport -> scrutiny -> peer_messages, raft.messages, machine.commands
Takes                a message that has the shape of one
Gives                why it cannot be one
Never                asks whether a message is true: a member's word about its own state is Raft's to weigh

What gets past here goes into the log, and from there into every member's file. An entry that cannot be read
again would end all of them, now and at every start.
"""

from __future__ import annotations

import dataclasses

import msgspec

from jobguard_store.config import parse_urls
from jobguard_store.errors import StartupError
from jobguard_store.machine.commands import UnknownCommand, decode
from jobguard_store.members import about
from jobguard_store.peer_messages import CODES, Delivery, Forward, Reconfigure, Roster, Step, Told
from jobguard_store.raft.configuration import Configuration
from jobguard_store.raft.messages import (
    AppendEntries,
    AppendRefusal,
    EntryId,
    EntryKind,
    PreVoteRequest,
    Snapshot,
    SnapshotOffer,
    VoteRequest,
)

NUMBER_MAX = 2**63 - 1  # what a column of a row holds
_NUMBERS = {
    kind: [field.name for field in dataclasses.fields(kind) if field.type in ("int", int)]
    for kind in CODES.values()
}


def flaw(message: object) -> str | None:
    """None for nearly all."""
    least = -1 if isinstance(message, Told) else 0  # REFUSED, and no such lease
    for name in _NUMBERS[type(message)]:
        if not least <= getattr(message, name) <= NUMBER_MAX:
            return f"a {name} of {getattr(message, name)}"
    match message:
        case AppendEntries():
            return _flaw_of_append(message)
        case Forward():
            return _flaw_of_forward(message)
        case AppendRefusal():
            return _flaw_of_place(message.hint)
        case PreVoteRequest() | VoteRequest():
            return _flaw_of_place(message.last)
        case SnapshotOffer():
            return _flaw_of_snapshot(message.snapshot)
        case Delivery():
            return flaw(message.hello) or flaw(message.offer)
        case Roster():
            return _flaw_of_bytes(message.configuration)
        case Reconfigure() if message.step in (Step.ADD, Step.ADD_LEARNER, Step.MOVE):
            return _flaw_of_urls(message.peer_urls)
    return None


def _flaw_of_append(append: AppendEntries) -> str | None:
    """Entries follow each other and `previous`, and terms never fall along a log."""
    term = append.previous.term
    for index, entry in enumerate(append.entries, append.previous.index + 1):
        if entry.index != index or not term <= entry.term <= append.term:
            return f"entry {entry.index} of term {entry.term} in the place of entry {index}"
        term = entry.term
        if entry.kind is EntryKind.CONFIG and (found := _flaw_of_bytes(entry.data)):
            return found
    last = append.entries[-1].id if append.entries else append.previous
    return _flaw_of_place(append.previous) or _flaw_of_place(last)


def _flaw_of_forward(forward: Forward) -> str | None:
    if len(forward.sequences) != len(forward.commands):
        return f"{len(forward.sequences)} names for {len(forward.commands)} commands"
    try:
        for command in forward.commands:
            decode(command)
    except UnknownCommand as unknown:
        return f"a command that cannot be read: {unknown}"
    return None


def _flaw_of_place(place: EntryId) -> str | None:
    inside = 0 <= place.index <= NUMBER_MAX and 0 <= place.term <= NUMBER_MAX
    return None if inside else f"a place of index {place.index} and term {place.term}"


def _flaw_of_snapshot(snapshot: Snapshot) -> str | None:
    return _flaw_of_place(snapshot.last) or _flaw_of_configuration(snapshot.configuration)


def _flaw_of_bytes(data: bytes) -> str | None:
    try:
        return _flaw_of_configuration(Configuration.decode(data))
    except ValueError as error:
        return f"a configuration that cannot be read: {error}"


def _flaw_of_configuration(configuration: Configuration) -> str | None:
    if not 0 < configuration.level <= NUMBER_MAX:
        return f"a configuration of level {configuration.level}"
    ids = configuration.ids
    if list(ids) != sorted(set(ids)) or not all(0 < each <= NUMBER_MAX for each in ids):
        return f"a configuration of the members {ids}"
    if ids and not configuration.voters:
        return "a configuration without a voter"
    try:
        said = [about(member) for member in configuration.members]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"a member of whom nothing can be read: {error}"
    return next((found for each in said if (found := _flaw_of_urls(each.peer_urls))), None)


def _flaw_of_urls(urls: tuple[str, ...]) -> str | None:
    try:
        whole = all(parse_urls("its peer URL", url) == (url.rstrip("/"),) for url in urls)
    except StartupError as error:
        return f"an address that is none: {error}"
    return None if whole else f"addresses in the place of one: {urls}"
