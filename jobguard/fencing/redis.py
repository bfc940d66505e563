"""Guarded writes in the user's Redis: token compared and commands run in one server-side script.

Place in the house   users' task bodies  ->  fencing.redis  ->  redis-py, handed in by the caller
Takes                a redis-py client, a resource's name, who holds, commands
Gives                the commands' replies, or Fenced
Never                imports redis-py (any client with `eval` will do), talks to the store

    fence(redis, "report", lock)                                   # before the first read
    guarded(redis, "report", lock, ["SET", "report:{eu}", "…"])    # compared again, with the write

The guard is a hash at `jobguard:guard:<resource>`. On a Redis Cluster a script may touch one slot only: give
the resource the hash tag of its keys, as in `{eu}`. A Redis that loses acknowledged writes at a failover may
lose a guard's advance with them; where that matters, fence in the database.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from jobguard.errors import Fenced
from jobguard.fencing import Holder

Word = str | bytes | int | float

PREFIX = "jobguard:guard:"

# Tokens are compared as decimal strings, by length first: Lua's numbers are exact only up to 2^53.
# ARGV: token, cluster, then each command as its length and its words.
_SCRIPT = """
local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end
local seen = redis.call('HMGET', KEYS[1], 'token', 'cluster')
if seen[1] then
  if seen[2] ~= ARGV[2] then return {0, seen[1], seen[2]} end
  if less(ARGV[1], seen[1]) then return {0, seen[1], seen[2]} end
end
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'cluster', ARGV[2])
local replies = {1}
local at = 3
while at <= #ARGV do
  local count = tonumber(ARGV[at])
  replies[#replies + 1] = redis.call(unpack(ARGV, at + 1, at + count))
  at = at + count + 1
end
return replies
"""


class Redis(Protocol):
    """What is needed of redis-py's client; the commands' keys are named to it for routing."""

    def eval(self, script: str, numkeys: int, *keys_and_args: Any) -> Any: ...


def fence(redis: Redis, resource: str, holder: Holder) -> None:
    """Let this holder in, and no earlier one any more. Raises Fenced if a later one was here."""
    guarded(redis, resource, holder)


def guarded(redis: Redis, resource: str, holder: Holder, *commands: Sequence[Word]) -> list[Any]:
    """Run commands, all or none, if no later holder was here; their raw replies. Raises Fenced.

    A command that fails stops the script; those before it stay done, as in any Redis script.
    """
    words = [word for command in commands for word in (len(command), *command)]
    keys = [PREFIX + resource, *(command[1] for command in commands if len(command) > 1)]
    answer: list[Any] = redis.eval(
        _SCRIPT, len(keys), *keys, str(holder.fencing_token), str(holder.cluster_id), *words
    )
    passed, *replies = answer
    if not passed:
        token, cluster = (_text(each) for each in replies)
        raise Fenced(_reason(resource, holder, token, cluster))
    return replies


def move(redis: Redis, resource: str, holder: Holder) -> None:
    """Make the guard of one resource accept the cluster of `holder`, an operator's step after a move."""
    redis.eval(
        "redis.call('HSET', KEYS[1], 'token', ARGV[1], 'cluster', ARGV[2])",
        *(1, PREFIX + resource, str(holder.fencing_token), str(holder.cluster_id)),
    )


def _reason(resource: str, holder: Holder, token: str, cluster: str) -> str:
    if cluster != str(holder.cluster_id):
        return f"{resource!r} is guarded for cluster {int(cluster):x}, not {holder.cluster_id:x}: see move()"
    return f"{resource!r} has seen token {token}; {holder.fencing_token} came too late"


def _text(reply: str | bytes) -> str:
    return reply.decode() if isinstance(reply, bytes) else reply
