"""What the client library raises, named for what the caller does next.

Place in the house   everything under jobguard may raise these; so may the web UI and the CLI
Never                imports anything of ours

The line that matters runs between `Unavailable` (it did not happen: try again when you like) and
`OutcomeUnknown` (it may have happened: find out before you do it again).
"""


class JobguardError(Exception):
    """Everything jobguard raises on purpose."""


class ConfigurationError(JobguardError, ValueError):
    """A setting or an argument cannot be used; the text says which and what would be right."""


class Unavailable(JobguardError):
    """No endpoint answered in time. A write was certainly not done, a read simply failed."""


class OutcomeUnknown(JobguardError):
    """The request was sent and no answer came: it may have been done, or may still be done.

    Sending an unconditional write again could do it twice; a transaction with compares can be sent again
    as it is (`Client.txn_until_known`).
    """


class WrongCluster(JobguardError):
    """An endpoint belongs to another cluster than the answers before; their tokens do not compare."""


class ServerError(JobguardError):
    """The store refused: what was asked did not happen and will not. `code` is the gRPC code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class LeaseNotFound(ServerError):
    """The lease named in a put, a transaction or a revoke has ended."""


class LeaseExists(ServerError):
    """The lease id asked for is in use."""


class Compacted(ServerError):
    """The revision asked for is gone; range again, then watch from the answer's revision + 1."""

    def __init__(self, compact_revision: int = 0) -> None:
        super().__init__(11, "etcdserver: mvcc: required revision has been compacted")
        self.compact_revision = compact_revision


class LeaseExpired(JobguardError):
    """The session's lease has ended, or may have: by our own clock, early, or because the store said so."""


class NotAcquired(JobguardError):
    """The lock was not ours within the time allowed. Nothing of us is left in its queue."""


class NotHolder(JobguardError):
    """What was asked takes a holder, and we do not hold it (now)."""


class LockLost(NotHolder):
    """We held it and lost it: the lease ended or an operator released it. Another may hold it now."""


class Fenced(JobguardError):
    """The resource has seen a newer fencing token: a later holder was here, so this write was refused."""


class NotGuarded(NotHolder):
    """`current()` was asked outside the body of a scheduled run: there is no occurrence and no token."""


class Skipped(JobguardError):
    """A task with a `jobguard` option was not run: its key is taken, or used up. The text says by whom."""
