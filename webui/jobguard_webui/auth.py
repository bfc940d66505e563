"""Who may come in: one token, as a bearer for the API and by a form for the pages.

Place in the house   app -> here; pages.session signs in and out
Never                lets a path through that is not listed as open, or a cookie open the API

A bearer token is never sent by a browser on its own, so the API needs no defence against forged requests.
The pages' cookie is, so every unsafe request to a page must come from one of our own.
"""

import hmac
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import sha256
from urllib.parse import urlsplit

from flask import Flask, Request, current_app, redirect, request, session, url_for
from flask.sessions import SecureCookieSessionInterface
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, TooManyRequests, Unauthorized

from jobguard.operate import Actor

OPEN = frozenset({"static", "session.sign_in", "session.open_session", "health.livez", "health.readyz"})
SESSION_SECONDS = 12 * 3600
FAILURES_PER_MINUTE = 20


class Sessions(SecureCookieSessionInterface):
    """The signed cookie, marked Secure whenever the request itself came over TLS."""

    def get_cookie_secure(self, app: Flask) -> bool:
        return request.is_secure


def install(app: Flask, token: str) -> None:
    """Close every path of `app`. The cookie's key comes from the token: a new token ends all sessions."""
    app.secret_key = hmac.digest(token.encode(), b"jobguard web session", sha256)
    app.session_interface = Sessions()
    app.config.update(
        SESSION_COOKIE_NAME="jobguard_session",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        PERMANENT_SESSION_LIFETIME=SESSION_SECONDS,
        SESSION_REFRESH_EACH_REQUEST=False,
    )
    app.extensions["jobguard_door"] = Door(token)
    app.before_request(admit)


def admit() -> ResponseReturnValue | None:
    """Let the request pass, or answer it here."""
    if is_api(request):
        admit_bearer()
        return None
    refuse_forged(request)
    if request.endpoint in OPEN or session.get("signed_in"):
        return None
    wanted = request.full_path.rstrip("?") if request.method == "GET" else None
    return redirect(url_for("session.sign_in", next=wanted), code=303)


def admit_bearer() -> None:
    """Raises Unauthorized without the token, TooManyRequests for one who guesses."""
    scheme, _, offered = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not offered:
        raise unauthorized("send the token of this server as a bearer token")
    if not door().opens_to(offered.strip(), caller()):
        raise unauthorized("this is not the token of this server")


def unauthorized(why: str) -> Unauthorized:
    return Unauthorized(why, www_authenticate=WWWAuthenticate("bearer", {"realm": "jobguard"}))


def refuse_forged(asked: Request) -> None:
    """Refuse an unsafe request that another site made this browser send.

    Browsers tell by Sec-Fetch-Site on TLS and localhost; over plain HTTP elsewhere by Origin alone.
    """
    if asked.method in ("GET", "HEAD", "OPTIONS"):
        return
    site, origin = asked.headers.get("Sec-Fetch-Site"), asked.headers.get("Origin")
    if site is not None:
        ours = site in ("same-origin", "none")
    else:
        ours = origin is not None and urlsplit(origin).netloc == asked.host
    if not ours:
        raise Forbidden("this request did not come from a page of this server")


def safe_target(target: str | None) -> str:
    """Where to go after signing in: a path of ours, never another host."""
    if target and target.startswith("/") and not target.startswith(("//", "/\\")):
        return request.script_root + target
    return url_for("overview.show")


def is_api(asked: Request) -> bool:
    return asked.path.startswith("/api/")


def caller() -> str:
    return request.remote_addr or "unknown"


def actor() -> str:
    """Who acts, for the audit log: the name given at the form, or where an API call came from."""
    if is_api(request):
        return f"api at {caller()}"
    return str(session.get("name") or f"web at {caller()}")


def by_api(reason: str) -> Actor:
    """Who acts through the API, and why."""
    return Actor(by=actor(), via="api", reason=reason)


@dataclass
class Door:
    """The token, and a short memory of who knocked in vain, so that it cannot be guessed at speed."""

    token: str
    failures: OrderedDict[str, list[float]] = field(default_factory=OrderedDict)

    def opens_to(self, offered: str, who: str) -> bool:
        """Compare in constant time. Raises TooManyRequests for one who failed too often in this minute."""
        minute_ago = time.monotonic() - 60
        recent = [at for at in self.failures.get(who, ()) if at > minute_ago]
        if len(recent) >= FAILURES_PER_MINUTE:
            raise TooManyRequests("too many wrong tokens; wait a minute", retry_after=60)
        if hmac.compare_digest(offered.encode(), self.token.encode()):
            self.failures.pop(who, None)
            return True
        self.failures[who] = [*recent, time.monotonic()]
        self.failures.move_to_end(who)
        if len(self.failures) > 1000:
            self.failures.popitem(last=False)
        return False


def door() -> Door:
    found: Door = current_app.extensions["jobguard_door"]
    return found
