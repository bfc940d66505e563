"""Lease keepalive: a line per request, over as long a body as the client likes."""

import pytest

from tests.gateway import Gateway
from tests.messages import GRANT, KEEPALIVE, PUT, RANGE, WATCH, create, put, range_


def test_the_answer_ends_with_the_request(gateway: Gateway) -> None:
    """Clients that send one message read the answer to its end."""
    gateway.ok(GRANT, {"ID": 7, "TTL": 60})
    answer = gateway.post(KEEPALIVE, {"ID": 7})
    assert answer.json["result"]["TTL"] == "60"
    assert gateway.post(KEEPALIVE, b"").body == b""


def test_an_open_body_renews_as_often_as_it_asks(gateway: Gateway) -> None:
    gateway.ok(GRANT, {"ID": 7, "TTL": 60})
    with gateway.stream(KEEPALIVE, {"ID": 7}, more=True) as stream:
        assert stream.result()["TTL"] == "60"
        stream.send({"ID": 7})
        assert stream.result()["TTL"] == "60"
        stream.send({"ID": 8})
        assert "TTL" not in stream.result()
        stream.end_body()
        with pytest.raises(EOFError):
            stream.next()


def test_malformed_requests(gateway: Gateway) -> None:
    assert gateway.post(KEEPALIVE, b'{"ID":"x"}').error[:2] == (400, 3)
    answer = gateway.post(KEEPALIVE, b'{"ID":7} nonsense')
    assert answer.status == 200
    assert answer.body.count(b"\n") == 1


def test_a_lease_runs_out_unless_it_is_renewed(gateway: Gateway) -> None:
    """The floor for a TTL follows from the election timeout: here one second."""
    with gateway.stream(WATCH, create("k", filters=["NOPUT"])) as stream:
        stream.result()
        status = 0
        while status != 200:  # it may have run out before the key comes
            granted = gateway.ok(GRANT, {"TTL": 0})
            assert granted["TTL"] == "1"
            status = gateway.post(PUT, put("k", lease=int(granted["ID"]))).status
            assert status in (200, 404)
        assert stream.result()["events"][0]["type"] == "DELETE"
    assert "kvs" not in gateway.ok(RANGE, range_("k"))
    assert "TTL" not in gateway.post(KEEPALIVE, {"ID": granted["ID"]}).json["result"]
