"""Whatever a task looks like, and whenever install() came: a worker guards it, and nobody else is touched."""

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, Task, shared_task
from celery.app.trace import build_tracer, reset_worker_optimizations, setup_worker_optimizations
from celery.concurrency.prefork import TaskPool
from celery.worker.request import Request

from jobguard.celery.deadline import WorkerDirectory
from jobguard.celery.guard import Guard
from jobguard.celery.request import Guarded
from jobguard.celery.sweep import CannotGuard, unguarded
from jobguard.celery.worker import Guarding, install
from jobguard.errors import ConfigurationError
from jobguard.records import HEADER

HEADERS = {"v": 1, "job": "j", "nominal": "2026-11-24T02:00:00Z", "n": 1, "ns": "default"}


class ContextTask(Task):  # type: ignore[misc]
    """As Flask's documentation has it: bodies run inside something that __call__ sets up."""

    abstract = True
    inside = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        type(self).inside = True
        try:
            return self.run(*args, **kwargs)
        finally:
            type(self).inside = False


class SuperTask(Task):  # type: ignore[misc]
    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return ["super", super().__call__(*args, **kwargs)]


class OwnRequest(Request):  # type: ignore[misc]
    pass


@shared_task(name="shared")
def shared(x: int) -> int:
    return x + 1


def add_one(x: int) -> int:
    return x + 1


def plain(app: Celery) -> tuple[str, object]:
    app.task(shared=False, name="plain")(add_one)
    return "plain", 2


def bound(app: Celery) -> tuple[str, object]:
    def body(self: Any, x: int) -> list[object]:
        return [self.name, x + 1]

    app.task(shared=False, name="bound", bind=True)(body)
    return "bound", ["bound", 2]


def based(app: Celery) -> tuple[str, object]:
    def body(self: Any, x: int) -> list[object]:
        return [self.inside, x + 1]

    app.task(shared=False, name="based", base=ContextTask, bind=True)(body)
    return "based", [True, 2]


def based_on_super(app: Celery) -> tuple[str, object]:
    app.task(shared=False, name="based_on_super", base=SuperTask)(add_one)
    return "based_on_super", ["super", 2]


def autoretried(app: Celery) -> tuple[str, object]:
    app.task(shared=False, name="autoretried", autoretry_for=(Exception,))(add_one)
    return "autoretried", 2


def of_a_class(app: Celery) -> tuple[str, object]:
    class OfAClass(Task):  # type: ignore[misc]
        name = "of_a_class"

        def run(self, x: int) -> int:
            return x + 1

    app.register_task(OfAClass())
    return "of_a_class", 2


def of_a_class_and_its_base(app: Celery) -> tuple[str, object]:
    class First(Task):  # type: ignore[misc]
        name = "first"

        def run(self, x: int) -> int:
            return x + 1

    class Second(First):
        name = "second"

    app.register_task(First())
    app.register_task(Second())
    return "second", 2


def with_own_call(app: Celery) -> tuple[str, object]:
    class WithOwnCall(Task):  # type: ignore[misc]
        name = "with_own_call"

        def __call__(self, x: int) -> list[object]:
            return ["called", self.run(x)]

        def run(self, x: int) -> int:
            return x + 1

    app.register_task(WithOwnCall())
    return "with_own_call", ["called", 2]


def with_own_request(app: Celery) -> tuple[str, object]:
    app.task(shared=False, name="with_own_request", Request=OwnRequest)(add_one)
    return "with_own_request", 2


def shared_with_all(app: Celery) -> tuple[str, object]:
    return "shared", 2


def built_in(app: Celery) -> tuple[str, object]:
    return "celery.accumulate", (1,)


VARIANTS = [
    plain,
    bound,
    based,
    based_on_super,
    autoretried,
    of_a_class,
    of_a_class_and_its_base,
    with_own_call,
    with_own_request,
    shared_with_all,
    built_in,
]

ORDERS = ["install configure define", "configure install define", "configure define install", "touch"]


class Recorder:
    """In the guard's place: counts what passes."""

    def __init__(self) -> None:
        self.passed = 0

    def around(self, _guard: object, _task: object, _request: object, _header: object, body: Any) -> Any:
        self.passed += 1
        return body()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(Guard, "around", lambda *args: recorder.around(*args))
    return recorder


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    directory = WorkerDirectory.announced()
    if directory is not None:
        directory.remove()


def make(order: str, define: Callable[[Celery], tuple[str, object]]) -> tuple[Celery, str, object]:
    app = Celery("variants", set_as_current=False, broker="memory://")
    name, expected = "", None
    for step in order.split() if order != "touch" else ["configure", "define", "touch", "install"]:
        match step:
            case "install":
                install(app)
            case "configure":
                app.config_from_object({"task_ignore_result": True})
            case "define":
                name, expected = define(app)
            case "touch":
                # What leaves annotations without effect: the base, the app's Task and a task looked at early.
                assert ContextTask.app is not None
                assert app.Task.app is app
                assert app.tasks[name].app is app
    return app, name, expected


def boot(app: Celery) -> Any:
    """The guard's bootstep, as a worker constructs it."""
    return Guarding(SimpleNamespace(app=app, hostname="w@test", pool_cls=TaskPool, concurrency=1, steps=[]))


def trace(app: Celery, name: str, **headers: Any) -> Any:
    """One delivery, as a worker's child traces it."""
    setup_worker_optimizations(app)
    try:
        task = app.tasks[name]
        tracer = build_tracer(name, task, app=app)
        return tracer("id", [1], {}, {"delivery_info": {}, **headers}).retval
    finally:
        reset_worker_optimizations(app)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: str(variant.__name__))
def test_a_booted_worker_guards(variant: Any, order: str, recorder: Recorder) -> None:
    app, name, expected = make(order, variant)
    boot(app)
    assert unguarded(app.tasks.values()) == []
    assert trace(app, name, **{HEADER: HEADERS}) == expected  # once, and through the user's own __call__
    assert recorder.passed == 1
    assert trace(app, name) == expected  # without our header: past the guard
    assert recorder.passed == 1


def test_a_plain_call_and_an_eager_one_pass_the_guard_by(recorder: Recorder) -> None:
    app, name, _ = make(ORDERS[0], plain)
    boot(app)
    assert app.tasks[name](1) == 2
    assert app.tasks[name].apply((1,), headers={HEADER: HEADERS}).get() == 2
    assert recorder.passed == 0


def test_a_body_that_calls_its_own_task_is_guarded_once(recorder: Recorder) -> None:
    app = Celery("nested", set_as_current=False, broker="memory://")
    install(app)

    def countdown(self: Any, x: int) -> int:
        return 0 if x == 5 else 1 + int(self(x + 1))

    app.task(shared=False, name="countdown", bind=True)(countdown)
    boot(app)
    assert trace(app, "countdown", **{HEADER: HEADERS}) == 4
    assert recorder.passed == 1


def test_requests_report_and_stay_what_they_were() -> None:
    app, name, _ = make(ORDERS[0], with_own_request)
    boot(app)
    assert issubclass(app.tasks[name].Request, Guarded)
    assert issubclass(app.tasks[name].Request, OwnRequest)
    assert issubclass(app.tasks["celery.accumulate"].Request, Guarded)


def test_installing_and_booting_twice_is_doing_it_once(recorder: Recorder) -> None:
    app, name, _ = make("install install configure define", plain)
    step = boot(app)
    step.start(SimpleNamespace(app=app, jobguard_parent=None))
    assert trace(app, name, **{HEADER: HEADERS}) == 2
    assert recorder.passed == 1


def test_a_task_that_cannot_be_guarded_stops_the_worker() -> None:
    class Frozen(type(Task)):  # type: ignore[misc]
        def __setattr__(cls, name: str, value: object) -> None:
            if name == "__call__":
                raise AttributeError("this class keeps its __call__")
            super().__setattr__(name, value)

    class Unguardable(Task, metaclass=Frozen):  # type: ignore[misc]
        name = "unguardable"

        def run(self) -> None: ...

    app = Celery("unguardable", set_as_current=False, broker="memory://")
    install(app)
    app.register_task(Unguardable())
    with pytest.raises(CannotGuard, match="unguardable cannot be guarded: this class keeps its __call__"):
        boot(app)


def test_a_misspelt_setting_stops_the_worker() -> None:
    app = Celery("misspelt", set_as_current=False, broker="memory://")
    app.conf.jobguard_endpoint = "http://127.0.0.1:1"
    install(app)
    with pytest.raises(ConfigurationError, match="did you mean jobguard_endpoints"):
        boot(app)


def test_a_web_process_starts_nothing() -> None:
    """Import, install, configure, define, finalise: no thread, no socket, no setting, no class touched."""
    program = """
        import os, threading
        from celery import Celery
        import jobguard
        app = Celery("web", broker="redis://127.0.0.1:1/0")
        jobguard.install(app)
        assert not app.configured, "install read the configuration"
        app.conf.jobguard_no_such_setting = 1       # would be refused by a worker
        @app.task(shared=False, name="task")
        def task(): return 1
        app.finalize()
        assert task() == 1
        assert threading.enumerate() == [threading.main_thread()]
        links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2
                 and os.path.exists(f"/proc/self/fd/{fd}")]
        assert not [link for link in links if "socket" in link], links
        assert "JOBGUARD_WORKER_DIRECTORY" not in os.environ
        assert "__call__" not in vars(type(app.tasks["task"]))
    """
    subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(program)], check=True, timeout=100)
