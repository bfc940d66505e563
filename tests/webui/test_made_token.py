"""A token nobody chose: one for all workers of a server, told once, gone with the server."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobguard.errors import ConfigurationError
from jobguard_webui import create_app, made_token
from tests.gateway import Gateway
from tests.ports import free_ports
from tests.stores import eventually

FORKED = """
import os
from jobguard_webui.made_token import made_token
def child():
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, made_token().encode())
        os._exit(0)
    os.wait()
    return os.read(read, 100).decode()
print(child(), child())
"""


def tokens(**environment: str) -> list[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    ran = subprocess.run(
        [sys.executable, "-c", FORKED],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return ran.stdout.split()


def test_forked_workers_agree_and_two_starts_do_not() -> None:
    first, second = tokens(), tokens()
    assert first[0] == first[1]
    assert second[0] == second[1]
    assert first[0] != second[0]
    assert re.fullmatch(r"jg_[\w-]{32}", first[0])


def test_no_token_is_made_from_a_secret_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    monkeypatch.delenv("JOBGUARD_WEB_TOKEN", raising=False)
    with pytest.raises(ConfigurationError, match="JOBGUARD_WEB_TOKEN"):
        made_token.made_token()
    with pytest.raises(SystemExit, match="JOBGUARD_WEB_TOKEN"):
        create_app()


def test_two_gunicorn_workers_open_to_the_one_token_they_told(tmp_path: Path) -> None:
    """Workers come and go; the token is that of the server, and stands in its log once."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    drop = ("JOBGUARD_WEB_TOKEN", "PYTHONHASHSEED")
    environment = {name: value for name, value in os.environ.items() if name not in drop}
    log = tmp_path / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                *(str(Path(sys.executable).with_name("gunicorn")), "--no-control-socket", "--workers", "2"),
                *("--bind", f"127.0.0.1:{port}", "jobguard_webui:create_app()"),
            ],
            env=environment | {"TMPDIR": str(tmp_path)},
            stdout=output,
            stderr=output,
        )
    try:
        eventually(lambda: log.read_text().count("Booting worker") == 2 and "jg_" in log.read_text(), 60)
        told = re.findall(r"jg_[\w-]+", log.read_text())
        assert len(told) == 1

        def answers() -> bool:
            try:
                with Gateway(url) as one:
                    return one.get("/livez").status == 200
            except OSError:
                return False

        eventually(answers)
        for _ in range(8):  # each connection may be taken by either worker
            with Gateway(url) as one:
                right = one.get("/api/v1/nothing", {"Authorization": f"Bearer {told[0]}"})
                wrong = one.get("/api/v1/nothing", {"Authorization": "Bearer jg_wrong"})
                assert (right.status, wrong.status) == (404, 401)
        assert len(re.findall(r"jg_[\w-]+", log.read_text())) == 1
    finally:
        server.terminate()
        server.wait(60)
