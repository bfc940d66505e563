"""Tasks that nobody scheduled: one at a time, so many at a time, once in a while; and what a skip costs."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, chain, group

from jobguard import tasks
from jobguard.client import Client
from jobguard.errors import ConfigurationError
from tests.plugin.bench import until


@pytest.fixture
def app(client: Client, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Celery]:
    """A project on the store, that runs its tasks eagerly."""
    with Client(client.urls, namespace=str(request.node.name)) as own:
        monkeypatch.setattr(tasks, "shared", lambda: own)
        app = Celery("project", set_as_current=False)
        app.conf.update(task_always_eager=True, task_eager_propagates=True)
        yield app


def task(app: Celery, body: Callable[..., Any], **options: Any) -> Any:
    return app.task(shared=False, name=body.__name__, **options)(body)


class Meanwhile:
    """Bodies of other workers, which run until they may end."""

    def __init__(self, called: Any) -> None:
        self.started, self.end = threading.Semaphore(0), threading.Event()
        self.threads: list[threading.Thread] = []
        self.called = called

    def run(self, *args: Any) -> None:
        self.threads.append(threading.Thread(target=self.called, args=args))
        self.threads[-1].start()
        assert self.started.acquire(timeout=20)

    def body(self) -> None:
        self.started.release()
        assert self.end.wait(20)

    def finish(self) -> None:
        self.end.set()
        for thread in self.threads:
            thread.join(20)


def test_of_each_customer_one_at_a_time(app: Celery) -> None:
    others = Meanwhile(lambda customer: load.apply((customer,)))

    @tasks.lock("import/{customer}")
    def load_customer(customer: str, quickly: bool = False) -> str:
        if not quickly:
            others.body()
        return customer

    load = task(app, load_customer)
    others.run("ann")
    assert load.apply(("ann",)).get() is None
    assert load.apply(("bob", True)).get() == "bob"
    others.finish()
    assert load.apply(("ann", True)).get() == "ann"


def test_who_is_in_the_way_is_told_and_waited_for(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    others = Meanwhile(lambda: first.apply())
    first = task(app, tasks.lock("report")(others.body), bind=False)

    @tasks.lock("report", raises=True)
    def at_once() -> None: ...

    @tasks.lock("report", wait=20)
    def in_time() -> str:
        return "in time"

    others.run()
    with pytest.raises(tasks.Skipped, match=r"^'report' is held by \S+ pid \d+$"):
        task(app, at_once).apply()
    threading.Timer(0.3, others.end.set).start()
    assert task(app, in_time).apply().get() == "in time"
    others.finish()
    assert "at_once not run: 'report' is held by" in caplog.text


def test_so_many_at_a_time(app: Celery) -> None:
    others = Meanwhile(lambda: render.apply((True,)))

    @tasks.limit("render", 2, raises=True)
    def render_page(slowly: bool = False) -> str:
        if slowly:
            others.body()
        return "page"

    render = task(app, render_page)
    others.run()
    assert render.apply().get() == "page"
    others.run()
    with pytest.raises(tasks.Skipped, match="2 of 'render' run already"):
        render.apply()
    others.finish()
    assert render.apply().get() == "page"


def test_once_in_a_while_if_it_ended_well(app: Celery) -> None:
    ran = []

    @tasks.once("invoice/{number}", within=2)
    def send_invoice(number: int, fails: bool = False) -> int:
        ran.append(number)
        if fails:
            raise ValueError("not sent")
        return number

    invoice = task(app, send_invoice)
    with pytest.raises(ValueError, match="not sent"):
        invoice.apply((7, True))
    assert [invoice.apply((7,)).get() for _ in range(3)] == [7, None, None]
    assert invoice.apply((8,)).get() == 8
    assert ran == [7, 7, 8]
    until(lambda: invoice.apply((7,)).get(), "the time is over")


def test_a_skip_keeps_nobody_waiting(app: Celery) -> None:
    """Neither a chain nor a group, which get nothing from it."""
    others = Meanwhile(lambda: first.apply())
    first = task(app, tasks.lock("busy")(others.body))

    @tasks.lock("busy")
    def skip() -> str:
        return "ran"

    def tell(said: Any) -> list[Any]:
        return [said]

    others.run()
    skipped, told = task(app, skip), task(app, tell)
    assert chain(skipped.s(), told.s()).apply().get() == [None]
    assert group(skipped.s(), told.si(1)).apply().get() == [None, [1]]
    others.finish()


def test_a_retry_can_take_its_own_lock_again(app: Celery) -> None:
    @tasks.lock("stubborn", raises=True)
    def try_again(self: Any) -> int:
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return int(self.request.retries)

    app.conf.task_eager_propagates = False  # else the retry is raised, and not made
    assert task(app, try_again, bind=True, max_retries=3).apply().get() == 2


def test_calls_are_checked_as_without_it(app: Celery) -> None:
    @tasks.lock("x/{customer}/{other.name}")
    def load_it(customer: str, other: Any = None) -> None: ...

    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        task(app, load_it).apply_async(())


def test_a_name_of_what_is_no_argument_is_refused() -> None:
    def load_it(customer: str) -> None: ...

    with pytest.raises(
        ConfigurationError, match=r"'import/{custmer}' names 'custmer', .*did you mean {customer}"
    ):
        tasks.lock("import/{custmer}")(load_it)
    with pytest.raises(ConfigurationError, match="would let nothing run"):
        tasks.limit("render", 0)
