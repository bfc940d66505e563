"""The process of a node: its one line when ready, its end by a signal, its sentences when it cannot start."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.gateway import Gateway
from tests.ports import free_ports
from tests.stores import eventually

PATIENCE_S = 60.0
PROGRAM = [sys.executable, "-m", "jobguard_store"]
BROKEN = """
from jobguard_store.__main__ import store
from jobguard_store.machine.apply import Machine
Machine.apply = lambda *_: 1 / 0
store()
"""


def refused(*flags: str) -> tuple[int, str]:
    ended = subprocess.run(
        [*PROGRAM, *flags], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert ended.stdout == ""
    return ended.returncode, ended.stderr


@contextmanager
def process(
    directory: Path, program: Sequence[str] = PROGRAM
) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    output = directory / "log"
    with output.open("wb") as log:
        node = subprocess.Popen(
            [*program, "--data-dir", str(directory / "data"), "--listen-client-urls", url], stderr=log
        )
    try:
        eventually(lambda: "ready: member" in output.read_text() or node.poll() is not None, PATIENCE_S)
        yield node, url, output
    finally:
        node.kill()
        node.wait(PATIENCE_S)


def test_it_says_when_it_is_ready_and_a_signal_ends_it_with_its_watches(tmp_path: Path) -> None:
    for ending in (signal.SIGTERM, signal.SIGINT):
        with process(tmp_path) as (node, url, output), Gateway(url) as gateway:
            ready = [line for line in output.read_text().splitlines() if "ready" in line]
            assert len(ready) == 1
            assert re.search(rf"ready: member default serves clients at {url}$", ready[0])
            gateway.put("a", "1")
            with gateway.stream("/v3/watch", {"create_request": {"key": "YQ=="}}) as watch:
                assert watch.result()["created"]
                node.send_signal(ending)
                while watch.chunk():
                    pass  # until the node says goodbye to its watchers
            assert node.wait(PATIENCE_S) == 0
            assert "Traceback" not in output.read_text()


def test_an_error_nobody_expected_ends_the_process(tmp_path: Path) -> None:
    with process(tmp_path, [sys.executable, "-c", BROKEN]) as (node, url, output), Gateway(url) as gateway:
        with pytest.raises(OSError):
            gateway.put("a", "1")
        assert node.wait(PATIENCE_S) == 1
        assert "this must not happen; the process ends" in output.read_text()
        assert "ZeroDivisionError" in output.read_text()
    with process(tmp_path) as (_, url, _output), Gateway(url) as gateway:
        assert gateway.ok("/v3/kv/range", {"key": "YQ=="})["count"] == "1", "the log had it"


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with process(tmp_path) as (_, url, _output):
        peer_url = f"http://127.0.0.1:{free_ports(1)[0]}"
        other = ["--data-dir", str(tmp_path / "other"), "--listen-peer-urls", peer_url]
        code, said = refused(*other, "--listen-client-urls", url)
    assert code == 1
    assert sentence(said).startswith(f"Error: --listen-client-urls {url}: ")


def test_a_file_in_use_is_one_sentence(tmp_path: Path) -> None:
    with process(tmp_path):
        port = free_ports(1)[0]
        code, said = refused(
            "--data-dir", str(tmp_path / "data"), "--listen-client-urls", f"http://127.0.0.1:{port}"
        )
    assert code == 1
    assert "data/node.sqlite" in sentence(said)


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    with process(tmp_path) as (_, url, _output), Gateway(url) as gateway:
        gateway.put("a", "1")
    (tmp_path / "data" / "node.sqlite").write_bytes(b"not what was written" * 1000)
    code, said = refused("--data-dir", str(tmp_path / "data"))
    assert code == 1
    assert "data/node.sqlite" in sentence(said)


def test_a_bad_flag_is_one_sentence(tmp_path: Path) -> None:
    code, said = refused("--data-dir", str(tmp_path), "--initial-cluster", "nonsense")
    assert code == 2
    assert said.splitlines()[-1] == (
        "Error: --initial-cluster 'nonsense' is not of the form name=http://host:port."
    )


def sentence(said: str) -> str:
    """The one line that was said."""
    lines = said.splitlines()
    assert len(lines) == 1, said
    return lines[0]
