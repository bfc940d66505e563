"""What a task asks for: `@app.task(jobguard={"lock": ["customer"], "wait": 30})`.

Place in the house   sweep, when a worker boots; turn, for each call -> here -> policy, masking
Takes                a task; the arguments of a call
Gives                OptIn: how many at a time and for how long; the name of a call's key
Never                lets a misspelt option or argument pass, or shows an argument whose name sounds secret

    {"lock": names}                     one run at a time
    {"limit": names, "at_most": n}      n runs at a time
    {"once": names, "window": seconds}  one completes, and no other starts for so long after it
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from jobguard.errors import ConfigurationError
from jobguard.masking import is_secret
from jobguard.policy import suggest

OPTION = "jobguard"
"""The task option, and so the attribute of its class."""

ALL = "*"
_SHOWN_BYTES_MAX = 64  # of one argument; a longer one is told by its digest
_NEEDED = {"once": "window", "lock": None, "limit": "at_most"}
_COMMON = ("wait", "on_skip")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptIn:
    """A task's choice."""

    task: str
    names: tuple[str, ...]  # of the arguments that make the key
    signature: inspect.Signature
    at_most: int = 1
    window: float = 0.0  # seconds for which a completion uses the key up; 0: it does not
    wait: float = 0.0  # seconds a call waits for its turn before it is skipped
    raises: bool = False  # Skipped, where it is skipped; else it returns None

    def name(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """The key of this call: equal arguments, however they are passed, give equal names.

        Raises TypeError for arguments that do not fit the task, or that cannot be written down as JSON.
        """
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values = dict(bound.arguments)
        others = _others(self.signature)
        if others is not None and others not in self.names:
            values.update(values.pop(others))
        return f"{self.task}({', '.join(f'{name}={_shown(name, values.get(name))}' for name in self.names)})"


def opt_in(task: Any) -> OptIn | None:
    """The choice of a task; None for one that made none. Raises ConfigurationError."""
    said = getattr(task, OPTION, None)
    if said is None:
        return None
    where = f"its option {OPTION}={said!r} cannot be used"
    if not isinstance(said, Mapping):
        raise ConfigurationError(f'{where}: a mapping is needed, such as {{"lock": ["customer"]}}')
    try:
        return _read(task, said)
    except ValueError as error:
        raise ConfigurationError(f"{where}: {error}") from None


def _read(task: Any, said: Mapping[str, Any]) -> OptIn:
    asked = [kind for kind in _NEEDED if kind in said]
    known = (*_NEEDED, *(need for need in _NEEDED.values() if need), *_COMMON)
    for key in said:
        if key not in known:
            raise ValueError(f"there is no {key!r}; {suggest(str(key), known)}")
    if len(asked) != 1:
        raise ValueError('one of "once", "lock" and "limit" is needed, with the names of arguments')
    (kind,) = asked
    for other, need in _NEEDED.items():
        if need and (need in said) != (other == kind):
            raise ValueError(f'"{other}" needs "{need}"' if other == kind else f'"{need}" is for "{other}"')
    signature = inspect.signature(getattr(task, "_orig_run", task.run))  # autoretry's own takes anything
    return OptIn(
        task=task.name,
        names=_names(said[kind], signature),
        signature=signature,
        at_most=_number(said, "at_most", 1, int, lambda n: n >= 1, "a whole number, 1 or more,"),
        window=_number(said, "window", 0.0, (int, float), lambda s: s > 0, "a number of seconds above zero"),
        wait=_number(said, "wait", 0.0, (int, float), lambda s: s >= 0, "a number of seconds"),
        raises=_choice(said.get("on_skip", "return")) == "raise",
    )


def _names(said: object, signature: inspect.Signature) -> tuple[str, ...]:
    parameters = tuple(signature.parameters)
    if said == ALL:
        return parameters
    if not isinstance(said, (list, tuple)):
        raise ValueError(
            f'names of arguments are needed: ["customer"], [] for the task as a whole, or "{ALL}"'
        )
    if _others(signature) is None:
        for name in said:
            if name not in parameters:
                hint = suggest(str(name), parameters) if parameters else "it takes none"
                raise ValueError(f"the task takes no argument {name!r}; {hint}")
    return tuple(said)


def _others(signature: inspect.Signature) -> str | None:
    """The name of the parameter that takes what no other does, if there is one."""
    kinds = {each.kind: name for name, each in signature.parameters.items()}
    return kinds.get(inspect.Parameter.VAR_KEYWORD)


def _number(
    said: Mapping[str, Any], key: str, default: Any, kind: Any, fits: Callable[[Any], bool], what: str
) -> Any:
    value = said.get(key, default)
    if key in said and (isinstance(value, bool) or not isinstance(value, kind) or not fits(value)):
        raise ValueError(f'{what} is needed for "{key}"')
    return value


def _choice(value: object) -> object:
    if value not in ("return", "raise"):
        raise ValueError(f'"on_skip": {suggest(str(value), ("return", "raise"))}')
    return value


def _shown(name: str, value: object) -> str:
    """An argument as its key has it: JSON, or what stands for it. No JSON begins with ~."""
    try:
        written = msgspec.json.encode(value, order="deterministic")
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"argument {name!r} cannot be part of a key: {error}") from None
    if len(written) > _SHOWN_BYTES_MAX or is_secret(name):
        return f"~{hashlib.sha256(written).hexdigest()[:32]}"
    return written.decode()
