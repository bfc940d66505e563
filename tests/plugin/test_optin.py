"""The option `jobguard=` of a task: what it says, what is refused, and the key of a call."""

from typing import Any

import pytest
from celery import Celery, Task

from jobguard.celery.optin import OptIn, opt_in
from jobguard.celery.sweep import CannotGuard, sweep
from jobguard.errors import ConfigurationError


class NoGuard:
    """A guard that only lets through."""

    def around(self, task: Any, request: Any, header: object, body: Any) -> Any:
        return body()

    def in_turn(self, asked: Any, task: Any, request: Any, args: Any, kwargs: Any, body: Any) -> Any:
        return ("turn", asked.name(args, kwargs), body())

    def on_replace(self, task: Any, request: Any, sig: Any) -> None: ...

    def on_retry(self, request: Any, retry: Any) -> None: ...


@pytest.fixture
def app() -> Celery:
    return Celery("optin", set_as_current=False)


def asked(app: Celery, said: Any, **options: Any) -> OptIn:
    @app.task(name="invoice", jobguard=said, **options)
    def invoice(customer: int, month: str = "may", *, token: str = "") -> None: ...

    found = opt_in(app.tasks["invoice"])
    assert found is not None
    return found


def test_a_task_without_the_option_asks_for_nothing(app: Celery) -> None:
    @app.task(name="plain")
    def plain() -> None: ...

    assert opt_in(app.tasks["plain"]) is None


def test_what_it_says(app: Celery) -> None:
    said = asked(app, {"once": ["customer"], "window": 60, "wait": 5, "on_skip": "raise"})
    assert (said.at_most, said.window, said.wait, said.raises) == (1, 60, 5, True)


def test_what_the_others_say(app: Celery) -> None:
    said = asked(app, {"limit": [], "at_most": 3})
    assert (said.at_most, said.window, said.wait, said.raises) == (3, 0, 0, False)
    assert said.name((1,), {}) == "invoice()"


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"lock": ["custmer"]}, "no argument 'custmer'; did you mean 'customer'"),
        ({"lok": ["customer"]}, "no 'lok'; did you mean 'lock'"),
        ({"lock": ["customer"], "wiat": 3}, "no 'wiat'; did you mean 'wait'"),
        ({"lock": ["customer"], "on_skip": "rise"}, "did you mean 'raise'"),
        ({"lock": "customer"}, "names of arguments are needed"),
        ({"lock": ["customer"], "wait": -1}, '"wait"'),
        ({"lock": ["customer"], "wait": "3"}, '"wait"'),
        ({"lock": ["customer"], "window": 3}, '"window" is for "once"'),
        ({"once": ["customer"]}, '"once" needs "window"'),
        ({"once": ["customer"], "window": 0}, '"window"'),
        ({"limit": ["customer"]}, '"limit" needs "at_most"'),
        ({"limit": ["customer"], "at_most": True}, '"at_most"'),
        ({"lock": [], "once": [], "window": 3}, "one of"),
        ({"wait": 3}, "one of"),
        (["customer"], "a mapping is needed"),
    ],
)
def test_what_is_misspelt_is_refused_with_the_nearest_name(app: Celery, said: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"jobguard=") as refused:
        asked(app, said)
    assert text in str(refused.value)


def test_a_worker_does_not_start_with_it(app: Celery) -> None:
    @app.task(name="wrong", jobguard={"lock": ["b"]})
    def wrong(a: int) -> None: ...

    with pytest.raises(CannotGuard, match=r"task wrong cannot be guarded: .*'b'"):
        sweep(app, NoGuard())


def test_equal_arguments_make_the_same_key_however_they_are_passed(app: Celery) -> None:
    said = asked(app, {"lock": ["customer", "month"]})
    names = {
        said.name((7,), {}),
        said.name((7, "may"), {}),
        said.name((), {"month": "may", "customer": 7}),
    }
    assert names == {'invoice(customer=7, month="may")'}
    assert said.name(("7",), {}) not in names
    with pytest.raises(TypeError, match="customer"):
        said.name((), {})


def test_all_arguments(app: Celery) -> None:
    said = asked(app, {"lock": "*"})
    assert said.names == ("customer", "month", "token")
    assert said.name((1,), {"token": "a"}) != said.name((1,), {"token": "b"})


def test_secrets_and_long_arguments_are_not_shown(app: Celery) -> None:
    said = asked(app, {"lock": ["customer", "token"]})
    name = said.name(("x" * 1000,), {"token": "hush"})
    assert "hush" not in name
    assert len(name) < 120
    assert name == said.name(("x" * 1000,), {"token": "hush"}) != said.name(("x" * 1001,), {"token": "hush"})


def test_an_argument_that_cannot_be_written_down(app: Celery) -> None:
    with pytest.raises(TypeError, match="'customer' cannot be part of a key"):
        asked(app, {"lock": ["customer"]}).name((object(),), {})


def test_the_order_in_a_mapping_makes_no_difference(app: Celery) -> None:
    said = asked(app, {"lock": ["customer"]})
    assert said.name(({"a": 1, "b": 2},), {}) == said.name(({"b": 2, "a": 1},), {})


def test_bound_retried_inherited_and_open_ones(app: Celery) -> None:
    lock = {"lock": ["customer"]}

    @app.task(name="bound", bind=True, jobguard=lock, autoretry_for=(ValueError,))
    def bound(self: Any, customer: int) -> None: ...

    @app.task(name="open", jobguard={"lock": ["customer", "color"]})
    def opened(customer: int, **others: Any) -> None: ...

    class Base(Task):  # type: ignore[type-arg]
        jobguard = lock

    class Derived(Base):
        name = "derived"

        def run(self, customer: int) -> None: ...

    app.register_task(Derived())
    names = {}
    for name in ("bound", "open", "derived"):
        found = opt_in(app.tasks[name])
        assert found is not None
        names[name] = found.name((), {"customer": 1} | ({"color": "red"} if name == "open" else {}))
    assert names == {
        "bound": "bound(customer=1)",
        "open": 'open(customer=1, color="red")',
        "derived": "derived(customer=1)",
    }


def test_a_plain_call_and_an_eager_one_take_no_turn(app: Celery) -> None:
    @app.task(name="calls", bind=True, jobguard={"lock": ["number"]})
    def calls(self: Any, number: int) -> int:
        return number

    sweep(app, NoGuard())
    task = app.tasks["calls"]
    assert task(3) == 3
    assert task.apply((3,)).get() == 3


def test_a_class_that_does_not_want_what_its_base_asks_for_takes_no_turn(app: Celery) -> None:
    class Base(Task):  # type: ignore[type-arg]
        name = "base"
        jobguard = {"lock": ["number"]}

        def run(self, number: int) -> int:
            return number

    class Derived(Base):
        name = "derived"
        jobguard = None  # type: ignore[assignment]

    for task in (app.register_task(Base()), app.register_task(Derived())):
        sweep(app, NoGuard())
        task.push_request(id="1", called_directly=False, is_eager=False, args=(2,), kwargs={})
        assert task(2) == (("turn", "base(number=2)", 2) if task.name == "base" else 2)
        task.pop_request()


def test_a_delivered_one_takes_its_turn_once_though_it_calls_itself(app: Celery) -> None:
    @app.task(name="calls", bind=True, jobguard={"lock": ["number"]})
    def calls(self: Any, number: int) -> Any:
        return self(number - 1) if number else "end"

    sweep(app, NoGuard())
    task = app.tasks["calls"]
    task.push_request(id="1", called_directly=False, is_eager=False, args=(2,), kwargs={})
    assert task(2) == ("turn", "calls(number=2)", "end")
    task.pop_request()
