"""What `pip install` brings: the light core for a worker, and a node that starts from the wheel alone."""

import json
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway import Gateway
from tests.ports import free_ports
from tests.stores import eventually

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(300)


class Environment:
    """An empty virtual environment, in a folder from which nothing of the checkout can be found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder / "venv", with_pip=True)
        self.bin = folder / "venv" / "bin"

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def install(self, what: str) -> None:
        constraints = str(ROOT / "constraints.txt")
        self.run("python", "-m", "pip", "install", "--quiet", "--constraint", constraints, what)

    def packages(self) -> set[str]:
        listed = json.loads(self.run("python", "-m", "pip", "list", "--format", "json"))
        return {entry["name"].lower() for entry in listed}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True, timeout=240)
    (built,) = folder.glob("jobguard-*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("installed"))
    environment.install(str(wheel))
    return environment


def test_a_workers_install_is_light(environment: Environment) -> None:
    brought = environment.packages()
    assert "celery" in brought
    assert not brought & {"flask", "sqlalchemy", "alembic", "uvicorn", "gunicorn", "redis", "grpcio"}


def test_nothing_of_ours_takes_a_name_users_may_have(environment: Environment) -> None:
    names = ("store", "webui", "tests")
    code = f"from importlib.util import find_spec; print([n for n in {names} if find_spec(n)])"
    assert environment.run("python", "-c", code).strip() == "[]"


def test_a_command_whose_extra_is_missing_says_what_to_install(environment: Environment) -> None:
    done = subprocess.run(
        [str(environment.bin / "jobguard"), "store"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "jobguard[store]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def node(wheel: Path, environment: Environment) -> Iterator[str]:
    environment.install(f"{wheel}[store]")
    client, peer = free_ports(2)
    url, peer_url = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    command = [str(environment.bin / "jobguard"), "store", "--listen-client-urls", url]
    command += ["--listen-peer-urls", peer_url, "--initial-cluster", f"default={peer_url}"]
    process = subprocess.Popen(command, cwd=environment.folder, stderr=subprocess.PIPE)
    try:
        yield url
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert b"Traceback" not in errors, errors.decode()


def test_a_node_started_from_the_wheel_works(node: str) -> None:
    with Gateway(node) as gateway:

        def answer() -> Any:
            try:
                return gateway.put("k1", "v")
            except ConnectionRefusedError:
                return None  # not yet

        assert eventually(answer, 60, "an answer")["header"]["revision"] == "2"
