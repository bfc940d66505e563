"""Closed by default, and what opens it; what every answer carries; who may not make a browser act."""

import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from jobguard import Client
from jobguard_webui import auth, create_app
from tests.webui.conftest import OURS, TOKEN


def test_every_path_but_the_listed_ones_is_closed(app: Flask, stranger: FlaskClient) -> None:
    """Whatever page or method is added later, it is closed unless somebody lists it as open."""
    for rule in app.url_map.iter_rules():
        if rule.endpoint in auth.OPEN:
            continue
        path = rule.rule.replace("<id>", "x")
        for method in rule.methods - {"OPTIONS", "HEAD"} if rule.methods else ():
            answer = stranger.open(path, method=method, headers=OURS)
            if path.startswith("/api/"):
                assert answer.status_code == 401, (method, path)
            else:
                assert answer.status_code == 303, (method, path)
                assert answer.headers["Location"].startswith("/sign-in"), (method, path)


def test_a_path_that_does_not_exist_tells_a_stranger_nothing(stranger: FlaskClient) -> None:
    assert stranger.get("/nothing").status_code == 303
    assert stranger.get("/api/v1/nothing").status_code == 401


def test_the_api_wants_a_bearer_and_says_so(stranger: FlaskClient) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        answer = stranger.get("/api/v1/locks", headers=headers)
        assert answer.status_code == 401
        assert answer.mimetype == "application/problem+json"
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.json["status"] == 401


def test_the_cookie_of_the_pages_does_not_open_the_api(pages: FlaskClient) -> None:
    """Else a forged request from another site could use it."""
    assert pages.get("/api/v1/locks").status_code == 401


def test_signing_in_sets_a_cookie_no_script_and_no_other_site_can_use(stranger: FlaskClient) -> None:
    answer = stranger.post(
        "/sign-in", data={"token": TOKEN, "next": "/locks/"}, headers=OURS, base_url="https://localhost"
    )
    assert (answer.status_code, answer.headers["Location"]) == (303, "/locks/")
    cookie = answer.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Lax", "Secure"} <= {part.strip() for part in cookie.split(";")}
    assert TOKEN not in cookie


def test_signing_in_with_a_wrong_token_says_so_and_opens_nothing(stranger: FlaskClient) -> None:
    answer = stranger.post("/sign-in", data={"token": "wrong"}, headers=OURS)
    assert answer.status_code == 403
    assert "not the token" in answer.text
    assert stranger.get("/").status_code == 303


def test_signing_out_closes_the_pages(pages: FlaskClient) -> None:
    assert pages.get("/locks/").status_code == 200
    pages.post("/sign-out", headers=OURS)
    assert pages.get("/locks/").status_code == 303


def test_a_new_token_ends_all_sessions(client: Client, pages: FlaskClient) -> None:
    cookie = pages.get_cookie("jobguard_session")
    assert cookie is not None
    renewed = create_app(client, token="another token").test_client()
    renewed.set_cookie("jobguard_session", cookie.value)
    assert renewed.get("/locks/").status_code == 303


def test_it_works_under_a_prefix(stranger: FlaskClient) -> None:
    """Behind a proxy that mounts it at /guard."""
    mounted = {"base_url": "http://localhost/guard/"}
    away = stranger.get("runs/?job=a", **mounted)
    assert away.headers["Location"] == "/guard/sign-in?next=/runs/?job%3Da"
    data = {"token": TOKEN, "next": "/runs/?job=a"}
    back = stranger.post("sign-in", data=data, headers=OURS, **mounted)
    assert back.headers["Location"] == "/guard/runs/?job=a"
    page = stranger.get("runs/", **mounted).text
    assert 'href="/guard/locks/"' in page
    assert 'src="/guard/static/live.js"' in page


@pytest.mark.parametrize("target", ["//evil.example", "/\\evil.example", "https://evil.example", "evil"])
def test_signing_in_never_leads_to_another_host(stranger: FlaskClient, target: str) -> None:
    answer = stranger.post("/sign-in", data={"token": TOKEN, "next": target}, headers=OURS)
    assert answer.headers["Location"] == "/"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
def test_a_request_another_site_caused_is_refused(pages: FlaskClient, headers: dict[str, str]) -> None:
    assert pages.post("/sign-out", headers=headers).status_code == 403
    assert pages.get("/locks/").status_code == 200


def test_a_browser_without_fetch_metadata_is_known_by_its_origin(pages: FlaskClient) -> None:
    assert pages.post("/sign-out", headers={"Origin": "http://localhost"}).status_code == 303


def test_guessing_is_slowed_down(stranger: FlaskClient) -> None:
    answers = [stranger.post("/sign-in", data={"token": str(n)}, headers=OURS).status_code for n in range(25)]
    assert answers[0] == 403
    assert answers[-1] == 429
    blocked = stranger.get("/api/v1/locks", headers={"Authorization": "Bearer guess"})
    assert (blocked.status_code, blocked.headers["Retry-After"]) == (429, "60")


@pytest.mark.parametrize("path", ["/", "/nothing", "/sign-in", "/api/v1/locks", "/static/live.js"])
def test_every_answer_carries_the_policy(pages: FlaskClient, path: str) -> None:
    with pages.get(path) as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"


@pytest.mark.parametrize("path", ["/", "/locks/", "/runs/", "/nothing", "/sign-in"])
def test_no_page_needs_what_the_policy_forbids(pages: FlaskClient, path: str) -> None:
    """No inline script, handler or style, and nothing from another host."""
    page = pages.get(path).text
    assert not re.search(r"\son\w+=|\sstyle=|<style|javascript:", page)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page))
    assert not re.search(r'(src|href|action)="(https?:)?//', page)


def test_health_is_open_and_tells_nothing_else(stranger: FlaskClient) -> None:
    assert (stranger.get("/livez").text, stranger.get("/readyz").text) == ("ok\n", "ok\n")
