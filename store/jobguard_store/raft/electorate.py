"""Who votes, and whether we may ask them to: the log's last configuration as one member sees it.

Place in the house   raft.core  ->  raft.electorate  ->  raft.log
Never                keeps a configuration that the log has cut off
"""

from jobguard_store.raft.configuration import NOBODY, Configuration
from jobguard_store.raft.log import RaftLog


class Electorate:
    def __init__(self, node_id: int, log: RaftLog) -> None:
        self._node_id = node_id
        self._log = log
        self.configuration: Configuration = NOBODY
        self.voters: tuple[int, ...] = ()
        self.others: tuple[int, ...] = ()  # the voters besides us
        self.includes_us = False
        self.follow_log()

    def follow_log(self) -> bool:
        """Whoever the last configuration in the log names is who counts. True if that is news."""
        if self.configuration is self._log.configuration:
            return False
        self.configuration = self._log.configuration
        self.voters = self.configuration.voters
        self.others = tuple(voter for voter in self.voters if voter != self._node_id)
        self.includes_us = self._node_id in self.voters
        return True

    @property
    def rivals(self) -> int:
        """How many may ask for votes beside us. That a node knows no voter does not mean there is none."""
        return len(self.others) if self.voters else 1

    def may_stand(self, commit_index: int) -> bool:
        """Voters may; and one whose removal stands in its log, until it knows that to be committed.

        It may be needed for that: of two nodes, the leader removes itself and crashes before the other has
        the entry, whose log is then too short to win the vote it needs (thesis 4.2.2). Its own vote is none.
        """
        since = self._log.configuration_index
        if self.includes_us or since <= commit_index:
            return self.includes_us
        return self._node_id in self._log.configuration_at(since - 1).voters

    def has_dismissed_us(self, commit_index: int) -> bool:
        """The last configuration is committed, and we are no voter of it."""
        return not self.includes_us and self._log.configuration_index <= commit_index

    def rank_without(self, leader: int) -> int:
        """Our place among the voters that may follow `leader`; others come last, and never ask."""
        heirs = [voter for voter in self.voters if voter != leader]
        return heirs.index(self._node_id) if self._node_id in heirs else len(heirs)
