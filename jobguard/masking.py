"""Secrets, taken out of what is shown: arguments by the names they go by, texts by what stands before them.

Place in the house   observe, definition, registry, the guard, the web UI  ->  masking
Takes                values of JSON, texts, errors
Gives                the same with MASK in the place of each secret, and back again
Never                promises more than names can tell: a secret that nobody calls one is shown
"""

import re
from typing import Any

MASK = "••••••"
ERROR_TEXT_MAX = 2000

# Celery hides the settings with such names in its own report.
_NAME = re.compile(r"api|token|key|secret|pass|signature|database|credential|authorization", re.IGNORECASE)
_NO_SECRETS = frozenset(("routing_key",))  # of a message's options

_USERINFO = re.compile(r"(://[^\s/:@]*:)[^\s/]+@")
_BEARER = re.compile(r"(\bBearer\s+)(?=\S*\d)[\w.~+/=-]{8,}", re.IGNORECASE)
# In a text a name is what stands before = or :, so fewer words are one: "KeyError: 'id'" tells no secret.
_SAID = re.compile(
    r"""((?:passw(?:or)?d|passphrase|pwd|secret|token|credentials?|signature|authorization
         |(?:api|access|private)[_-]?key)["']?\s*[=:]\s*)
        (?:(?:basic|bearer|token)\s+)?
        (?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,;&)\]}]+)""",
    re.IGNORECASE | re.VERBOSE,
)


def is_secret(name: str) -> bool:
    """Whether what goes by this name is nobody else's business."""
    return name not in _NO_SECRETS and _NAME.search(name) is not None


def masked(value: Any) -> Any:
    """A value of JSON, for other eyes than those that may use it."""
    match value:
        case str():
            text = _USERINFO.sub(rf"\1{MASK}@", value)
            return _BEARER.sub(rf"\1{MASK}", _SAID.sub(rf"\1{MASK}", text))
        case dict():
            return {name: _named(name, each) for name, each in value.items()}
        case list():
            return [masked(each) for each in value]
    return value


def restored(value: Any, kept: Any) -> Any:
    """`value`, with what is `kept` wherever it only repeats what was shown of it."""
    if value == masked(kept):
        return kept
    match value, kept:
        case dict(), dict():
            return {
                name: kept[name]
                if name in kept and each == _named(name, kept[name])
                else restored(each, kept.get(name))
                for name, each in value.items()
            }
        case list(), list():
            before = [*kept, *[None] * len(value)]
            return [restored(each, before[position]) for position, each in enumerate(value)]
    return value


def is_masked(value: Any) -> bool:
    """Whether MASK stands somewhere in it."""
    match value:
        case str():
            return MASK in value
        case dict():
            return any(is_masked(each) for each in value.values())
        case list():
            return any(is_masked(each) for each in value)
    return False


def error_text(error: BaseException) -> str:
    """What is kept of an error: its kind and its text."""
    return kept_text(f"{type(error).__name__}: {error}")


def kept_text(text: str) -> str:
    """What is kept of what a body said: cut to a limit, and masked."""
    return str(masked(text[: 2 * ERROR_TEXT_MAX]))[:ERROR_TEXT_MAX]


def _named(name: str, value: Any) -> Any:
    return MASK if value is not None and is_secret(name) else masked(value)
