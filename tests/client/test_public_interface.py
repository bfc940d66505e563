"""What `import jobguard` brings, and what it leaves alone."""

import subprocess
import sys

import pytest

import jobguard


def loaded_after(statement: str) -> set[str]:
    """The modules in a fresh interpreter after `statement`."""
    program = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_wire_alone_loads_neither_celery_nor_urllib3() -> None:
    loaded = loaded_after("import jobguard.wire")
    assert not loaded & {"celery", "urllib3", "sqlalchemy", "redis", "jobguard.client"}


def test_a_lock_needs_neither_celery_nor_sql() -> None:
    loaded = loaded_after("import jobguard; jobguard.Client; jobguard.Lock; jobguard.client")
    assert not loaded & {"celery", "sqlalchemy", "redis", "flask"}


def test_every_public_name_is_there() -> None:
    for name in jobguard.__all__:
        assert getattr(jobguard, name) is not None
    with pytest.raises(AttributeError, match=r"jobguard.*nonsense"):
        _ = jobguard.nonsense  # type: ignore[attr-defined]


def test_client_is_both_the_module_and_the_processs_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever order the two are imported."""
    monkeypatch.setenv("JOBGUARD_ENDPOINTS", "http://127.0.0.1:1")
    from jobguard.client import Client

    client = jobguard.client()
    assert isinstance(client, Client)
    assert client.urls == ("http://127.0.0.1:1",)
    assert jobguard.client() is client
    for statement in (
        "import jobguard; jobguard.client()",
        "import jobguard.client; jobguard.client()",
        "import jobguard.lock, jobguard; jobguard.client().lock('l')",
        "from jobguard import client; client()",
    ):
        loaded_after(statement)


def test_the_client_of_a_celery_app_is_configured_by_it() -> None:
    loaded_after(
        "from celery import Celery; app = Celery('a'); app.conf.jobguard_endpoints = ['http://127.0.0.1:2'];"
        "import jobguard; assert jobguard.client().urls == ('http://127.0.0.1:2',)"
    )
