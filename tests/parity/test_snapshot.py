"""A snapshot on the wire is framed as etcd's is; what is in it is a file of ours, for our restore."""

from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.gateway import Gateway, unb64
from tests.messages import RANGE, range_
from tests.processes.test_drills import flags_of, jobguard
from tests.stores import make

SNAPSHOT = "/v3/maintenance/snapshot"


def parts(gateway: Gateway) -> list[dict[str, Any]]:
    found = []
    with gateway.stream(SNAPSHOT, {}) as stream, suppress(EOFError):
        while True:
            found.append(stream.result())
    return found


def shape(gateway: Gateway) -> tuple[set[frozenset[str]], set[str]]:
    """Which fields the messages have, and what the last one, which is about all before it, has."""
    for number in range(5):
        gateway.put(f"large/{number}", "x" * 100_000)
    *file, digest = parts(gateway)
    blobs = [unb64(part["blob"]) for part in file]
    assert unb64(digest["blob"]) == sha256(b"".join(blobs)).digest()
    assert {len(blob) for blob in blobs[:-1]} == {32 * 1024}
    left = sum(map(len, blobs))
    for part, blob in zip(file, blobs, strict=True):
        left -= len(blob)
        assert int(part.get("remaining_bytes", 0)) == left
    return {frozenset(part) for part in file}, set(digest)


def test_it_is_framed_as_etcds(oracle: Gateway, ours: Gateway) -> None:
    assert shape(ours) == shape(oracle)


def test_what_any_client_saves_is_restored(ours: Gateway, tmp_path: Path) -> None:
    """As etcdctl does, it keeps the checksum with the file."""
    ours.put("kept", "as it was")
    saved = tmp_path / "saved"
    saved.write_bytes(b"".join([unb64(part["blob"]) for part in parts(ours)]))
    cluster = make("jobguard", tmp_path, 1)
    (node,) = cluster.nodes
    assert "new cluster" in jobguard("restore", str(saved), *flags_of(node, "name", "data-dir"))
    try:
        node.start()
        node.wait_until_ready()
        with node.gateway() as gateway:
            (pair,) = gateway.ok(RANGE, range_("kept"))["kvs"]
            assert unb64(pair["value"]) == b"as it was"
            assert int(gateway.ok(RANGE, range_("large/", "large0"))["count"]) == 5
    finally:
        cluster.stop()
