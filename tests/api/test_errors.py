"""Refusals: one table from errors to codes, one body, the texts that clients compare."""

import inspect

import pytest

from jobguard_store import errors
from jobguard_store.api import status
from tests.gateway import Gateway
from tests.messages import GRANT, PUT, RANGE, REVOKE, TXN, compare, delete_op, put, put_op, range_, txn


def refusals() -> list[type[Exception]]:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    return [kind for kind in kinds if issubclass(kind, errors.StoreError | errors.OutcomeUnknown)]


@pytest.mark.parametrize("kind", [kind for kind in refusals() if kind is not errors.StoreError])
def test_every_refusal_has_a_code_and_a_status(kind: type[Exception]) -> None:
    error = kind(1, 2) if kind is errors.MessageTooLarge else kind()
    assert isinstance(error, errors.StoreError | errors.OutcomeUnknown)
    assert status.http_status(error) >= 400
    assert status.error_line(error).endswith(b"}\n")


@pytest.mark.parametrize(
    ("path", "message", "code", "grpc_code", "text"),
    [
        (PUT, put(""), 400, 3, "etcdserver: key is not provided"),
        (PUT, put("k", ignore_value=True), 400, 3, "etcdserver: key not found"),
        (PUT, put("k", "v", ignore_value=True), 400, 3, "etcdserver: value is provided"),
        (PUT, put("k", lease=1, ignore_lease=True), 400, 3, "etcdserver: lease is provided"),
        (PUT, put("k", lease=1), 404, 5, "etcdserver: requested lease not found"),
        (PUT, put("k", "x" * (1536 * 1024)), 400, 3, "etcdserver: request is too large"),
        (RANGE, range_("k", sort_order=7), 400, 3, "etcdserver: invalid sort option"),
        (RANGE, range_("k", sort_target=-1), 400, 3, "etcdserver: invalid sort option"),
        (
            RANGE,
            range_("k", revision=10**9),
            400,
            11,
            "etcdserver: mvcc: required revision is a future revision",
        ),
        (TXN, txn({}), 400, 3, "etcdserver: key not found"),
        (TXN, txn(compare=(compare("", "MOD"),)), 400, 3, "etcdserver: key is not provided"),
        (TXN, txn(*[put_op("k")] * 129), 400, 3, "etcdserver: too many operations in txn request"),
        (TXN, txn(put_op("k"), delete_op("k")), 400, 3, "etcdserver: duplicate key given in txn request"),
        (GRANT, {"TTL": 9_000_000_001}, 400, 11, "etcdserver: too large lease TTL"),
        (REVOKE, {"ID": 1}, 404, 5, "etcdserver: requested lease not found"),
    ],
)
def test_texts_are_etcds_to_the_letter(
    gateway: Gateway, path: str, message: object, code: int, grpc_code: int, text: str
) -> None:
    answer = gateway.post(path, message)
    assert answer.error == (code, grpc_code, text)
    assert list(answer.json) == ["error", "code", "message"]
    assert answer.headers["content-type"] == "application/json"


def test_a_lease_id_in_use_is_a_failed_precondition(gateway: Gateway) -> None:
    gateway.ok(GRANT, {"TTL": 60, "ID": 7})
    assert gateway.post(GRANT, {"TTL": 60, "ID": 7}).error == (400, 9, "etcdserver: lease already exists")


def test_a_deadline_that_passes_is_not_a_refusal(gateway: Gateway) -> None:
    """What was cut short may have happened: the code says so, and says nothing else."""
    answer = gateway.post(PUT, put("k"), headers={"Grpc-Timeout": "1n"})
    assert answer.error == (504, 4, "context deadline exceeded")
    refused = gateway.post(PUT, put("k"), headers={"Grpc-Timeout": "soon"})
    assert refused.error == (400, 3, "invalid grpc-timeout: soon")
