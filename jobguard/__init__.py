"""jobguard: Celery jobs that start once, on any number of hosts; and the locks and elections beneath.

    app.conf.beat_scheduler = "jobguard"
    app.conf.jobguard_endpoints = ["http://10.0.0.1:2379", "http://10.0.0.2:2379", "http://10.0.0.3:2379"]
    jobguard.install(app)

This page is the whole public interface. A name is loaded when it is first used: the store imports
`jobguard.wire` alone, and a program that only takes a lock never loads Celery.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobguard.celery.at import at
    from jobguard.celery.current import Held, Run, current, held
    from jobguard.celery.worker import install
    from jobguard.client import Client
    from jobguard.client import shared as client
    from jobguard.config import Config
    from jobguard.election import Election
    from jobguard.errors import (
        Compacted,
        ConfigurationError,
        Fenced,
        JobguardError,
        LeaseExpired,
        LockLost,
        NotAcquired,
        NotGuarded,
        NotHolder,
        OutcomeUnknown,
        ServerError,
        Skipped,
        Unavailable,
        WrongCluster,
    )
    from jobguard.lock import Lock, holders
    from jobguard.mirror import Mirror
    from jobguard.session import Session, State
    from jobguard.settings import Settings
    from jobguard.watch import Watch

__all__ = [
    "Client",
    "Compacted",
    "Config",
    "ConfigurationError",
    "Election",
    "Fenced",
    "Held",
    "JobguardError",
    "LeaseExpired",
    "Lock",
    "LockLost",
    "Mirror",
    "NotAcquired",
    "NotGuarded",
    "NotHolder",
    "OutcomeUnknown",
    "Run",
    "ServerError",
    "Session",
    "Settings",
    "Skipped",
    "State",
    "Unavailable",
    "Watch",
    "WrongCluster",
    "at",
    "client",
    "current",
    "held",
    "holders",
    "install",
]

_HOME = {
    "celery.at": ("at",),
    "celery.current": ("Held", "Run", "current", "held"),
    "celery.worker": ("install",),
    "client": ("Client",),
    "config": ("Config",),
    "election": ("Election",),
    "errors": (
        *("Compacted", "ConfigurationError", "Fenced", "JobguardError", "LeaseExpired", "LockLost"),
        *("NotAcquired", "NotGuarded", "NotHolder", "OutcomeUnknown"),
        *("ServerError", "Skipped", "Unavailable", "WrongCluster"),
    ),
    "lock": ("Lock", "holders"),
    "session": ("Session", "State"),
    "settings": ("Settings",),
    "mirror": ("Mirror",),
    "watch": ("Watch",),
}
_MODULE = {name: f"jobguard.{module}" for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "client":  # the module itself, which can be called: importing it would shadow a function
        return import_module("jobguard.client")
    if name in _MODULE:
        return getattr(import_module(_MODULE[name]), name)
    raise AttributeError(f"module 'jobguard' has no attribute {name!r}")
