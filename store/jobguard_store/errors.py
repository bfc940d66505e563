"""What a node refuses on purpose, named for what the caller does next.

Place in the house   everything in the store may raise these; api/server.py alone turns them into a status
Never                imports anything of ours

The texts are etcd's, to the letter: clients compare them. Anything that is not a StoreError is a bug, and
ends the process: a restart from the durable log is the repair.
"""


class StoreError(Exception):
    """A definite answer: what was asked did not happen and will not."""

    text = ""

    def __init__(self, text: str | None = None) -> None:
        super().__init__(text or self.text)


class InvalidRequest(StoreError):
    """The request can never succeed as it stands."""


class KeyNotProvided(InvalidRequest):
    text = "etcdserver: key is not provided"


class KeyNotFound(InvalidRequest):
    """ignore_value or ignore_lease on a key that is not there; also an empty op of a txn."""

    text = "etcdserver: key not found"


class ValueProvided(InvalidRequest):
    text = "etcdserver: value is provided"


class LeaseProvided(InvalidRequest):
    text = "etcdserver: lease is provided"


class TooManyOps(InvalidRequest):
    text = "etcdserver: too many operations in txn request"


class DuplicateKey(InvalidRequest):
    text = "etcdserver: duplicate key given in txn request"


class InvalidSortOption(InvalidRequest):
    text = "etcdserver: invalid sort option"


class RequestTooLarge(InvalidRequest):
    text = "etcdserver: request is too large"


class MessageTooLarge(StoreError):
    """The request was not even read; the text is that of etcd's gRPC layer."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"grpc: received message larger than max ({size} vs. {limit})")


class NotAllKnow(StoreError):
    """The request takes a log command that is newer than what all members have said they can read."""

    def __init__(self, *members: str) -> None:
        super().__init__(
            "jobguard: not every member of the cluster can read what this request writes: "
            f"start {' and '.join(members)} with this version of jobguard first"
        )


class LeaseNotFound(StoreError):
    text = "etcdserver: requested lease not found"


class MemberNotFound(StoreError):
    text = "etcdserver: member not found"


class BadMemberURLs(InvalidRequest):
    text = "etcdserver: given member URLs are invalid"


class ReconfigurationRefused(StoreError):
    """The members stay as they are."""


class MemberExists(ReconfigurationRefused):
    text = "etcdserver: member ID already exist"


class PeerURLExists(ReconfigurationRefused):
    text = "etcdserver: Peer URLs already exists"


class NotEnoughStartedMembers(ReconfigurationRefused):
    text = "etcdserver: re-configuration failed due to not enough started members"


class TooManyLearners(ReconfigurationRefused):
    text = "etcdserver: too many learner members in cluster"


class NotALearner(ReconfigurationRefused):
    text = "etcdserver: can only promote a learner member"


class LearnerNotReady(ReconfigurationRefused):
    text = "etcdserver: can only promote a learner member which is in sync with leader"


class UnhealthyCluster(ReconfigurationRefused):
    """Of those that would vote afterwards, no majority is in touch with the leader now."""

    text = "etcdserver: unhealthy cluster"


class LeaseExists(StoreError):
    text = "etcdserver: lease already exists"


class LeaseTTLTooLarge(StoreError):
    text = "etcdserver: too large lease TTL"


class Compacted(StoreError):
    """The revision asked for is gone; a watcher must range again from `compact_revision`."""

    text = "etcdserver: mvcc: required revision has been compacted"

    def __init__(self, compact_revision: int = 0) -> None:
        super().__init__()
        self.compact_revision = compact_revision


class FutureRevision(StoreError):
    text = "etcdserver: mvcc: required revision is a future revision"


class TooManyRequests(StoreError):
    text = "etcdserver: too many requests"


class NoSpace(StoreError):
    """This node's disk is full, or a member's quota is: nothing is accepted that takes space."""

    text = "etcdserver: mvcc: database space exceeded"


class CorruptCluster(StoreError):
    """A member's state is not the others'. Nothing may change before somebody has looked; reads go on."""

    text = "etcdserver: corrupt cluster"


class NoLeader(StoreError):
    """No leader is known; nothing was proposed, so asking another node or again is safe."""

    text = "etcdserver: no leader"


class NotTheLeader(StoreError):
    """This must be asked of the leader."""

    text = "etcdserver: not leader"


class BadTransferee(StoreError):
    text = "etcdserver: bad leader transferee"


class LeaderChanged(StoreError):
    """The leader refused before appending; nothing was proposed. Only ever a definite refusal."""

    text = "etcdserver: leader changed"


class ServerStopped(StoreError):
    text = "etcdserver: server stopped"


class RecipeRefused(StoreError):
    """A lock or an election says no; gRPC has no code for what it means."""


class SessionExpired(RecipeRefused):
    """The lease ended while its owner waited for the lock."""

    text = "mutex: session is expired"


class NotElected(RecipeRefused):
    text = "election: not leader"


class NobodyElected(RecipeRefused):
    text = "election: no leader"


class LeaderKeyNotProvided(RecipeRefused):
    text = '"leader" field must be provided'


class InvalidDowngradeTarget(InvalidRequest):
    text = "etcdserver: invalid downgrade target version"


class WrongDowngradeFormat(InvalidRequest):
    text = "etcdserver: wrong downgrade target version format"


class NoDowngrade(StoreError):
    text = "etcdserver: no inflight downgrade job"


class AuthRefused(StoreError):
    """The users and roles stay as they are."""


class AuthNotEnabled(AuthRefused):
    text = "etcdserver: authentication is not enabled"


class RootUserNotExist(AuthRefused):
    text = "etcdserver: root user does not exist"


class RootRoleNotExist(AuthRefused):
    text = "etcdserver: root user does not have root role"


class UserExists(AuthRefused):
    text = "etcdserver: user name already exists"


class UserNotFound(AuthRefused):
    text = "etcdserver: user name not found"


class RoleExists(AuthRefused):
    text = "etcdserver: role name already exists"


class RoleNotFound(AuthRefused):
    text = "etcdserver: role name not found"


class RoleNotGranted(AuthRefused):
    text = "etcdserver: role is not granted to the user"


class PermissionNotGranted(AuthRefused):
    text = "etcdserver: permission is not granted to the role"


class UserEmpty(InvalidRequest):
    """A user without a name; also: no token, where there has to be one."""

    text = "etcdserver: user name is empty"


class RoleEmpty(InvalidRequest):
    text = "etcdserver: role name is empty"


class PermissionNotGiven(InvalidRequest):
    text = "etcdserver: permission not given"


class InvalidAuthManagement(InvalidRequest):
    """Nobody could undo it: root is left as it is while authentication is on."""

    text = "etcdserver: invalid auth management"


class AuthFailed(InvalidRequest):
    text = "etcdserver: authentication failed, invalid user ID or password"


class AuthRevisionOld(InvalidRequest):
    """The users have changed since the caller was told from his token. It may be good still: look again."""

    text = "etcdserver: revision of auth store is old"


class NoPasswordUser(StoreError):
    """gRPC has no code for it."""

    text = "auth: authentication failed, password was given for no password user"


class PermissionDenied(StoreError):
    text = "etcdserver: permission denied"


class InvalidAuthToken(StoreError):
    """We gave it to nobody; or it is of an earlier life, too old, or of before a change of his password."""

    text = "etcdserver: invalid auth token"


class OutcomeUnknown(Exception):
    """The request may or may not have happened; deliberately not a StoreError (no definite answer)."""


class RequestTimedOut(OutcomeUnknown):
    def __init__(self, text: str = "etcdserver: request timed out") -> None:
        super().__init__(text)


class DeadlineExceeded(OutcomeUnknown):
    """The caller's own deadline passed, from its Grpc-Timeout header."""

    def __init__(self) -> None:
        super().__init__("context deadline exceeded")


class StartupError(Exception):
    """The node cannot start; the message is the one sentence its operator reads."""


class TooOld(StartupError):
    """In the log of what is named there may be what this build cannot read."""

    def __init__(self, what: str, level: int, ours: int) -> None:
        super().__init__(
            f"{what} needs a newer jobguard: its log is at level {level}, and this one reads level {ours}."
        )


class Removed(StartupError):
    """The node is no member any more, and stops."""


class DatabaseDamaged(StartupError):
    """The node's file cannot be read as it was written."""


class DatabaseNewer(StartupError):
    """The node's file was written by a newer build."""


class DatabaseInUse(StartupError):
    """Another process holds the node's file."""


class DatabaseUnusable(StartupError):
    """The node's file may be sound, but cannot be opened, read or written as things are."""
