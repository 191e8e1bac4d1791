"""TLS on streams: handshakes, records that the loop cannot see, and how a connection ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from conftest import Certificates, watched_files
from whimbrel.iostream import (
    IOStream,
    SSLIOStream,
    StreamClosedError,
    ssl_options_to_context,
)

from .support import Peer, Told, tcp_pair, until

BIG = os.urandom(4096) * 1000


@contextlib.asynccontextmanager
async def secured(
    certificates: Certificates,
) -> AsyncIterator[tuple[SSLIOStream, SSLIOStream]]:
    """A client's and a server's end of one TLS connection."""
    one, other = tcp_pair()
    client, server = IOStream(one), IOStream(other)
    ends = await asyncio.gather(
        client.start_tls(False, {"ca_certs": certificates.ca_file}, "localhost"),
        server.start_tls(True, certificates.server_context()),
    )
    assert client.closed()
    try:
        yield ends
    finally:
        for end in ends:
            end.close()


async def test_both_ends_can_go_over_to_tls(certificates: Certificates) -> None:
    async with secured(certificates) as (client, server):
        assert isinstance(client, SSLIOStream)
        assert client.socket.getpeercert()  # type: ignore[attr-defined]
        client.write(BIG)
        assert await server.read_bytes(len(BIG)) == BIG
        target = bytearray(len(BIG))
        server.write(BIG)
        await client.read_into(target)
        assert target == BIG
        assert await client.wait_for_handshake() is client


async def test_small_reads_find_what_lies_inside_openssl(certificates: Certificates) -> None:
    """One record holds many lines: the socket is readable once."""
    async with secured(certificates) as (client, server):
        client.write(b"".join(b"%d\n" % number for number in range(1000)))
        for number in range(1000):
            assert await server.read_until(b"\n") == b"%d\n" % number
        client.write(b"x" * 1000)
        server.read_chunk_size = server._full_read = 10
        for _ in range(100):
            assert await server.read_bytes(10) == b"x" * 10


async def test_a_receiver_gets_records_of_which_the_loop_knows_nothing(
    certificates: Certificates,
) -> None:
    async with secured(certificates) as (client, server):
        told = Told()
        server.read_chunk_size = server._full_read = 100
        server.attach(told)
        client.write(BIG)
        await until(lambda: len(told.data) == len(BIG))
        assert told.data == BIG


async def test_resuming_delivers_what_was_decrypted_before_the_pause(
    certificates: Certificates,
) -> None:
    async with secured(certificates) as (client, server):

        class OneAtATime(Told):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                server.pause_reading()

        told = OneAtATime()
        server.read_chunk_size = server._full_read = 100
        server.attach(told)
        client.write(bytes(range(250)))
        await until(lambda: told.pieces)
        await asyncio.sleep(0.02)
        assert len(told.pieces) == 1
        server.resume_reading()
        await until(lambda: len(told.pieces) == 2)
        server.resume_reading()
        await until(lambda: told.data == bytes(range(250)))


async def test_other_callbacks_have_their_turn_while_a_record_is_delivered(
    certificates: Certificates,
) -> None:
    """One record gives a hundred small reads, and the loop is not kept waiting for all of them."""
    one, other = tcp_pair()
    client, server = await asyncio.gather(
        IOStream(one).start_tls(False, {"ca_certs": certificates.ca_file}, "localhost"),
        IOStream(other, read_chunk_size=100).start_tls(True, certificates.server_context()),
    )
    told = Told()
    turns: list[int] = []

    async def take_turns() -> None:
        while len(told.pieces) < 100:
            turns.append(len(told.pieces))
            await asyncio.sleep(0)
        turns.append(len(told.pieces))

    server.attach(told)
    client.push(bytes(10_000))
    await take_turns()
    assert max(after - before for before, after in pairwise(turns)) <= 32
    client.close()
    server.close()


async def test_bytes_inside_openssl_are_delivered_by_attach(certificates: Certificates) -> None:
    async with secured(certificates) as (client, server):
        client.write(b"head\nbody")
        server.read_chunk_size = server._full_read = 5
        assert await server.read_until(b"\n") == b"head\n"
        told = Told()
        server.attach(told)
        assert told.data == b"body"


async def test_a_large_push_drains(certificates: Certificates) -> None:
    async with secured(certificates) as (client, server):
        told = Told()
        client.attach(told)
        assert client.push(b"small")
        assert not client.push_all([BIG, b"and", b"more"])
        assert await server.read_bytes(12 + len(BIG)) == b"small" + BIG + b"andmore"
        await until(lambda: told.drains == 1)


async def test_the_closing_alert_ends_a_connection_properly(certificates: Certificates) -> None:
    async with secured(certificates) as (client, server):
        read = server.read_until_close()
        await client.write(b"all of it")
        client.close()
        assert await read == b"all of it"
        assert server.error is None


async def test_a_connection_without_a_closing_alert_is_cut_short(
    certificates: Certificates,
) -> None:
    """Anybody on the way can close a TCP connection: it is not the end of the data."""
    async with secured(certificates) as (client, server):
        read = server.read_until_close()
        await client.write(b"part of it")
        await until(lambda: server._buffer)
        client.socket.shutdown(socket.SHUT_WR)
        with pytest.raises(StreamClosedError) as caught:
            await read
        assert isinstance(caught.value.real_error, ssl.SSLError)
        assert await server.read_bytes(10) == b"part of it"


async def test_a_receiver_is_told_of_a_missing_alert_as_of_a_loss(
    certificates: Certificates,
) -> None:
    async with secured(certificates) as (client, server):
        told, other = Told(), Told()
        server.attach(told)
        client.socket.shutdown(socket.SHUT_WR)
        await until(lambda: told.lost)
        assert isinstance(told.lost[0], ssl.SSLError)
        assert not told.eof
    async with secured(certificates) as (client, server):
        server.attach(other)
        client.close()
        await until(lambda: other.eof)
        assert other.lost == []


@pytest.mark.parametrize("reason", ["error", "unsent data"])
async def test_no_closing_alert_is_sent_where_something_is_missing(
    certificates: Certificates, reason: str
) -> None:
    async with secured(certificates) as (client, server):
        read = server.read_until_close()
        if reason == "error":
            client.write(b"half a message")
            client.close(LookupError("of the test"))
        else:
            client.write(BIG * 5)
            client.close()
        with pytest.raises(StreamClosedError):
            await read


async def test_write_eof_says_goodbye_and_still_takes_the_peer_s_bytes(
    certificates: Certificates,
) -> None:
    async with secured(certificates) as (client, server):
        told = Told()
        server.attach(told)
        server.push(b"last words")
        server.write_eof()
        client.write(b"x" * 100_000)
        assert await client.read_until_close() == b"last words"
        await until(lambda: told.eof or told.lost)
        assert told.eof


async def test_an_untrusted_certificate_fails_the_handshake_on_both_ends(
    certificates: Certificates,
) -> None:
    one, other = tcp_pair()
    outcomes = await asyncio.gather(
        IOStream(one).start_tls(False, None, "localhost"),
        IOStream(other).start_tls(True, certificates.server_context()),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], ssl.SSLCertVerificationError)
    assert isinstance(outcomes[1], ssl.SSLError)


async def test_a_peer_that_leaves_during_the_handshake_fails_it() -> None:
    one, other = tcp_pair()
    client = IOStream(one).start_tls(False, None, "localhost")
    other.close()
    with pytest.raises(OSError):
        await client


async def test_a_stream_that_was_reset_fails_to_go_over_to_tls(
    certificates: Certificates,
) -> None:
    one, other = tcp_pair()
    stream = IOStream(other)
    Peer(one).reset()
    await asyncio.sleep(0.01)
    with pytest.raises(OSError):
        await stream.start_tls(True, certificates.server_context())
    assert stream.closed()


async def test_closing_during_the_handshake_fails_all_that_waits(
    certificates: Certificates,
) -> None:
    one, other = tcp_pair()
    context = ssl.create_default_context(cafile=certificates.ca_file)
    stream = SSLIOStream(
        context.wrap_socket(one, server_hostname="localhost", do_handshake_on_connect=False)
    )
    handshake = stream.wait_for_handshake()
    read, write = stream.read_bytes(1), stream.write(b"x")
    stream.close()
    for future in (handshake, read, write):
        with pytest.raises(StreamClosedError):
            await future
    with pytest.raises(StreamClosedError):
        await stream.wait_for_handshake()
    other.close()


async def test_a_receiver_may_be_attached_before_the_handshake(
    certificates: Certificates,
) -> None:
    one, other = tcp_pair()
    server = SSLIOStream(
        certificates.server_context().wrap_socket(
            other, server_side=True, do_handshake_on_connect=False
        )
    )
    told = Told()
    server.attach(told)
    assert not server.push(b"greeting")
    client = await IOStream(one).start_tls(False, {"ca_certs": certificates.ca_file}, "localhost")
    client.write(b"hello")
    assert await client.read_bytes(8) == b"greeting"
    await until(lambda: told.data == b"hello")
    assert told.drains == 1
    client.close()
    server.close()


async def test_a_receiver_is_told_of_a_handshake_that_fails() -> None:
    one, other = tcp_pair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server = SSLIOStream(
        context.wrap_socket(other, server_side=True, do_handshake_on_connect=False)
    )
    told = Told()
    server.attach(told)
    peer = Peer(one)
    await peer.send(b"GET / HTTP/1.1\r\n\r\n")
    await until(lambda: told.lost)
    assert isinstance(told.lost[0], ssl.SSLError)
    assert server.closed()
    peer.close()


@pytest.fixture
async def tls_server(certificates: Certificates) -> AsyncIterator[tuple[str, int]]:
    """The address of a TLS server that echoes one line."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)

    async def serve() -> None:
        while True:
            sock, _ = await asyncio.get_running_loop().sock_accept(listener)
            with contextlib.suppress(OSError):
                stream = await IOStream(sock).start_tls(True, certificates.server_context())
                await stream.write(await stream.read_until(b"\n"))
                stream.close()

    task = asyncio.create_task(serve())
    yield listener.getsockname()
    task.cancel()
    await asyncio.wait([task])
    listener.close()


def client_stream(certificates: Certificates) -> SSLIOStream:
    return SSLIOStream(
        socket.socket(), ssl_options=ssl.create_default_context(cafile=certificates.ca_file)
    )


async def test_connect_shakes_hands_and_may_be_written_to_at_once(
    certificates: Certificates, tls_server: tuple[str, int]
) -> None:
    stream = client_stream(certificates)
    connecting = stream.connect(tls_server, server_hostname="localhost")
    stream.write(b"hello\n")
    assert await stream.read_until_close() == b"hello\n"
    assert connecting.result() is stream


async def test_connect_checks_the_name_in_the_certificate(
    certificates: Certificates, tls_server: tuple[str, int]
) -> None:
    stream = client_stream(certificates)
    with pytest.raises(ValueError, match="no server_hostname"):
        stream.connect(tls_server)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        await stream.connect(tls_server, server_hostname="other.example")
    assert stream.closed()


async def test_connect_that_is_refused_gives_the_system_s_error(
    certificates: Certificates,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    stream = client_stream(certificates)
    with pytest.raises(ConnectionRefusedError):
        await stream.connect(address, server_hostname="localhost")


async def test_a_stream_that_is_busy_cannot_go_over_to_tls(certificates: Certificates) -> None:
    one, other = tcp_pair()
    stream = IOStream(one)
    read = stream.read_bytes(1)
    with pytest.raises(ValueError, match="not idle"):
        stream.start_tls(False, None, "localhost")
    read.cancel()
    with pytest.raises(ValueError, match="no server_hostname"):
        stream.start_tls(False)
    assert not stream.closed()
    stream.close()
    other.close()
    async with secured(certificates) as (client, _):
        with pytest.raises(ValueError, match="uses TLS already"):
            client.start_tls(False, None, "localhost")


async def test_a_paused_tls_stream_is_not_watched(certificates: Certificates) -> None:
    async with secured(certificates) as (client, server):
        told = Told()
        server.attach(told)
        server.pause_reading()
        client.write(b"x")
        await until(lambda: server.fileno() not in watched_files())
        assert told.pieces == []


def test_ssl_options_become_a_context(certificates: Certificates) -> None:
    context = ssl_options_to_context(None, server_side=False)
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert ssl_options_to_context(context, server_side=True) is context
    context = ssl_options_to_context({"cert_reqs": ssl.CERT_NONE}, server_side=False)
    assert context.verify_mode == ssl.CERT_NONE
    assert not context.check_hostname
    context = ssl_options_to_context(
        {
            "certfile": certificates.client_cert_file,
            "keyfile": certificates.client_key_file,
            "ca_certs": certificates.ca_file,
            "cert_reqs": ssl.CERT_REQUIRED,
            "ciphers": "ECDHE+AESGCM",
        },
        server_side=True,
    )
    assert context.verify_mode == ssl.CERT_REQUIRED
    with pytest.raises(ValueError, match="'certificate'"):
        ssl_options_to_context({"certificate": "x"}, server_side=True)
    with pytest.raises(OSError):
        ssl_options_to_context({"certfile": "/nonexistent"}, server_side=True)


async def test_tls_1_2_works_as_well(certificates: Certificates) -> None:
    context = certificates.server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    one, other = tcp_pair()
    client, server = await asyncio.gather(
        IOStream(one).start_tls(False, {"ca_certs": certificates.ca_file}, "localhost"),
        IOStream(other).start_tls(True, context),
    )
    client.write(BIG)
    assert await server.read_bytes(len(BIG)) == BIG
    client.close()
    assert await server.read_until_close() == b""


async def test_a_client_certificate_that_is_missing_fails_on_the_first_read(
    certificates: Certificates,
) -> None:
    one, other = tcp_pair()
    server = IOStream(other).start_tls(True, certificates.server_context(client_certs=True))
    client = await IOStream(one).start_tls(False, {"ca_certs": certificates.ca_file}, "localhost")
    with pytest.raises(ssl.SSLError):
        await server
    with pytest.raises(StreamClosedError) as caught:
        await client.read_bytes(1)
    assert isinstance(caught.value.real_error, ssl.SSLError)
