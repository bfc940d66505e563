"""What a node wants sent, in the two lists of a Ready, and how much of what it promised is durable.

Place in the house   raft.core  ->  raft.outbox
Never                puts a message into the first list that speaks of a term the disk does not hold
"""

from jobguard_store.raft.messages import AppendReply, HardState, Message


class Outbox:
    def __init__(self, hard_state: HardState) -> None:
        self._durable = self._handed = hard_state
        self._at_once: list[Message] = []
        self._after_persist: list[Message] = []

    def has_work(self, term: int, voted_for: int | None) -> bool:
        """Something is to be sent, or to be made durable."""
        return bool(self._at_once or self._after_persist) or self.is_news(term, voted_for)

    # -- Hard state

    def is_news(self, term: int, voted_for: int | None) -> bool:
        """Whether the node is still to be told of it."""
        return term != self._handed.term or voted_for != self._handed.voted_for

    def hand_out(self, hard_state: HardState) -> HardState:
        self._handed = hard_state
        return hard_state

    def persisted(self, hard_state: HardState) -> None:
        self._durable = hard_state

    # -- Messages

    def send(self, message: Message, *, term: int | None = None) -> None:
        """Send what needs no more than our term to be durable: without it, we could deny having said it.

        `term` is ours where the message speaks of another.
        """
        ours = message.term if term is None else term
        (self._at_once if ours == self._durable.term else self._after_persist).append(message)

    def send_at_once(self, message: Message) -> None:
        """Send what promises nothing."""
        self._at_once.append(message)

    def send_after_persist(self, message: Message) -> None:
        self._after_persist.append(message)

    def acknowledge(self, reply: AppendReply) -> None:
        """Send it after what it speaks of. Of one turn's acknowledgements the last says all."""
        last = self._after_persist[-1] if self._after_persist else None
        if isinstance(last, AppendReply) and last.to == reply.to and last.match <= reply.match:
            self._after_persist.pop()
        self._after_persist.append(reply)

    def forget_promises(self) -> None:
        """We leave a term in which they were not sent yet: they bind nobody.

        And an unsent acknowledgement may be about entries that give way before they are ever written.
        """
        self._after_persist.clear()

    def take(self) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
        taken = tuple(self._at_once), tuple(self._after_persist)
        self._at_once.clear()
        self._after_persist.clear()
        return taken
