"""Peers over TLS: the same cluster, and nobody in it who shows no certificate, or the wrong one."""

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobguard_store.config import Address
from jobguard_store.peer_messages import Welcome, WhoIsThere
from jobguard_store.security import PeerTls, TlsFiles
from jobguard_store.transport import encode_frame, read_frame
from tests.certificates import Authority, Pair
from tests.node.members import Members, eventually, get, members, put, run, soon
from tests.node.test_snapshots import COUNT, agree, base
from tests.node.test_transport import House, append
from tests.ports import free_ports


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("strangers"), "strangers")


@pytest.fixture(autouse=True)
def _hear(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "jobguard_store")


def peer_tls(authority: Authority, pair: Pair | None, allowed_cn: str = "") -> PeerTls:
    cert, key = (str(pair.cert), str(pair.key)) if pair is not None else ("", "")
    return PeerTls(TlsFiles(cert=cert, key=key, cacert=str(authority.cacert), allowed_cn=allowed_cn))


def flags(authority: Authority, pair: Pair) -> dict[str, Any]:
    return {
        "peer_cert_file": str(pair.cert),
        "peer_key_file": str(pair.key),
        "peer_trusted_ca_file": str(authority.cacert),
        "peer_client_cert_auth": True,
    }


def test_three_members_elect_replicate_and_send_each_other_states(
    tmp_path: Path, authority: Authority
) -> None:
    async def story() -> None:
        tls = flags(authority, authority.issue("member"))
        async with members(tmp_path, snapshot_count=COUNT, tls=tls) as three:
            follower = (await three.followers())[0]
            await put(three[follower], "forwarded", "x")
            await three.stop(follower)
            leader = three[await three.leader()]
            for number in range(5 * COUNT):
                await put(leader, f"k{number % 7}", "x" * 10_000)
            await eventually(lambda: base(leader) > COUNT, "the log to be trimmed")
            back = await three.start(follower)
            await eventually(lambda: base(back) > COUNT, "the state to arrive")
            await agree(three)
            old = await three.leader()
            await three.stop(old)
            assert await three.leader() != old
            await put(three.running[0], "k0", "after")
            assert await get(three.running[1], "k0") == "after"

    run(story())


def test_members_whose_certificate_is_renewed_go_on_without_a_restart(
    tmp_path: Path, authority: Authority, strangers: Authority
) -> None:
    """Even when it is another authority's: first it is trusted everywhere, then its certificates are used."""

    async def story() -> None:
        pair, trusted = authority.issue("renewable"), tmp_path / "trusted.pem"
        trusted.write_bytes(authority.cacert.read_bytes())
        tls = {**flags(authority, pair), "peer_trusted_ca_file": str(trusted)}
        async with members(tmp_path, tls=tls) as three:
            leader = await three.leader()
            await put(three[leader], "k", "1")
            both = tmp_path / "both.pem"
            both.write_bytes(authority.cacert.read_bytes() + strangers.cacert.read_bytes())
            os.replace(both, trusted)
            pair.replace_by(strangers.issue("renewed"))
            for number in await three.followers():
                await three.stop(number)
                await three.start(number)
                await put(three[leader], "k", f"after {number}")
            new = tmp_path / "new.pem"
            new.write_bytes(strangers.cacert.read_bytes())
            os.replace(new, trusted)
            await three.stop(leader)
            await three.start(leader)
            await three.leader()
            assert await soon(get(three[leader], "k")) is not None

    run(story())


# --- who is refused -----------------------------------------------------------------------------


@contextlib.contextmanager
def two(one: PeerTls, other: PeerTls, *, plain: bool = False, host: str = "127.0.0.1") -> Iterator[Any]:
    """Two that would dial each other: the first over TLS; the second as it is told."""
    ports = free_ports(2)
    houses = House(1, tls=one), House(2, tls=other)
    where = Address("127.0.0.1", ports[0], True), Address("127.0.0.1", ports[1], not plain)

    async def meet() -> None:
        for house, address in zip(houses, where, strict=True):
            await house.transport.listen([address])
        houses[0].transport.follow({2: (replace(where[1], host=host, tls=True),)})
        houses[1].transport.follow({1: (replace(where[0], host=host, tls=not plain),)})

    async def part() -> None:
        for house in houses:
            house.transport.close()
        await asyncio.sleep(0.01)

    yield (*houses, meet, part)


def expect(caplog: pytest.LogCaptureFixture, one: PeerTls, other: PeerTls, *said: str, **how: Any) -> None:
    """Neither gets through to the other, and the log says why."""

    async def story() -> None:
        with two(one, other, **how) as (first, second, meet, part):
            await meet()
            for text in said:
                await eventually(lambda text=text: text in caplog.text, text)  # type: ignore[misc]
            assert not first.reachable
            assert not second.reachable
            assert not first.transport.post(append(2, 1))
            await part()

    run(story())


def test_who_shows_the_certificate_of_a_stranger(
    authority: Authority, strangers: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    expect(
        caplog,
        peer_tls(authority, authority.issue("one")),
        peer_tls(authority, strangers.issue("other")),
        "refused a connection from 127.0.0.1",
        "member 1 does not talk to us: it refused our certificate: unknown ca",
        "member 2 does not talk to us: its certificate is not trusted: ",
        "; set --peer-trusted-ca-file",
    )


def test_who_trusts_somebody_else(
    authority: Authority, strangers: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    expect(
        caplog,
        peer_tls(authority, authority.issue("one")),
        peer_tls(strangers, authority.issue("other")),
        "member 1 does not talk to us: its certificate is not trusted: ",
        "member 2 does not talk to us: it refused our certificate: unknown ca",
    )


def test_whose_certificate_has_expired(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    expect(
        caplog,
        peer_tls(authority, authority.issue("one")),
        peer_tls(authority, authority.issue("expired", expired=True)),
        "member 2 does not talk to us: its certificate has expired",
        "member 1 does not talk to us: it refused our certificate: certificate expired",
    )


def test_whose_certificate_is_of_another_host(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    expect(
        caplog,
        peer_tls(authority, authority.issue("one", "127.0.0.1")),
        peer_tls(authority, authority.issue("other", "127.0.0.1")),
        "member 2 does not talk to us: its certificate is refused: Hostname mismatch",
        "member 1 does not talk to us: its certificate is refused: Hostname mismatch",
        host="localhost",
    )


def test_who_speaks_in_plain_text(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    expect(
        caplog,
        peer_tls(authority, authority.issue("one")),
        PeerTls(),
        "it does not speak TLS",
        plain=True,
    )


def test_who_has_another_common_name_than_peers_have(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    expect(
        caplog,
        peer_tls(authority, authority.issue("one", common_name="peer"), allowed_cn="peer"),
        peer_tls(authority, authority.issue("client", common_name="web"), allowed_cn="other"),
        "its certificate is that of web",
        "its certificate is that of peer",
    )


def test_the_common_name_that_peers_have_gets_in(authority: Authority) -> None:
    async def story() -> None:
        named = [authority.issue(name, common_name="peer") for name in ("one", "other")]
        with two(*(peer_tls(authority, pair, "peer") for pair in named)) as (first, second, meet, part):
            await meet()
            await eventually(lambda: first.reachable and second.reachable)
            await part()

    run(story())


def test_a_forged_introduction_without_a_certificate_is_never_read(
    authority: Authority, strangers: Authority
) -> None:
    """It knows all ids, and comes in plain text, without a certificate, or with one of its own making."""
    forger, own = strangers.issue("forger"), authority.issue("one")

    def context(pair: Pair | None) -> ssl.SSLContext:
        trusting = ssl.create_default_context(cafile=str(authority.cacert))
        if pair is not None:
            trusting.load_cert_chain(pair.cert, pair.key)
        return trusting

    async def story() -> None:
        (port,) = free_ports(1)
        house, member = House(1, tls=peer_tls(authority, own)), House(2)
        await house.transport.listen([Address("127.0.0.1", port, True)])
        house.transport.follow({2: ()})
        hello = encode_frame(replace(member.transport.hello, to=1))
        for how in (None, context(None), context(forger)):
            for frames in (hello, encode_frame(WhoIsThere())):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=how)
                writer.write(frames)
                answer = b""
                with contextlib.suppress(OSError):
                    answer = await soon(reader.read())
                assert not encoded(answer), "not even a roster"
                writer.transport.abort()
        assert house.messages == []
        assert not house.transport.accepted
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context(own))
        writer.write(hello)
        assert isinstance(await soon(read_frame(reader)), Welcome)
        writer.write(encode_frame(replace(append(1, 1), sender=2)))
        await eventually(lambda: house.messages, "who has one is heard")
        writer.transport.abort()
        house.transport.close()
        member.transport.close()
        await asyncio.sleep(0.01)

    run(story())


def encoded(answer: bytes) -> bool:
    """Whether it is of our protocol: an alert of TLS, in plain text, is not."""
    return bool(answer) and not answer.startswith(b"\x15\x03")


def test_a_newcomer_is_told_nothing_without_a_certificate(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobguard_store import joining
    from jobguard_store.errors import StartupError

    monkeypatch.setattr(joining, "PATIENCE_S", 0.2)

    async def story() -> None:
        one = Members(tmp_path, 1, tls=flags(authority, authority.issue("member")))
        await one.start(0)
        member = one.configs[0]
        (port,) = free_ports(1)
        newcomer = replace(
            member,
            name="n",
            data_dir=tmp_path / "n",
            initial_cluster_state="existing",
            initial_advertise_peer_urls=(f"https://127.0.0.1:{port}",),
            peer_tls=TlsFiles(),
        )
        with pytest.raises(StartupError, match="no member of the cluster answers at https://127"):
            await joining.join(newcomer)
        assert "the certificate of the member at 127.0.0.1:" in caplog.text
        assert "is not trusted" in caplog.text
        await one.stop_all()

    run(story())
