"""The API's own description: valid, complete, and held against what the server does."""

import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from flask import Flask
from flask.testing import FlaskClient
from openapi_spec_validator import validate
from werkzeug.serving import make_server

from jobguard import Client, observe
from jobguard.problems import KINDS
from jobguard.records import Deploy, Keys
from jobguard_webui.api.document import PLACE, PREFIX, describe
from tests.faces import NOW, put, queue
from tests.ports import free_ports
from tests.webui.conforming import Document, Mismatch
from tests.webui.conftest import TOKEN

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "rest.md").read_text()


PROBES = {("GET", "/livez"), ("GET", "/readyz")}


def routes(app: Flask) -> set[tuple[str, str]]:
    return {
        (method, PLACE.sub(r"{\1}", rule.rule.removeprefix(PREFIX)))
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/api/")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


def test_it_is_valid_and_names_every_route(app: Flask, api: FlaskClient) -> None:
    told = api.get("/api/v1/openapi.json").json
    validate(told)
    assert told["openapi"].startswith("3.1.")
    methods = {path: set(each) - {"servers"} for path, each in told["paths"].items()}
    named = {(method.upper(), path) for path, each in methods.items() for method in each}
    assert named == routes(app) | PROBES
    operations = [told["paths"][path][method] for path, each in methods.items() for method in each]
    assert len({each["operationId"] for each in operations}) == len(operations)
    assert all(each["summary"] for each in operations)


def test_it_says_where_it_is_served(api: FlaskClient) -> None:
    told = api.get("api/v1/openapi.json", base_url="http://localhost/guard/").json
    assert told["servers"] == [{"url": "/guard/api/v1"}]
    assert told["paths"]["/livez"]["servers"] == [{"url": "/guard"}]


def without(*path: str) -> Callable[[dict[str, Any]], None]:
    def spoil(told: dict[str, Any]) -> None:
        *way, last = path
        for step in way:
            told = told[step]
        del told[last]

    return spoil


def without_parameter(told: dict[str, Any]) -> None:
    told["paths"]["/locks"]["get"]["parameters"] = []


@pytest.mark.parametrize(
    ("spoil", "asked"),
    [
        (without("paths", "/locks"), "locks"),
        (without("paths", "/locks", "get"), "locks"),
        (without_parameter, "locks?limit=2"),
        (without("paths", "/locks/{id}", "get", "responses", "404"), "locks/zzz"),
        (without("paths", "/locks", "get", "responses", "400"), "locks?limit=0"),
        (without("components", "schemas", "Lock", "properties", "pid"), "locks"),
        (without("paths", "/readyz"), "../../readyz"),
        (without("paths", "/readyz", "get", "responses", "200"), "../../readyz"),
        (without("components", "schemas", "Problem", "properties", "instance"), "locks/zzz"),
    ],
)
def test_what_it_leaves_out_is_found(
    client: Client, app: Flask, api: Any, spoil: Callable[[dict[str, Any]], None], asked: str
) -> None:
    told = describe(app)
    with queue(client, "nightly"):
        api.document = Document(told)
        api.get(urljoin("/api/v1/", asked))
        spoil(told)
        api.document = Document(told)
        with pytest.raises(Mismatch):
            api.get(urljoin("/api/v1/", asked))


def test_a_parameter_that_nobody_knows_is_refused(api: FlaskClient) -> None:
    answer = api.get("/api/v1/locks?nmae=x")
    assert answer.status_code == 400
    assert answer.json["detail"] == "nmae: no such parameter; known are name, limit, cursor"
    assert answer.json["title"] == "Bad request"  # as of every other bad-request


def test_a_fault_of_ours_has_the_same_shape(api: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret of ours")

    monkeypatch.setattr(observe, "locks", fail)
    answer = api.get("/api/v1/locks")
    assert answer.status_code == 500
    assert "secret" not in answer.text


# --- docs/rest.md -------------------------------------------------------------------------------


def test_the_page_names_every_route_and_every_error(app: Flask) -> None:
    assert set(re.findall(r"`(GET|POST|PUT|DELETE) (/[^`]*)`", PAGE)) == routes(app)
    missing = [kind.name for _, kind in KINDS if f"`{kind.name}`" not in PAGE]
    assert not missing


@contextmanager
def served(app: Flask) -> Iterator[str]:
    (port,) = free_ports(1)
    server = make_server("127.0.0.1", port, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_its_examples_run(client: Client, app: Flask, tmp_path: Path) -> None:
    blocks = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    script = "\n".join(re.sub(r"^\$ ", "", block, flags=re.MULTILINE) for block in blocks)
    installed = Deploy(version=42, registered=NOW, by="h1")
    put(client, Keys(client.namespace).deploy(), installed)
    with queue(client, "reports", contenders=2), served(app) as url:
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "URL": url, "TOKEN": TOKEN},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "s3cr3t" not in ran.stdout + (tmp_path / "made.json").read_text()
        (lock,) = observe.locks(client).items
    assert lock.host == "host-1"
    assert '"planned":["2026-11-01T' in ran.stdout
