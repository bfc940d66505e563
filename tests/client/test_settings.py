"""Where a setting comes from, and what is refused."""

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from jobguard.errors import ConfigurationError
from jobguard.settings import Settings


def app(**configuration: Any) -> Celery:
    made = Celery("app", set_as_current=False)
    made.conf.update(configuration)
    return made


def namespaced(**configuration: Any) -> Celery:
    made = Celery("app", set_as_current=False)
    made.config_from_object(SimpleNamespace(**configuration), namespace="CELERY")
    return made


def test_nothing_set_means_the_defaults() -> None:
    settings = Settings.from_app(app())
    assert settings == Settings()
    assert settings.endpoints == ("http://127.0.0.1:2379",)


def test_from_the_apps_configuration() -> None:
    settings = Settings.from_app(app(jobguard_endpoints=["http://a:1", "http://b:2"], jobguard_session_ttl=7))
    assert settings.endpoints == ("http://a:1", "http://b:2")
    assert settings.session_ttl == 7


def test_with_celerys_namespace_and_a_comma_separated_text() -> None:
    settings = Settings.from_app(namespaced(CELERY_JOBGUARD_ENDPOINTS="http://a:1, http://b:2", DEBUG=True))
    assert settings.endpoints == ("http://a:1", "http://b:2")


def test_upper_case_without_a_namespace() -> None:
    made = Celery("app", set_as_current=False)
    made.config_from_object(SimpleNamespace(JOBGUARD_NAMESPACE="shop"))
    assert Settings.from_app(made).namespace == "shop"


def test_the_configuration_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBGUARD_NAMESPACE", "from-env")
    monkeypatch.setenv("JOBGUARD_SESSION_TTL", "9")
    settings = Settings.from_app(app(jobguard_namespace="from-app"))
    assert (settings.namespace, settings.session_ttl) == ("from-app", 9)
    assert Settings.from_environment().namespace == "from-env"


@pytest.mark.parametrize("make", [app, namespaced])
def test_a_misspelt_setting_is_refused_with_a_suggestion(make: Any) -> None:
    prefix = "CELERY_JOBGUARD_" if make is namespaced else "jobguard_"
    key = f"{prefix}{'ENDPOINT' if make is namespaced else 'endpoint'}"
    with pytest.raises(ConfigurationError, match=f"unknown setting {key}; did you mean jobguard_endpoints"):
        Settings.from_app(make(**{key: "http://a:1"}))


@pytest.mark.parametrize("read", [Settings.from_environment, lambda: Settings.from_app(app())])
def test_a_misspelt_variable_is_refused_with_a_suggestion(monkeypatch: pytest.MonkeyPatch, read: Any) -> None:
    monkeypatch.setenv("JOBGUARD_ENDPOINT", "http://a:1")
    with pytest.raises(
        ConfigurationError, match="unknown setting JOBGUARD_ENDPOINT; did you mean JOBGUARD_ENDPOINTS"
    ):
        read()


@pytest.mark.parametrize("name", ["WEB_TOKEN", "STORE_NAME", "SERVICE_HOST", "PORT", "PORT_2379_TCP_ADDR"])
def test_variables_of_others_are_theirs(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Kubernetes sets the last three in every pod beside a service that is called jobguard."""
    monkeypatch.setenv(f"JOBGUARD_{name}", "x")
    assert Settings.from_environment() == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [("endpoints", []), ("endpoints", ""), ("session_ttl", 0), ("session_ttl", "soon"), ("namespace", "")],
)
def test_a_value_that_cannot_be_used_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"jobguard_{name} = .* cannot be used"):
        Settings.from_app(app(**{f"jobguard_{name}": value}))


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("SESSION_TTL", "soon", "a number of seconds above zero is needed"),
        ("HISTORY_DAYS", "-1", "a number of days above zero is needed"),
        ("HISTORY_COUNT", "many", "a whole number, 1 or more, is needed"),
        ("JOBS", "digest", "JSON is needed: "),
    ],
)
def test_the_refusal_of_a_value_says_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, text: str
) -> None:
    monkeypatch.setenv(f"JOBGUARD_{name}", value)
    with pytest.raises(ConfigurationError, match=f"JOBGUARD_{name} = '{value}' cannot be used: {text}"):
        Settings.from_environment()


def test_a_value_of_the_environment_is_refused_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBGUARD_TIMEOUT", "-1")
    with pytest.raises(ConfigurationError, match="JOBGUARD_TIMEOUT = '-1' cannot be used"):
        Settings.from_environment()


def test_reading_the_settings_leaves_the_apps_configuration_alone() -> None:
    made = app(jobguard_namespace="shop")
    made.conf.get("jobguard_namespace")  # it loads at the first touch
    before = dict(made.conf)
    Settings.from_app(made)
    assert dict(made.conf) == before
