"""create_app: the client, the door, the pages, the API, the headers.

Place in the house   jobguard_webui.create_app -> app -> everything else here
Never                holds state of its own: what is shown lives in the store
"""

import os
from importlib.metadata import version
from typing import Any

from flask import Flask, request
from werkzeug.wrappers import Response

from jobguard import Client
from jobguard.settings import Settings
from jobguard_webui import api, auth, errors, health, words
from jobguard_webui.freshness import Store, stale_because, store
from jobguard_webui.made_token import made_token, tell_once
from jobguard_webui.pages import locks, overview, runs, schedules, session

# How long a page waits for a leader before it shows what one node remembers.
STORE_TIMEOUT_S = 1.5
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: browsers would then send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def build(client: Client | None, token: str | None) -> Flask:
    app = Flask("jobguard_webui")
    app.config.update(MAX_CONTENT_LENGTH=64 * 1024, TRAP_BAD_REQUEST_ERRORS=False)
    app.extensions["jobguard_store"] = Store(client or client_from_environment())
    auth.install(app, token or chosen_token())
    errors.install(app)
    words.install(app)
    for part in (overview, locks, runs, schedules, session, health, api):
        app.register_blueprint(part.bp)
    app.after_request(secure)
    app.context_processor(on_every_page)
    return app


def client_from_environment() -> Client:
    settings = Settings.from_environment()
    return Client.from_settings(settings, timeout=min(settings.timeout, STORE_TIMEOUT_S))


def chosen_token() -> str:
    """JOBGUARD_WEB_TOKEN; or else one is made, and told once."""
    token = os.environ.get("JOBGUARD_WEB_TOKEN", "").strip()
    if not token:
        token = made_token()
        tell_once(token)
    return token


def secure(response: Response) -> Response:
    response.headers.update(HEADERS)
    if request.endpoint == "static":
        response.headers["Cache-Control"] = "no-cache"
    else:
        response.headers.setdefault("Cache-Control", "no-store")
    return response


def on_every_page() -> dict[str, Any]:
    return {
        "version": version("jobguard"),
        "namespace": store().client.namespace,
        "stale_because": stale_because(),
    }
