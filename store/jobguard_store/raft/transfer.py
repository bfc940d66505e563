"""Leadership on its way to another: whom it goes to, and for how long we wait (thesis 3.10).

Place in the house   raft.leading  ->  raft.transfer
Never                sends

Nothing is appended meanwhile, so that the heir can hold all there is. Once it does it is told to stand,
without asking ahead. If it does not win within an election timeout we go on to lead: it may be down.
"""


class TransferRefused(Exception):
    """Nothing changed: leadership cannot go there."""


class Transfer:
    def __init__(self, heir: int, election_ticks: int) -> None:
        self.heir = heir
        self._ticks_left = election_ticks
        self._told = False

    def may_tell(self, match: int, last_index: int) -> bool:
        """Whether the heir is to be told now; once."""
        if self._told or match < last_index:
            return False
        self._told = True
        return True

    def tick(self) -> bool:
        """Whether there is hope left."""
        self._ticks_left -= 1
        return self._ticks_left > 0
