"""Live configuration: changed once, seen everywhere."""

import threading

import pytest

import jobguard
from jobguard.client import Client
from jobguard.config import Config
from tests.stores import Cluster, eventually


def test_a_value_is_set_read_and_deleted(client: Client) -> None:
    config = Config("app", client)
    assert "db/host" not in config
    config["db/host"] = "db1"
    assert config["db/host"] == "db1"
    assert dict(config) == {"db/host": "db1"}
    del config["db/host"]
    with pytest.raises(KeyError, match="db/host"):
        config["db/host"]
    with pytest.raises(KeyError, match="db/host"):
        del config["db/host"]
    assert config.get("db/host", "fallback") == "fallback"
    config.close()


def test_values_are_json_and_keep_their_kind(client: Client) -> None:
    config = Config("app", client)
    values = {
        "text": "5",
        "number": 5,
        "float": 0.5,
        "yes": True,
        "none": None,
        "list": [1, "a"],
        "map": {"a": 1},
    }
    config.update(values)
    assert dict(config) == values
    assert list(config) == sorted(values)
    with pytest.raises(TypeError):
        config["object"] = object()
    config.close()


def test_bare_text_put_by_an_operator_is_read_as_text(client: Client) -> None:
    config = Config("app", client)
    for name, stored, read in [("a", "db1.local", "db1.local"), ("b", "12", 12), ("c", b"\xff", "\ufffd")]:
        client.put(config.key(name), stored)
        eventually(lambda name=name: name in config)
        assert config[name] == read
    config.close()


def test_names_and_prefixes_may_hold_anything(client: Client) -> None:
    config = Config("/team a/app/", client)
    config["päth/with space%2F"] = 1
    assert list(config) == ["päth/with space%2F"]
    assert config.key("a/b").endswith("/config/team%20a/app/a/b")
    with pytest.raises(KeyError):
        config[""] = 1
    config.close()


def test_one_prefix_does_not_see_another(client: Client) -> None:
    one, two, root = Config("one", client), Config("oneself", client), Config("", client)
    one["a"], two["b"] = 1, 2
    assert (dict(one), dict(two)) == ({"a": 1}, {"b": 2})
    eventually(lambda: dict(root) == {"one/a": 1, "oneself/b": 2})
    for config in (one, two, root):
        config.close()


def test_a_change_on_one_host_is_seen_on_the_other(client: Client, other: Client) -> None:
    here, there = Config("app", client), Config("app", other)
    values = ["before", "a@example.org", "b@example.org", None]
    here["sender"] = values[0]
    seen: list[tuple[str, object]] = []
    found: list[object] = []  # judged outside: what a callback raises is only logged
    told = threading.Condition()

    @there.on_change
    def changed(name: str, value: object) -> None:
        with told:
            found.append(there.get(name))
            seen.append((name, value))
            told.notify_all()

    here["sender"] = values[1]
    here["sender"] = values[2]
    del here["sender"]
    with told:
        assert told.wait_for(lambda: len(seen) == 3, 30)
    assert seen == [("sender", value) for value in values[1:]]
    # The mapping is already new when the callback runs; or newer, as changes may come together.
    assert all(values.index(now) >= values.index(value) for now, (_, value) in zip(found, seen, strict=True))  # type: ignore[arg-type]
    here.close()
    there.close()


def test_a_callback_may_write(client: Client) -> None:
    config = Config("app", client)
    config.on_change(lambda name, value: config.update({"copy": value}) if name == "original" else None)
    config["original"] = 7
    eventually(lambda: config.get("copy") == 7)
    config.close()


def test_the_last_known_values_stay_while_the_store_is_away_and_follow_when_it_is_back(
    own_store: Cluster,
) -> None:
    with Client(own_store.endpoints, timeout=30) as client:
        config = Config("app", client)
        config["a"] = 1
        own_store.crash()
        assert config["a"] == 1
        own_store.nodes[0].start()
        own_store.wait_healthy()
        with Client(own_store.endpoints, timeout=30) as other:
            other.put(config.key("a"), "2")
        eventually(lambda: config["a"] == 2)
        config.close()


def test_it_may_be_made_before_anything_is_configured(
    store: Cluster, monkeypatch: pytest.MonkeyPatch, namespace: str
) -> None:
    config = Config("app")  # at import, say
    monkeypatch.setenv("JOBGUARD_ENDPOINTS", ",".join(store.endpoints))
    monkeypatch.setenv("JOBGUARD_NAMESPACE", namespace)
    config["a"] = 1
    assert config["a"] == 1
    assert jobguard.client().get(config.key("a")) is not None
    config.close()
    jobguard.client().close()
