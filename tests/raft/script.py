"""A small cluster that obeys a script, one command a line, and writes down what happens.

Place in the house   test_scenarios, scenarios/*.txt  ->  script  ->  jobguard_store.raft

    cluster 3 [appends=1] [window=2]   three empty nodes (ids 1, 2, 3); so many entries in one append, and so
                                       many appends in flight
    restore 2 log=1,1,4 term=5 vote=3 applied=1
                                       2 starts from such a disk; a log is told by its entries' terms
    compact 1 5                        1 forgets its log up to there, on disk as well
    ship 1 2 [5] [lost|unreported]     the state that 1 owes 2, as of then or of entry 5, arrives or not, and
                                       1 is told or not
    offer 1 2 5                        1's state as of entry 5 arrives at 2, owed or not
    tick 1 [10]                        time passes at node 1
    timeout 1                          .. until it asks for an election
    elect 1 [1 2 3]                    it does, and wins among these; only the end of it is written down
    propose 1 a b      read 1 7        what clients ask of node 1; 7 names the read
    deliver 1 2 [Vote] [n]             messages under way from 1 to 2 arrive: all, of one kind, the first n
    drop 1 2 [Vote] [n]                .. or do not
    twice 1 2 [Vote] [n]               .. or arrive, and will again
    round 1 2 3                        what is under way among these arrives; what they answer does not yet
    stabilize [1 2 3]                  everything arrives among these until nothing is under way
    quiet ...                          any of these, with nothing written down
    join 4                             4 starts with nothing, and knows nobody
    change 1 add-voter 4               1 is asked to change who is in: add-learner, add-voter, promote, remove
    members [1 2 3]                    who counts, as far as each knows
    transfer 1 2                       1 is asked to hand leadership over to 2
    hold 1             flush 1 [n]     1's disk takes batches and does not finish them; n (or all) finish
    flow 1                             all finish, and from now on at once
    crash 1            start 1         what its disk did not finish is lost; it starts from the rest
    cut 1 2            heal            nothing passes between 1 and 2, or everything again
    hint 1 2                           1's connection to 2 closes
    status [1 2 3]     disk 1          one line a node

A node carries out its Ready at once. An entry is written term/index.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace

from jobguard_store.raft import (
    NOBODY,
    NOTHING,
    AddLearner,
    AddVoter,
    ChangeRefused,
    Configuration,
    Entry,
    EntryId,
    EntryKind,
    HardState,
    Limits,
    Message,
    NotLeader,
    Promote,
    Raft,
    Ready,
    Remove,
    Role,
    Snapshot,
    SnapshotOffer,
    TransferRefused,
)


class Longest:
    """Draws the most there is: an election timeout is 19 ticks, and after 10 no leader is heard any more."""

    def randrange(self, start: int, stop: int, /) -> int:
        return stop - 1


START = Snapshot(NOTHING, NOBODY)


@dataclass
class Disk:
    hard_state: HardState
    entries: list[Entry]  # behind base
    applied_index: int = 0
    base: Snapshot = START

    def write(self, ready: Ready) -> None:
        if ready.snapshot:
            self.base, self.entries = ready.snapshot, []
            self.applied_index = self.base.last.index
        if ready.hard_state:
            self.hard_state = ready.hard_state
        if ready.entries:
            del self.entries[ready.entries[0].index - self.base.last.index - 1 :]
            self.entries += ready.entries


class Member:
    """A node of the script: its disk, and what its writer has not finished."""

    def __init__(self, node_id: int) -> None:
        self.id = node_id
        self.disk = Disk(HardState(), [])
        self.writing: deque[Ready] = deque()
        self.held = False
        self.raft: Raft | None = None
        self.seen: tuple[object, ...] = ()

    @property
    def up(self) -> Raft:
        assert self.raft is not None, f"{self.id} is down"
        return self.raft


class Script:
    def __init__(self, core: type[Raft] = Raft) -> None:
        self.core = core
        self.members: dict[int, Member] = {}
        self.wire: list[Message] = []
        self.owed: dict[tuple[int, int], SnapshotOffer] = {}
        self.cuts: set[frozenset[int]] = set()
        self.lines: list[str] = []
        self.limits = Limits()

    def run(self, line: str) -> list[str]:
        """Obey one line; what happened."""
        self.lines = []
        command, *words = line.split()
        getattr(self, f"do_{command}")(*words)
        return self.lines

    def say(self, line: str) -> None:
        self.lines.append(line)

    # -- Commands

    def do_cluster(self, size: str, *options: str) -> None:
        self.wire.clear()
        chosen = {"appends": "4096", "window": "128"} | dict(option.split("=") for option in options)
        self.limits = Limits(append_entries=int(chosen["appends"]), in_flight=int(chosen["window"]))
        self.members = {i: Member(i) for i in range(1, int(size) + 1)}
        self.founders = Snapshot(NOTHING, Configuration.of(self.members))
        for member in self.members.values():
            member.disk.base = self.founders
            self._start(member)

    def do_restore(self, node: str, *options: str) -> None:
        member = self.members[int(node)]
        chosen = dict(option.split("=") for option in options)
        log = [int(term) for term in chosen.get("log", "").split(",") if term]
        entries = [Entry(i, term, EntryKind.NORMAL, f"{term}/{i}".encode()) for i, term in enumerate(log, 1)]
        vote = int(chosen["vote"]) if "vote" in chosen else None
        member.disk = Disk(HardState(int(chosen["term"]), vote), entries, int(chosen.get("applied", 0)))
        member.disk.base = self.founders
        self._start(member)

    def do_tick(self, node: str, times: str = "1") -> None:
        member = self.members[int(node)]
        for _ in range(int(times)):
            member.up.tick()
            self._turn(member)

    def do_timeout(self, node: str) -> None:
        member = self.members[int(node)]
        assert member.up.role is not Role.LEADER
        while member.up.role is not Role.PRE_CANDIDATE:
            member.up.tick()
        self._turn(member)

    def do_elect(self, node: str, *nodes: str) -> None:
        self.do_quiet("timeout", node)
        self.do_quiet("stabilize", *nodes)
        assert self.members[int(node)].up.role is Role.LEADER, f"{node} does not win"
        self.do_status(node)

    def do_propose(self, node: str, *data: str) -> None:
        member = self.members[int(node)]
        try:
            first = member.up.propose([item.encode() for item in data])
        except NotLeader as refusal:
            self.say(f"{node} refuses: {refusal}")
            return
        self.say(f"{node} appends from {show(first)}")
        self._turn(member)

    def do_read(self, node: str, context: str) -> None:
        member = self.members[int(node)]
        try:
            member.up.read_index(int(context))
        except NotLeader as refusal:
            self.say(f"{node} refuses: {refusal}")
            return
        self._turn(member)

    def do_deliver(self, sender: str, to: str, *which: str) -> None:
        for message in self._pick(sender, to, which):
            self.wire.remove(message)
            self._arrive(message)

    def do_twice(self, sender: str, to: str, *which: str) -> None:
        for message in self._pick(sender, to, which):
            self._arrive(message)

    def do_drop(self, sender: str, to: str, *which: str) -> None:
        for message in self._pick(sender, to, which):
            self.wire.remove(message)
            self.say(f"{tell(message)} (lost)")

    def do_quiet(self, command: str, *words: str) -> None:
        told = len(self.lines)
        getattr(self, f"do_{command}")(*words)
        del self.lines[told:]

    def do_round(self, *nodes: str) -> None:
        among = {int(node) for node in nodes}
        for message in [m for m in self.wire if m.sender in among and m.to in among]:
            self.wire.remove(message)
            self._arrive(message)

    def do_stabilize(self, *nodes: str) -> None:
        among = {int(node) for node in nodes} or set(self.members)
        while movable := [m for m in self.wire if m.sender in among and m.to in among]:
            self.wire.remove(movable[0])
            self._arrive(movable[0])

    def do_compact(self, node: str, index: str) -> None:
        """The file holds applied what is applied."""
        member = self.members[int(node)]
        base = member.up.compact(int(index))
        assert base is not None, f"{node} has nothing to forget"
        del member.disk.entries[: base.last.index - member.disk.base.last.index]
        member.disk.base = base
        self._turn(member)

    def do_ship(self, sender: str, to: str, *how: str) -> None:
        offer = self.owed.pop((int(sender), int(to)))
        member = self.members[int(sender)]
        for index in how:
            if index.isdigit():
                offer = replace(offer, snapshot=member.up.snapshot_at(int(index)))
        last = offer.snapshot.last
        if "lost" in how:
            self.say(f"{sender} -> {to} state up to {show(last)} (lost)")
            member.up.snapshot_failed(int(to))
        else:
            self._arrive(offer)
            if "unreported" not in how:
                member.up.snapshot_sent(int(to), last.index)
        self._turn(member)

    def do_offer(self, sender: str, to: str, index: str) -> None:
        raft = self.members[int(sender)].up
        snapshot = raft.snapshot_at(int(index))
        self._arrive(SnapshotOffer(sender=int(sender), to=int(to), term=raft.term, snapshot=snapshot))

    def do_join(self, node: str) -> None:
        member = self.members[int(node)] = Member(int(node))
        self._start(member)

    def do_change(self, node: str, change: str, subject: str) -> None:
        kinds = {"add-learner": AddLearner, "add-voter": AddVoter, "promote": Promote, "remove": Remove}
        member = self.members[int(node)]
        try:
            entry = member.up.change_membership(kinds[change](int(subject)))
        except (NotLeader, ChangeRefused) as refusal:
            self.say(f"{node} refuses: {refusal}")
            return
        self.say(f"{node} appends {show(entry)}")
        self._turn(member)

    def do_transfer(self, node: str, to: str) -> None:
        member = self.members[int(node)]
        try:
            member.up.transfer(int(to))
        except (NotLeader, TransferRefused) as refusal:
            self.say(f"{node} refuses: {refusal}")
            return
        self._turn(member)

    def do_members(self, *nodes: str) -> None:
        for node in nodes or [str(node) for node in self.members]:
            raft = self.members[int(node)].up
            names = [f"{m.id}" if m.voter else f"({m.id})" for m in raft.configuration.members]
            pending = " pending" if raft.log.configuration_index > raft.commit_index else ""
            self.say(f"{node} counts {','.join(names) or 'nobody'}{pending}")

    def do_hold(self, node: str) -> None:
        self.members[int(node)].held = True

    def do_flush(self, node: str, count: str = "0") -> None:
        self._flush(self.members[int(node)], int(count))

    def do_flow(self, node: str) -> None:
        self.members[int(node)].held = False
        self._flush(self.members[int(node)], 0)

    def do_crash(self, node: str) -> None:
        member = self.members[int(node)]
        self.say(f"{node} crashes; {len(member.writing)} batches unfinished")
        member.writing.clear()
        member.raft = None

    def do_start(self, node: str) -> None:
        self._start(self.members[int(node)])
        self.do_status(node)

    def do_cut(self, one: str, other: str) -> None:
        self.cuts.add(frozenset((int(one), int(other))))

    def do_heal(self) -> None:
        self.cuts.clear()

    def do_hint(self, node: str, peer: str) -> None:
        member = self.members[int(node)]
        member.up.peer_lost(int(peer))
        self._turn(member)

    def do_status(self, *nodes: str) -> None:
        for node in nodes or [str(node) for node in self.members]:
            member = self.members[int(node)]
            if member.raft is None:
                self.say(f"{node} down")
                continue
            raft = member.raft
            base = raft.log.base
            behind = f"({show(base)})" if base.index else ""
            log = behind + terms(raft.log.slice(base.index + 1, raft.last_index))
            self.say(
                f"{node} {raft.role.value} term={raft.term} leader={show(raft.leader)}"
                f" commit={raft.commit_index} log={log}"
            )

    def do_disk(self, node: str) -> None:
        member = self.members[int(node)]
        self.say(
            f"{node} disk: term={member.disk.hard_state.term} vote={show(member.disk.hard_state.voted_for)}"
            f" log={terms(member.disk.entries)}; unfinished: {len(member.writing)};"
            f" core counts on {member.up.log.durable_index}"
        )

    # -- What a node does

    def _start(self, member: Member) -> None:
        member.raft = self.core(
            node_id=member.id,
            hard_state=member.disk.hard_state,
            entries=member.disk.entries,
            applied_index=member.disk.applied_index,
            base=member.disk.base.last,
            configuration=member.disk.base.configuration,
            random=Longest(),
            limits=self.limits,
        )
        member.seen = self._state(member.raft)

    def _arrive(self, message: Message) -> None:
        member = self.members[message.to]
        gone = member.raft is None or frozenset((message.sender, message.to)) in self.cuts
        self.say(tell(message) + (" (lost)" if gone else ""))
        if not gone:
            member.up.step(message)
            self._turn(member)

    def _turn(self, member: Member) -> None:
        raft = member.up
        while raft.has_ready():
            self._notice(member)
            ready = raft.ready()
            self.wire += ready.messages
            for offer in ready.offers:
                self.say(f"{member.id} owes {offer.to} the state up to {show(offer.snapshot.last)}")
                self.owed[member.id, offer.to] = offer
            if ready.snapshot:
                self.say(f"{member.id} takes the state up to {show(ready.snapshot.last)}")
            if ready.snapshot or ready.hard_state or ready.entries or ready.messages_after_persist:
                member.writing.append(ready)
                if not member.held:
                    self._flush(member, 0)
            if ready.committed:
                self.say(f"{member.id} commits {span(ready.committed)}")
                raft.applied(ready.committed[-1].index)
                on_disk = member.disk.base.last.index + len(member.disk.entries)
                member.disk.applied_index = min(raft.applied_index, on_disk)
            for read in ready.reads:
                self.say(f"{member.id} reads {read.context} at {read.index}")
            for context in ready.reads_lost:
                self.say(f"{member.id} lost read {context}")
        self._notice(member)

    def _flush(self, member: Member, count: int) -> None:
        raft = member.up
        for _ in range(count or len(member.writing)):
            ready = member.writing.popleft()
            member.disk.write(ready)
            if ready.hard_state:
                raft.hard_state_persisted(ready.hard_state)
            if ready.snapshot:
                raft.persisted(ready.snapshot.last)
                if member.held:
                    self.say(f"{member.id} has the state up to {show(ready.snapshot.last)} on disk")
            if ready.entries:
                raft.persisted(ready.entries[-1].id)
                if member.held:
                    self.say(f"{member.id} has {span(ready.entries)} on disk")
            self.wire += ready.messages_after_persist
        self._notice(member)
        if raft.has_ready():
            self._turn(member)

    def _notice(self, member: Member) -> None:
        """Write down a change of role, term or leader."""
        state = self._state(member.up)
        if state != member.seen:
            member.seen = state
            role, term, leader = state
            following = f" of {leader}" if leader and role == "follower" else ""
            self.say(f"{member.id} is {role}{following} in term {term}")

    def _state(self, raft: Raft) -> tuple[object, ...]:
        return raft.role.value, raft.term, raft.leader

    def _pick(self, sender: str, to: str, which: Sequence[str]) -> list[Message]:
        kinds = [word for word in which if not word.isdigit()]
        counts = [int(word) for word in which if word.isdigit()]
        found = [
            message
            for message in self.wire
            if (message.sender, message.to) == (int(sender), int(to))
            and (not kinds or type(message).__name__ in kinds)
        ]
        assert found, f"nothing of the kind is under way from {sender} to {to}"
        return found[: counts[0]] if counts else found


def tell(message: Message) -> str:
    """1 -> 2 AppendEntries term=1 previous=0/0 entries=1/1..1/3 commit=0"""
    shown = [f"{message.sender} -> {message.to} {type(message).__name__}"]
    for field in fields(message):
        if field.name not in ("sender", "to") and getattr(message, field.name) != field.default:
            shown.append(f"{field.name}={show(getattr(message, field.name))}")
    return " ".join(shown)


def show(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case EntryId():
            return f"{value.term}/{value.index}"
        case Snapshot():
            return show(value.last)
        case tuple():
            return span(value)
    assert not is_dataclass(value)
    return str(value)


def span(entries: Sequence[Entry]) -> str:
    if not entries:
        return "-"
    first, last = show(entries[0].id), show(entries[-1].id)
    return first if first == last else f"{first}..{last}"


def terms(entries: Sequence[Entry]) -> str:
    return ",".join(str(entry.term) for entry in entries) or "-"
