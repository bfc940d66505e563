"""What a user may set, in one frozen value.

Place in the house   client(), beat, worker, CLI and web UI  ->  settings  ->  errors
Takes                a Celery app's configuration, or the environment
Gives                Settings
Never                imports Celery, writes into an app's configuration, or lets a misspelt key pass

A setting `x` is looked up as `jobguard_x` in the app's configuration (so `CELERY_JOBGUARD_X` with Celery's
usual namespace), then as `JOBGUARD_X` there, then as `JOBGUARD_X` in the environment; then the default holds.
`app.add_defaults` is not used: what a plugin adds there wins over what the user wrote.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from jobguard.errors import ConfigurationError

_PREFIX = "jobguard_"

# Of our other programs; and of Kubernetes, for a service that is called jobguard.
_OTHERS_VARIABLES = ("STORE_", "WEB_", "DEMO_", "TEST_", "WORKER_DIRECTORY", "SERVICE_", "PORT")


def _endpoints(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split(",")
    found = tuple(str(each).strip() for each in value if str(each).strip())
    if not found:
        raise ValueError("at least one endpoint is needed, such as http://127.0.0.1:2379")
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a text that is not empty is needed")
    return value


def _amount(of: str) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        try:
            number = float(value)
        except (ValueError, TypeError):
            number = 0.0
        if not 0 < number < float("inf"):
            raise ValueError(f"a number of {of} above zero is needed")
        return number

    return read


_seconds, _days = _amount("seconds"), _amount("days")


def _signal(value: Any) -> str:
    name = str(value).upper()
    if name not in signal.Signals.__members__ or name in {
        "SIGKILL",
        "SIGSTOP",
        "SIGTERM",
        "SIGUSR1",
        "SIGCHLD",
    }:
        raise ValueError("the name of a signal that is free is needed, such as SIGUSR2")
    return name


def _whole(least: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        try:
            number = int(value)
        except (ValueError, TypeError):
            number = least - 1
        if number < least:
            raise ValueError(f"a whole number, {least} or more, is needed")
        return number

    return read


_count, _positive = _whole(0), _whole(1)


def _jobs(value: Any) -> Mapping[str, Mapping[str, Any]]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"JSON is needed: {error}") from None
    if not isinstance(value, Mapping) or not all(isinstance(each, Mapping) for each in value.values()):
        raise ValueError('a mapping is needed: {"<beat entry>": {"<policy>": value}, "*": {…}}')
    return value


def _setting(default: Any, read: Callable[[Any], Any]) -> Any:
    return field(default=default, metadata={"read": read})


def _secret(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a text is needed")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting, read and checked. A new one is a line here and a line in the reference."""

    endpoints: tuple[str, ...] = _setting(("http://127.0.0.1:2379",), _endpoints)
    """Client URLs of the store's nodes; the first is preferred until it fails."""

    namespace: str = _setting("default", _text)
    """Keeps apps that share a store apart: every key lies under /jobguard/<namespace>/."""

    cacert: str | None = _setting(None, _text)
    """A PEM file: whose word is taken that an https endpoint is the store; else the system's authorities'."""

    cert: str | None = _setting(None, _text)
    """A PEM file: the certificate we show a store that asks for one."""

    key: str | None = _setting(None, _text)
    """A PEM file: the key of `cert`."""

    username: str | None = _setting(None, _text)
    """A user of the store, where it has authentication on."""

    password: str | None = field(default=None, repr=False, metadata={"read": _secret, "secret": True})
    """His password, unless it stands in a file."""

    password_file: str | None = _setting(None, _text)
    """A file that holds his password, and nothing else. It is read for each login, so it may be replaced."""

    session_ttl: float = _setting(15.0, _seconds)
    """Seconds a holder that went silent keeps what it holds. The store never allows less than about 2."""

    timeout: float = _setting(5.0, _seconds)
    """Seconds one call to the store may take, all endpoints and repetitions included."""

    claim_timeout: float = _setting(10.0, _seconds)
    """Seconds a worker tries to claim a delivery while the store cannot be reached."""

    abort_signal: str = _setting("SIGUSR2", _signal)
    """What stops a body whose claim is lost; another one if a library in the worker already uses this one."""

    schedule_version: int = _setting(0, _count)
    """Grows with each deploy that changes the schedule: older code never overwrites what newer installed."""

    history_count: int = _setting(1000, _positive)
    """Verdicts kept per job."""

    history_days: float = _setting(400.0, _days)
    """Days for which a verdict is kept, if there are not too many; the last of a planned job stays."""

    audit_count: int = _setting(10_000, _positive)
    """Entries kept of the audit log; none is kept for longer than history_days."""

    jobs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False, metadata={"read": _jobs})
    """Policies by the name of the beat entry; `*` holds for all."""

    @classmethod
    def from_app(cls, app: Any) -> "Settings":
        """The settings of a Celery app; reading them makes the app load its configuration."""
        _refuse_unknown(app.conf)
        return cls._read(lambda name: _from_conf(app.conf, name))

    @classmethod
    def from_environment(cls) -> "Settings":
        """The settings of a process without a Celery app: CLI, web UI, a plain script."""
        return cls._read(lambda name: None)

    @classmethod
    def current(cls) -> "Settings":
        """Of the current Celery app, if this process has one; else of the environment."""
        app = _current_app()
        return cls.from_environment() if app is None else cls.from_app(app)

    @classmethod
    def _read(cls, configured: Callable[[str], Any]) -> "Settings":
        _refuse_unknown_variables()
        found = {}
        for each in fields(cls):
            source, value = f"{_PREFIX}{each.name}", configured(each.name)
            if value is None:
                source = source.upper()
                value = os.environ.get(source)
            if value is not None:
                found[each.name] = _checked(
                    source, value, each.metadata["read"], secret="secret" in each.metadata
                )
        return cls(**found)


def _checked(source: str, value: Any, read: Callable[[Any], Any], *, secret: bool) -> Any:
    try:
        return read(value)
    except (ValueError, TypeError) as error:
        shown = source if secret else f"{source} = {value!r}"
        raise ConfigurationError(f"{shown} cannot be used: {error}") from None


def _from_conf(conf: Any, name: str) -> Any:
    value = conf.get(f"{_PREFIX}{name}")
    return conf.get(f"{_PREFIX}{name}".upper()) if value is None else value


def _refuse_unknown(conf: Any) -> None:
    conf.get(_PREFIX)  # a configuration that is not loaded yet has no keys
    namespace = (getattr(conf, "prefix", None) or "").lower()
    for key in conf.keys():  # noqa: SIM118 - iterating a configuration that is not loaded yet fails
        name = str(key).lower().removeprefix(namespace)
        if name.startswith(_PREFIX):
            _refuse_unless_known(str(key), name.removeprefix(_PREFIX), _PREFIX)


def _refuse_unknown_variables() -> None:
    prefix = _PREFIX.upper()
    for key in os.environ:
        if key.startswith(prefix) and not key.removeprefix(prefix).startswith(_OTHERS_VARIABLES):
            _refuse_unless_known(key, key.removeprefix(prefix).lower(), prefix)


def _refuse_unless_known(key: str, short: str, prefix: str) -> None:
    known = [each.name for each in fields(Settings)]
    if short in known:
        return
    spell = str.upper if prefix.isupper() else str
    close = get_close_matches(short, known, n=1)
    hint = f"; did you mean {prefix}{spell(close[0])}?" if close else f"; known are {', '.join(known)}"
    raise ConfigurationError(f"unknown setting {key}{hint}")


def _current_app() -> Any:
    """The app of this process if one was made; asking Celery itself would make a nameless default one."""
    state = sys.modules.get("celery._state")
    if state is None:
        return None
    return getattr(state._tls, "current_app", None) or state.default_app
