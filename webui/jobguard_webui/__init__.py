"""The web UI and the REST API: what an operator sees, and the one thing they may do by hand.

Place in the house   gunicorn "jobguard_webui:create_app()" -> app -> pages, api -> jobguard
Never                talks to the store but through the client library, or holds state of its own
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from jobguard import Client


def create_app(client: "Client | None" = None, *, token: str | None = None) -> "Flask":
    """The WSGI application. Without a client it speaks to JOBGUARD_ENDPOINTS; without a token it takes
    JOBGUARD_WEB_TOKEN, or makes one and prints it once."""
    try:
        from jobguard.errors import ConfigurationError
        from jobguard_webui.app import build
    except ModuleNotFoundError as missing:
        if missing.name != "flask":
            raise
        raise SystemExit('the web UI needs: pip install "jobguard[ui]"') from None
    try:
        return build(client, token)
    except ConfigurationError as error:
        raise SystemExit(f"jobguard web: {error}") from None
