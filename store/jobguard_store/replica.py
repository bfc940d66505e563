"""THE loop of one node: takes ticks, peers' messages and proposals; carries out each Ready in its order.

Place in the house   node -> replica -> raft.core, applier (machine), journal (storage), transport
Takes                notes: queued commands, waiting readers, messages, ticks, word of durability
Gives                answers through futures, events to watchers, messages to peers, batches to the writer
Never                sends what peers may rely on before it is durable; works on after an unexpected error

Everything that happens only leaves a note and asks for a turn. One turn serves all notes of one round of the
event loop: one propose() for all commands, one read round for all readers, one Ready, one batch for the
writer, one write per peer. That is where the throughput comes from.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from jobguard_store.answers import Load
from jobguard_store.applier import Applier
from jobguard_store.arrivals import Arrivals
from jobguard_store.backups import Backups
from jobguard_store.config import NodeConfig, address
from jobguard_store.counts import Counts
from jobguard_store.courier import Courier
from jobguard_store.departures import Departures
from jobguard_store.duties import Duties
from jobguard_store.errors import Removed, ServerStopped, StartupError
from jobguard_store.gathering import Gathering
from jobguard_store.history import History
from jobguard_store.joining import removed
from jobguard_store.journal import Journal
from jobguard_store.lessor import Lessor
from jobguard_store.levels import Levels
from jobguard_store.machine.commands import ANONYMOUS, Caller, Command
from jobguard_store.machine.results import Applied
from jobguard_store.members import Members, about, founders, life_of, was_removed
from jobguard_store.opening import Opened, open_file
from jobguard_store.passwords import Passwords
from jobguard_store.peer_messages import (
    REFUSED,
    Ask,
    Forward,
    ForwardRefused,
    Hello,
    PeerMessage,
    Question,
    Reconfigure,
    Reconfigured,
    Roster,
    Step,
    Told,
    Unwelcome,
    Welcome,
)
from jobguard_store.proposals import Proposals
from jobguard_store.questions import Questions
from jobguard_store.quota import Quota
from jobguard_store.raft import NOBODY, Configuration
from jobguard_store.raft.core import Raft, Role
from jobguard_store.raft.messages import HeartbeatReply, PreVoteRequest, Ready, Snapshot, SnapshotOffer
from jobguard_store.reads import Reads
from jobguard_store.reconfiguring import Reconfiguring
from jobguard_store.retention import Retention
from jobguard_store.security import PeerTls
from jobguard_store.storage.damage import DiskFull
from jobguard_store.storage.snapshot import Staged
from jobguard_store.tokens import Tokens
from jobguard_store.transport import Transport
from jobguard_store.trimming import Trimming
from jobguard_store.watchers import Tail, Watchers
from jobguard_store.writer import Job

log = logging.getLogger("jobguard_store.replica")

T = TypeVar("T")

REQUEST_TIMEOUT_S = 5.0  # and two election timeouts on top, as etcd counts
LEADER_WAIT_ELECTIONS = 3
SIZES_EVERY_TICKS = 10
LATE_HEARTBEATS = 2  # intervals, as etcd has it
# A killed leader's connections do not close everywhere in one moment: who has seen it asks one who will see
# it within milliseconds. Refused at once, it would ask again only some heartbeats later.
PRE_VOTE_HELD_S = 0.01


@dataclass(frozen=True, slots=True)
class Arrived:
    """A state that a peer brought; `settled` when it has become ours, or was not needed."""

    staged: Staged
    settled: asyncio.Future[None]


class Replica:
    """The core, the machine and the file of one member, and the turn that moves all three."""

    def __init__(self, config: NodeConfig, opened: Opened, tls: PeerTls) -> None:
        identity, loaded, database, writer = opened.identity, opened.loaded, opened.database, opened.writer
        self.config = config
        self.identity = identity
        self.machine = loaded.machine
        self.durable_term = loaded.hard_state.term
        self.disk_full = False
        self.sizes = database.sizes()
        self._me = identity.member_id
        self._boot = loaded.boot
        self._database = database
        self._loop = asyncio.get_running_loop()
        self.failure: asyncio.Future[BaseException] = self._loop.create_future()
        self.counts = Counts()
        self.introduced = asyncio.Event()
        self._quota = Quota(
            self.machine, member=self._me, limit=config.quota_backend_bytes, propose=self.propose
        )

        self.raft = Raft(
            node_id=self._me,
            hard_state=loaded.hard_state,
            entries=loaded.entries,
            base=loaded.base,
            configuration=loaded.configuration or founders(identity),
            applied_index=loaded.applied_index,
            election_ticks=config.election_ticks,
            random=random.Random(secrets.randbits(64)),
        )
        applied = loaded.entries[: loaded.applied_index - loaded.base.index]
        self._trimming = Trimming(config.snapshot_count, loaded.base.index, applied)
        tail = Tail(self.machine.revision)
        self.history = History(database, self.machine, tail)
        self.watchers = Watchers(self.history, tail)
        self.tokens = Tokens(self.machine)
        self.passwords = Passwords()
        self.members = Members(self.raft.snapshot_at(loaded.applied_index).configuration, loaded.lives)
        self._in_touch_with = NOBODY
        self._meeting = asyncio.Lock()
        self._journal = Journal(database, writer, on_durable=self._durable)
        writer.begin(
            database.write, on_durable=self._jobs_done, on_full=self._disk_filled, on_failed=self.fail
        )
        welcome = Welcome(sender=self._me, level=config.level)
        self._arrivals = Arrivals(database.arriving_path, welcome=welcome, take=self._take)
        self._transport = self._make_transport(loaded.disk, tls)
        self.traffic = self._transport.traffic
        self._courier = Courier(self._transport)
        self._lessor = Lessor()
        leader_wait_s = LEADER_WAIT_ELECTIONS * config.election_s
        self.timeout_s = timeout_s = REQUEST_TIMEOUT_S + 2 * config.election_s
        self._proposals = Proposals(
            member=self._me, boot=self._boot, leader_wait_s=leader_wait_s, timeout_s=timeout_s
        )
        self._reads = Reads(boot=self._boot, leader_wait_s=leader_wait_s, timeout_s=timeout_s)
        self._questions = Questions(boot=self._boot, leader_wait_s=leader_wait_s, timeout_s=timeout_s)
        self._reconfiguring = Reconfiguring(
            self.raft, self._courier.post, boot=self._boot, leader_wait_s=leader_wait_s, timeout_s=timeout_s
        )
        self._gathering = Gathering(
            self.raft, self._proposals, self._questions, self._reads, self._courier, self._transport
        )
        self.levels = Levels(
            self.raft,
            self.machine,
            self.members,
            ours=config.level,
            said=self._transport.said_level,
            patience_s=leader_wait_s,
            pause_s=config.heartbeat_s,
        )
        self._duties = Duties(
            self.raft,
            self.machine,
            self._lessor,
            Retention(config.auto_compaction_retention_s, config.auto_compaction_revisions),
            self._reconfiguring,
            self.levels,
            boot=self._boot,
        )
        self._applier = Applier(
            machine=self.machine,
            journal=self._journal,
            watchers=self.watchers,
            lessor=self._lessor,
            proposals=self._proposals,
            tokens=self.tokens,
            reconfiguring=self._reconfiguring,
            lead_in=self._lead_in,
            on_compacted=lambda: self._in_background(self.give_space_back()),
            applied_index=loaded.applied_index,
            counts=self.counts,
            on_configuration=self._configured,
        )
        self.backups = Backups(database, self._name_of)
        self._departures = Departures(
            database,
            self._transport,
            name_of=self._name_of,
            on_sent=self._snapshot_sent,
            on_failed=self._snapshot_failed,
        )
        self._arrived: Arrived | None = None
        self._adopting = False  # no turn until the state is durable that the core lives by already

        self._leadership: tuple[int | None, int] = (None, 0)
        self.leaders_seen = 0
        self.late_heartbeats = 0  # while we led
        self._ticked_at = self._loop.time()
        self._transfers: list[asyncio.Future[None]] = []
        self._turn_due = False
        self._ended = False  # no turn any more
        self._closed = False
        self._ticks = 0
        self._background: set[asyncio.Task[None]] = set()

    def _make_transport(self, disk: int, tls: PeerTls) -> Transport:
        hello = Hello(
            cluster_id=self.identity.cluster_id,
            sender=self._me,
            to=0,
            boot=self._boot,
            nonce=secrets.randbits(63),
            name=self.identity.name,
            disk=disk,
            peer_urls=self.config.initial_advertise_peer_urls,
            level=self.config.level,
        )
        return Transport(
            hello,
            on_message=self._receive,
            on_lost=self._peer_lost,
            on_reachable=self._peer_reachable,
            on_expelled=lambda reason: self._in_background(self._expelled(f"{reason}.")),
            on_failed=self.fail,
            on_hello=self._meet,
            on_delivery=self._arrivals.receive,
            roster=lambda: Roster(
                cluster_id=self.identity.cluster_id,
                configuration=self.members.configuration.encode(),
                index=self.applied_index,
            ),
            level=lambda: self.raft.configuration.level,
            tls=tls,
        )

    # --- from the node ----------------------------------------------------------------------------

    async def propose(self, command: Command, caller: Caller = ANONYMOUS) -> Applied:
        self.check_running()
        if command.level > self.levels.reached:
            await self.levels.wait_for(command.level)
            self.check_running()
        future = self._proposals.submit(command, self._loop.time(), caller)
        self._schedule()
        return await future

    async def read_point(self) -> None:
        self.check_running()
        future = self._reads.wait(self._loop.time())
        self._schedule()
        await future

    async def caught_up(self, index: int) -> None:
        self.check_running()
        if self.applied_index < index:
            await self._reads.until_applied(index, self._loop.time())

    async def flushed(self) -> None:
        self.check_running()
        await self._journal.flushed()

    async def hand_over(self, heir: int | None = None) -> None:
        """Let `heir` lead, by default the voter that lacks least. Returns once another leads, or none will.

        What is proposed meanwhile waits for whoever leads next. Raises NotLeader, TransferRefused.
        """
        self.check_running()
        heir = self.raft.successor if heir is None else heir
        if heir is None or heir == self.raft.leader == self._me:
            return
        self.raft.transfer(heir)
        self._schedule()
        over: asyncio.Future[None] = self._loop.create_future()
        self._transfers.append(over)
        await over

    def _note_transfers(self) -> None:
        """They have ended if another leads, or if the heir did not come and we lead on."""
        if self.raft.leader not in (None, self._me) or self.raft.accepts_proposals:
            for over in self._transfers:
                if not over.done():
                    over.set_result(None)
            self._transfers.clear()

    async def reconfigure(self, step: Step, member: int, *, peer_urls: tuple[str, ...] = ()) -> None:
        """Change the members. Returns once the change is in force, and applied here."""
        self.check_running()
        future = self._reconfiguring.ask(step, member, peer_urls=peer_urls)
        self._schedule()
        await future

    async def give_space_back(self) -> None:
        await self._journal.sweep()
        self._in_background(self._measure())

    async def ask(self, question: Question, lease_id: int) -> Told:
        self.check_running()
        future = self._questions.put(question, lease_id, self._loop.time())
        self._schedule()
        return await future

    @property
    def applied_index(self) -> int:
        """What is read here is the state after this entry."""
        return self._applier.applied_index

    def check_running(self) -> None:
        """After an error nobody expected the machine may hold half a command: whoever reads it asks first."""
        if self._ended:
            raise ServerStopped

    # --- the turn ---------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        if self._ended or self._adopting:
            return
        try:
            self._notice_leadership()
            self._gathering.turn(self._loop.time(), disk_full=self.disk_full)
            self._reconfiguring.turn()
            self.levels.refuse_what_we_cannot_read()
            if self.raft.has_ready():
                self._carry_out(self.raft.ready())
            self._drop_what_is_not_needed()
            self._keep_in_touch()
            self._transport.flush()
            self._note_transfers()
            if self.raft.has_ready():
                self._schedule()
        except BaseException as error:  # noqa: BLE001 - it ends the process
            self.fail(error)

    def _notice_leadership(self) -> None:
        """What was asked of one leader must be asked of the next; only one leader's count of time is good."""
        raft = self.raft
        leadership = (raft.leader, raft.term)
        if leadership == self._leadership:
            return
        if raft.leader is not None:
            self.leaders_seen += 1
            log.info("member %x leads in term %d", raft.leader, raft.term)
            self._proposals.try_again()
            self._introduce_ourselves()
        elif self._leadership[0] is not None:
            log.warning("no leader in term %d", raft.term)
        self._leadership = leadership
        self._gathering.leadership_changed()
        if self._lessor.term and not self._lead_in(self._lessor.term):
            self._lessor.stop()
        self._reads.lost()
        self._questions.leader_changed()

    @property
    def writing(self) -> bool:
        """Whether somebody waits for a write, here or elsewhere."""
        return bool(self._proposals) or self.raft.last_index > self.raft.commit_index

    def load(self) -> Load:
        return Load(
            keys=len(self.machine.keys),
            compact_revision=self.machine.compact_revision,
            watchers=len(self.watchers),
            slow_watchers=self.watchers.behind,
            pending_events=self.watchers.pending,
            proposals=len(self._proposals),
            proposals_failed=self._proposals.failed,
            reads_slow=self._reads.slow,
            reads_failed=self._reads.failed,
            applies_slow=self._applier.slow,
            heartbeats_late=self.late_heartbeats,
            leases_renewed=self._lessor.renewed,
            leaders_seen=self.leaders_seen,
            fsyncs=self._database.fsyncs,
            commits=self._database.commits,
        )

    def _lead_in(self, term: int) -> bool:
        return self.raft.role is Role.LEADER and self.raft.term == term

    # --- who is in the cluster --------------------------------------------------------------------

    def _keep_in_touch(self) -> None:
        """With whom the log names, committed or not: that may take the word of one who is new."""
        if self.raft.configuration is not self._in_touch_with:
            self._in_touch_with = self.raft.configuration
            others = (member for member in self._in_touch_with.members if member.id != self._me)
            urls = {member.id: about(member).peer_urls for member in others}
            self._transport.follow({member: tuple(map(address, each)) for member, each in urls.items()})

    def _configured(self, configuration: Configuration) -> None:
        """It is committed, so for good. Who was removed hears so from the leader, or else from us."""
        if configuration.level > self.members.configuration.level:
            log.info("all members can read log commands of level %d", configuration.level)
        gone = set(configuration.removed).difference(self.members.configuration.removed)
        self.members.configuration = configuration
        self._introduce_ourselves()
        for member in gone:
            self._loop.call_later(self.config.election_s, self._transport.banish, member)
        if self._me in gone:
            self._in_background(self._leave())

    def _introduce_ourselves(self) -> None:
        us = self.members.configuration.member(self._me)
        name, client_urls = self.identity.name, self.config.advertise_client_urls
        if us is not None and (about(us).name, about(us).client_urls) == (name, client_urls):
            self.introduced.set()
        else:
            self._reconfiguring.introduce(name, client_urls)

    async def _leave(self) -> None:
        """Nothing is torn down yet: who asked for it at this very member is still to be told."""
        reason = f"{was_removed(self._me)}."
        with contextlib.suppress(DiskFull):
            await self._journal.expel(reason)
        if not self.failure.done():
            self.failure.set_result(Removed(reason))

    # --- a Ready, in its order --------------------------------------------------------------------

    def _carry_out(self, ready: Ready) -> None:
        for message in ready.messages:
            self._courier.post(message)
        self._transport.flush()  # followers' disks work while ours does
        for offer in ready.offers:
            self._in_background(self._departures.send(offer))
        if ready.snapshot is not None:
            self._adopting = True
            self._in_background(self._adopt(ready, ready.snapshot))
        else:
            self._carry_out_writes(ready)

    def _carry_out_writes(self, ready: Ready) -> None:
        for message in self._journal.persist(ready):
            self._courier.post(message)
        if ready.committed:
            self._applier.apply(ready.committed)
            self._trimming.applied(ready.committed)
            self.raft.applied(ready.committed[-1].index)
        for read in ready.reads:
            self._reads.confirmed(read.context, read.index)
        if ready.reads_lost:
            self._reads.lost()
        self._answer_reads()

    def _jobs_done(self, jobs: list[Job]) -> None:
        if self._ended:
            return
        try:
            self._journal.durable(jobs)
            self.watchers.tail.indexed(self._database.indexed_revision)
            self._transport.flush()
        except BaseException as error:  # noqa: BLE001 - it ends the process
            self.fail(error)
        self._schedule()

    def _durable(self, job: Job) -> None:
        """This job and all before it are on the disk: peers may rely on it."""
        if job.hard_state is not None:
            self.raft.hard_state_persisted(job.hard_state)
            self.durable_term = job.hard_state.term
        if job.last is not None:
            self.raft.persisted(job.last)
        for message in job.messages:
            self._courier.post(message)

    # --- a state in the place of entries ----------------------------------------------------------

    async def _take(self, staged: Staged, offer: SnapshotOffer) -> None:
        """All of a state is there. Returns when we live by it; or by what we have, if that is as good."""
        self.check_running()
        self._arrived = Arrived(staged, self._loop.create_future())
        self.raft.step(offer)
        self._schedule()
        await self._arrived.settled

    def _drop_what_is_not_needed(self) -> None:
        """The core was told of a state, and its Ready did not ask for it."""
        if self._arrived is not None and not self._adopting:
            self._arrived.settled.set_result(None)
            self._arrived = None

    async def _adopt(self, ready: Ready, name: Snapshot) -> None:
        """Until the state is our file, we live on by the old one: machine, readers, watchers and all.

        Then all of them change in one step, and the rest of the Ready is carried out. The core is ahead of
        them meanwhile; so nobody here asks it how far we have applied.
        """
        assert self._arrived is not None, "the core wants a state that nobody brought"
        staged = self._arrived.staged
        assert staged.name == name
        await self._journal.adopt(staged, ready.hard_state)
        if self._ended:
            return
        before = self.machine.keys
        self._applier.skip_to(name, staged.machine)
        self._in_background(asyncio.to_thread(before.dissolve))
        self._configured(name.configuration)
        self._trimming.begin(name.last.index)
        self.raft.persisted(name.last)
        self._adopting = False
        self._drop_what_is_not_needed()
        log.info("lives by a snapshot up to entry %d", name.last.index)
        gc.freeze()  # as after a start: a million keys in the collector's way cost the loop 50 ms each time
        self._carry_out_writes(ready)
        self._transport.flush()
        self._schedule()

    def _name_of(self, index: int) -> Snapshot | None:
        return self.raft.snapshot_at(index) if index >= self.raft.log.base.index else None

    def _snapshot_sent(self, peer: int, last: int) -> None:
        self.raft.snapshot_sent(peer, last)
        self._schedule()

    def _snapshot_failed(self, peer: int) -> None:
        self.raft.snapshot_failed(peer)
        self._schedule()

    # --- answers ----------------------------------------------------------------------------------

    def _answer_reads(self) -> None:
        """End the waits for what is applied now; those of followers end with a message."""
        for index, ask in self._reads.applied(self.applied_index):
            told = self._lessor.answer(ask, index, self._loop.time())
            if ask.sender == self._me:
                self._questions.told(told)
            else:
                self._courier.post(told)

    # --- notes from outside -----------------------------------------------------------------------

    def _receive(self, message: PeerMessage) -> None:
        self._heed(self._note, message)

    def _peer_lost(self, peer: int) -> None:
        self.traffic[peer].lost()
        self._heed(self.raft.peer_lost, peer)

    def _heed(self, note: Callable[[T], None], news: T) -> None:
        if self._ended:
            return
        try:
            note(news)
        except BaseException as error:  # noqa: BLE001 - it ends the process
            self.fail(error)
        self._schedule()

    def _note(self, message: PeerMessage) -> None:
        match message:
            case Forward():
                self._gathering.forwarded(message)
            case ForwardRefused():
                self._proposals.refused(message.sequences)
            case Reconfigure() | Reconfigured():
                self._reconfiguring.receive(message)
            case Ask() if self.raft.role is Role.LEADER:
                self._reads.asked(message)
            case Ask():
                self._courier.post(message.reply(REFUSED))
            case Told() if message.question is not Question.BARRIER:
                self._questions.told(message)
            case Told() if message.index != REFUSED:
                self._reads.confirmed(message.context, message.index)
                self._answer_reads()
            case Told():
                pass  # the round is old soon, and then asked again
            case HeartbeatReply():
                self.traffic[message.sender].answered(message.context)
                self.raft.step(message)
            case PreVoteRequest() if not self.raft.hears_pre_votes:
                self._loop.call_later(PRE_VOTE_HELD_S, self._heed, self.raft.step, message)
            case _:
                self.raft.step(message)

    async def _meet(self, hello: Hello) -> Unwelcome | None:
        """Nobody comes in before it is durable that they did.

        What they acknowledge to us counts, also when we and they have been restarted since, they on nothing.
        """
        async with self._meeting:
            refusal = self.members.refusal(hello)
            if refusal is None and not self.members.knows(hello):
                try:
                    await self._journal.remember(hello.sender, life_of(hello))
                except DiskFull:
                    return Unwelcome(reason="its disk is full, and could not tell us from another later")
            if refusal is None:
                self.members.met(hello)
            return refusal

    async def _expelled(self, reason: str) -> None:
        """The peers want no more of us: for good, or enough restarts would make us look like one of them."""
        if not self.disk_full:
            with contextlib.suppress(DiskFull):
                await self._journal.expel(reason)
        self.fail(StartupError(reason))

    def _peer_reachable(self, _peer: int) -> None:
        self._schedule()

    def _disk_filled(self, full: bool) -> None:
        self.disk_full = full

    def _tick(self) -> None:
        """One heartbeat interval passed. After a pause this is one tick, not many: late is never early."""
        if self._ended:
            return
        self._loop.call_later(self.config.heartbeat_s, self._tick)
        now, has_leader = self._loop.time(), self.raft.leader is not None
        late = now - self._ticked_at > LATE_HEARTBEATS * self.config.heartbeat_s
        self.late_heartbeats += late and self.raft.role is Role.LEADER
        self._ticked_at = now
        try:
            self.raft.tick()
            self._proposals.tick(now, has_leader=has_leader)
            self._reads.tick(now, has_leader=has_leader, leading=self.raft.role is Role.LEADER)
            self._questions.tick(now, has_leader=has_leader)
            self._trim_log()
            self._reconfiguring.tick(now)
            self._introduce_ourselves()
            self._duties.tick(now, disk_full=self.disk_full)
        except BaseException as error:  # noqa: BLE001 - it ends the process
            self.fail(error)
        self._ticks += 1
        if self._ticks % SIZES_EVERY_TICKS == 0:
            self._in_background(self._measure())
        self._schedule()

    def _trim_log(self) -> None:
        """In memory at once, in the file in slices."""
        index = self._trimming.take(self._journal.durable_applied, self.raft.held_by_peers)
        if index is not None and (base := self.raft.compact(index)) is not None:
            self._in_background(self._journal.trim(base))

    async def _measure(self) -> None:
        self.sizes = await asyncio.to_thread(self._database.sizes)
        if not self._ended:
            await self._quota.measured(self.sizes.in_use - self._trimming.weight)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background_done)

    def _background_done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    # --- beginning and end ------------------------------------------------------------------------

    @classmethod
    async def start(cls, config: NodeConfig) -> Self:
        """Raises StartupError, having left nothing open."""
        tls = PeerTls(config.peer_tls)
        replica = cls(config, await open_file(config), tls)
        try:
            await replica._join()
        except BaseException:
            await replica.stop()
            raise
        return replica

    async def _join(self) -> None:
        """Meet the peers and let time begin. Alone there is nobody to wait for: lead at once."""
        if self._me in self.members.configuration.removed:
            raise StartupError(f"{was_removed(self._me)}.")
        self.levels.refuse_what_we_cannot_read()
        alone = self.raft.configuration.ids == (self._me,)
        try:
            await self._transport.listen([address(url) for url in self.config.listen_peer_urls])
        except StartupError as error:
            if not alone:
                raise
            log.warning("%s So no member can be added.", error)
        while self.raft.configuration.voters == (self._me,) and self.raft.role is Role.FOLLOWER:
            self.raft.tick()
        self._keep_in_touch()
        self._in_background(self._journal.sweep())
        self._in_background(self._journal.trim())
        self._in_background(self._wait_to_be_told())
        self._in_background(self._inspect())
        self._tick()

    async def _inspect(self) -> None:
        """Look at the pages that the start has not: a page that is damaged is the end of this node."""
        inspection = self._database.inspection()
        walking = asyncio.ensure_future(asyncio.to_thread(inspection.walk))
        try:
            await asyncio.shield(walking)
        finally:
            while not walking.done():
                inspection.interrupt()  # we are to stop, and its thread would keep us; it may not have begun
                await asyncio.wait((walking,), timeout=0.1)
            walking.exception()  # looked at: that it was interrupted is no news
            inspection.close()

    async def _wait_to_be_told(self) -> None:
        """A newcomer dials nobody before it is told whom; and if it was removed before, it never is."""
        while not self.raft.configuration.members:
            if await removed(self.config, self.identity):
                await self._expelled(f"{was_removed(self._me)}.")
                return
            await asyncio.sleep(self.config.election_s)

    def fail(self, error: BaseException) -> None:
        """Nothing more leaves this node; whoever awaits `failure` ends the process."""
        self._ended = True
        self._journal.abandon()
        self._transport.close()
        if not self.failure.done():
            self.failure.set_result(error)

    async def stop(self) -> None:
        """Idempotent. Whoever waits is told what is certain, and no more."""
        if self._closed:
            return
        self._closed = self._ended = True
        for task in self._background:
            task.cancel()
        self.watchers.stop()
        self.passwords.close()
        self._proposals.stop()
        self._reads.stop()
        self._questions.stop()
        self._reconfiguring.stop()
        for over in self._transfers:
            over.cancel()
        if self._arrived is not None:
            self._arrived.settled.cancel()
        self._transport.flush()
        self._transport.close()
        if self._background:
            await asyncio.wait(self._background)  # the last to close the file must be its writer
        await asyncio.to_thread(self.history.close)  # it lets a read under way finish
        await self._journal.close()
