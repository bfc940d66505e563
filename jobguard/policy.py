"""What a user may choose per job: `jobguard_jobs = {"<beat entry>": {"overlap": "allow"}, "*": {…}}`.

Place in the house   beat and worker  ->  policy  ->  errors
Takes                the setting `jobs`, and the names of the beat entries
Gives                one frozen Policy per job
Never                lets a misspelt job, key or value pass: each is refused with a suggestion

Policies live beside `beat_schedule`, never in it: a foreign key in an entry breaks stock beat.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any
from zoneinfo import ZoneInfo

from jobguard.errors import ConfigurationError

DEFAULTS = "*"
CATCH_UP_MAX = 50
"""With the missed ones beside them, what one transaction of the store carries."""
SECONDS_MAX = 36525 * 86400.0
"""What comes after it is still a date, whenever one asks."""


def _one_of(*known: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in known:
            raise ValueError(suggest(str(value), known))
        return str(value)

    return read


def _on_lost(value: Any) -> int:
    match value:
        case "fail":
            return 0
        case "rerun":
            return 3
        case {"rerun": int(times)} if times >= 0 and len(value) == 1:
            return times
    raise ValueError('it takes "rerun", {"rerun": <times>} or "fail"')


def _catch_up(value: Any) -> int:
    match value:
        case "none":
            return 0
        case "last":
            return 1
        case {"all": int(number)} if 0 < number <= CATCH_UP_MAX and len(value) == 1:
            return number
    raise ValueError(f'it takes "none", "last" or {{"all": <at most {CATCH_UP_MAX}>}}')


def _seconds(value: Any) -> float:
    number = float(value)
    if not 0 < number <= SECONDS_MAX:
        raise ValueError("a number of seconds above zero is needed, and 100 years at most")
    return number


def _zone(value: Any) -> ZoneInfo:
    try:
        return ZoneInfo(value)
    except Exception as error:  # noqa: BLE001 - the zone database raises half a dozen kinds
        raise ValueError(f"no such time zone ({error})") from None


def _policy(default: Any, read: Callable[[Any], Any]) -> Any:
    return field(default=default, metadata={"read": read})


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The choices for one job. A default surprises nobody who knows stock Celery, but for `overlap`."""

    on_lost: int | None = _policy(None, _on_lost)
    """How many lost attempts are dispatched again. None: 3 if the task has acks_late, else 0."""

    overlap: str = _policy("skip", _one_of("skip", "queue-one", "allow"))
    """When the job's previous occurrence is still running."""

    catch_up: int = _policy(1, _catch_up)
    """How many of the occurrences that were due while no beat led are started: none, last, {"all": n}."""

    start_deadline: float | None = _policy(None, _seconds)
    """Seconds after the nominal time; an occurrence not started by then is late. None: one period."""

    on_suspect: str = _policy("stop", _one_of("stop", "continue"))
    """What happens to a running body when the store cannot be reached: stop it at the deadline, or not."""

    no_quorum: str = _policy("skip", _one_of("skip", "run-unguarded"))
    """While no quorum of the store answers: start nothing, or start it unguarded, perhaps more than once."""

    zone: ZoneInfo | None = _policy(None, _zone)  # noqa: RUF009 - a field like the others
    dst: str = _policy("once", _one_of("skip", "once", "both"))

    def planned(self, reruns: int) -> dict[str, Any]:
        """What of it the planner needs, as the store keeps it; `reruns` is what became of `on_lost`."""
        return {
            "on_lost": {"rerun": reruns} if reruns else "fail",
            "overlap": self.overlap,
            "catch_up": {0: "none", 1: "last"}.get(self.catch_up, {"all": self.catch_up}),
            "start_deadline": self.start_deadline,
        }


def policies(jobs: Mapping[str, Mapping[str, Any]], names: Collection[str]) -> dict[str, Policy]:
    """The policy of every beat entry in `names`. Raises ConfigurationError."""
    for name in jobs:
        if name != DEFAULTS and name not in names:
            hint = suggest(name, list(names)) if names else "there are no beat entries"
            raise ConfigurationError(f"jobguard_jobs names {name!r}, which is no beat entry; {hint}")
    common = policy_of(jobs, DEFAULTS)
    return {name: policy_of({name: jobs.get(name, {})}, name, common) for name in names}


def policy_of(jobs: Mapping[str, Mapping[str, Any]], name: str, common: Policy | None = None) -> Policy:
    """The policy of one job alone, for a worker that knows no beat entries."""
    if common is None:
        common = Policy() if name == DEFAULTS else policy_of(jobs, DEFAULTS)
    return chosen(jobs.get(name, {}), common, f"jobguard_jobs[{name!r}]")


def chosen(said: Mapping[str, Any], common: Policy, where: str) -> Policy:
    """`common`, with what was `said` in its place. Raises ConfigurationError."""
    known = {each.name: each for each in fields(Policy)}
    read = {}
    for key, value in said.items():
        if key not in known:
            raise ConfigurationError(f"{where}[{key!r}]: no such policy; {suggest(str(key), list(known))}")
        try:
            read[key] = known[key].metadata["read"](value)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"{where}[{key!r}] = {value!r} cannot be used: {error}") from None
    return replace(common, **read)


def of_plan(planned: Mapping[str, Any]) -> Policy:
    """The policy that `Policy.planned` came from. Raises ConfigurationError for one of later code."""
    said = {key: value for key, value in planned.items() if value is not None}
    return chosen(said, Policy(), "the policy in the store")


def suggest(word: str, known: Collection[str]) -> str:
    """What somebody may have meant who wrote `word`."""
    close = get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"
