"""What fetch() refuses, raises, swallows and tells: CONTRACT 8 to 17."""

from __future__ import annotations

import asyncio
import copy
import errno
import functools
import gc
import logging
import pickle
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from backends import ERROR_BASES
from whimbrel.httpclient import (
    HTTPClientError,
    HTTPConnectError,
    HTTPConnectionRefusedError,
    HTTPError,
    HTTPLimitError,
    HTTPProtocolError,
    HTTPProxyError,
    HTTPRequest,
    HTTPResolveError,
    HTTPResponse,
    HTTPStreamClosedError,
    HTTPTimeoutError,
    HTTPTLSError,
)
from whimbrel.httputil import HTTPHeaders, HTTPInputError
from whimbrel.testing.scripted import (
    Peer,
    ScriptedServer,
    canned,
    ok,
    redirect,
    refused_port,
    reply,
    respond,
    routes,
    silent,
    silent_server,
    unaccepting_port,
)
from whimbrel.util import import_object

from .support import error_of, until

# -- 8: where errors come out


async def test_request_object_with_kwargs(client: Any) -> None:
    """CONTRACT 8: an HTTPRequest together with request arguments raises ValueError at once."""
    with pytest.raises(ValueError, match="kwargs"):
        client.fetch(HTTPRequest("http://127.0.0.1:9/"), method="HEAD")


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"url": "ftp://127.0.0.1/"}, ValueError),
        ({"url": "relative/path"}, ValueError),
        ({"url": "http://"}, ValueError),
        ({"url": "http://127.0.0.1:99999/"}, ValueError),
        ({"url": None}, ValueError),
        ({"method": "MOVE"}, KeyError),
        ({"method": "get"}, KeyError),
        ({"method": "POST"}, ValueError),
        ({"headers": {"A": "b\nc"}}, ValueError),
        ({"auth_mode": "asdf", "auth_username": "u", "auth_password": "p"}, ValueError),
        ({"http_version": "9"}, ValueError),
        ({"proxy": "gopher://127.0.0.1:70"}, ValueError),
        ({"request_timeout": -1}, ValueError),
        ({"connect_timeout": "5"}, ValueError),
    ],
)
async def test_other_errors_come_through_the_future(
    client: Any, arguments: dict[str, Any], kind: type[Exception]
) -> None:
    """CONTRACT 8: every other error is the future's, and not raised by the call."""
    arguments = dict(arguments)
    future = client.fetch(arguments.pop("url", "http://127.0.0.1:9/"), **arguments)
    assert isinstance(future, asyncio.Future)
    with pytest.raises(kind):
        await future


# -- 9: raise_error and callback


@pytest.mark.parametrize("code", [300, 304, 400, 404, 500, 599, 999])
async def test_status_errors_are_raised_or_not(client: Any, code: int) -> None:
    """CONTRACT 9, 17: a status outside 2xx raises with its response, unless raise_error=False."""
    async with ScriptedServer(canned(reply(f"{code} Because"))) as server:
        with pytest.raises(HTTPError) as caught:
            await client.fetch(server.url())
        response = await client.fetch(server.url(), raise_error=False)
    assert caught.value.code == caught.value.response.code == response.code == code
    assert response.error is not None
    assert response.error.code == code
    with pytest.raises(HTTPError, match="Because"):
        response.rethrow()


@pytest.mark.parametrize("code", [200, 201, 202, 204, 206, 226, 299])
async def test_success_has_no_error(client: Any, code: int) -> None:
    """Every 2xx is a success: no error, and rethrow() does nothing."""
    async with ScriptedServer(canned(reply(f"{code} Fine"))) as server:
        response = await client.fetch(server.url())
    assert (response.code, response.error) == (code, None)
    response.rethrow()


async def test_raise_error_false_hides_only_status_errors(client: Any) -> None:
    """CONTRACT 9: time-outs, refusals and bad input raise even with raise_error=False."""
    async with silent_server() as server:
        with pytest.raises(HTTPTimeoutError):
            await client.fetch(server.url(), raise_error=False, request_timeout=0.05)
        with pytest.raises(ValueError):
            await client.fetch(server.url(), raise_error=False, method="POST")
    with refused_port() as port, pytest.raises(ConnectionRefusedError):
        await client.fetch(f"http://127.0.0.1:{port}/", raise_error=False)


async def test_raise_error_in_second_place(client: Any) -> None:
    """As in Tornado 6, True or False behind the request is raise_error, in whatever style."""
    async with ScriptedServer(canned(reply("404 Not Found", b"gone"))) as server:
        for request in (server.url(), HTTPRequest(server.url())):
            assert (await client.fetch(request, False)).body == b"gone"
            with pytest.raises(HTTPError, match="404"):
                await client.fetch(request, True)
        with pytest.raises(HTTPError, match="404"):
            await client.fetch(server.url(), None)
        assert (await client.fetch(server.url(), None, False)).code == 404


class _AsyncCallable:
    async def __call__(self, response: HTTPResponse) -> None:
        raise AssertionError("a coroutine that nobody awaits")


async def _coroutine(response: HTTPResponse) -> None:
    raise AssertionError("a coroutine that nobody awaits")


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        (5, "not int"),
        ("name", "not str"),
        ({"X-Header": "1"}, "not dict"),
        (_coroutine, "plain function"),
        (functools.partial(_coroutine), "plain function"),
        (_AsyncCallable(), "plain function"),
    ],
    ids=["int", "str", "dict", "coroutine", "partial", "object"],
)
async def test_callback_that_is_none(client: Any, callback: Any, words: str) -> None:
    """What cannot be called, or would never run, is a TypeError at once, and no socket."""
    async with ScriptedServer(canned(ok())) as server:
        for fetch in (
            lambda: client.fetch(server.url(), callback),
            lambda: client.fetch(HTTPRequest(server.url()), callback=callback),
        ):
            with pytest.raises(TypeError, match=f"^callback must be .*{words}"):
                fetch()
        assert server.connections == []
    assert not client._fetches


@pytest.mark.parametrize("path", ["/", "/refused"])
async def test_the_future_is_done_before_the_callback_is_called(client: Any, path: str) -> None:
    """Whoever awaits the future goes on before the callback, as in Tornado 5."""
    order: list[str] = []
    with refused_port() as port:
        async with ScriptedServer(canned(ok())) as server:
            url = server.url() if path == "/" else f"http://127.0.0.1:{port}/"
            future = client.fetch(url, lambda response: order.append("callback"))
            future.add_done_callback(lambda future: order.append("future"))
            await until(lambda: len(order) == 2)
    assert order == ["future", "callback"]


async def _called_back(client: Any, url: str, **arguments: Any) -> HTTPResponse:
    seen: list[HTTPResponse] = []
    client.fetch(url, callback=seen.append, **arguments)
    assert not seen, "called from inside fetch()"
    await until(lambda: seen)
    await asyncio.sleep(0)
    gc.collect()  # a future that nobody awaits must not complain
    assert len(seen) == 1
    return seen[0]


async def test_callback_style(client: Any) -> None:
    """CONTRACT 9: callback= gets the response once; every error is in response.error."""
    async with ScriptedServer(canned(reply("404 Not Found", b"gone"))) as server:
        response = await _called_back(client, server.url())
    assert (response.code, response.body) == (404, b"gone")
    with pytest.raises(HTTPError, match="404"):
        response.rethrow()
    async with ScriptedServer(canned(ok())) as server:
        assert (await _called_back(client, server.url())).error is None


async def test_callback_style_without_response(client: Any) -> None:
    """CONTRACT 9: under callback= a failure without response is a 599 with its error."""
    with refused_port() as port:
        response = await _called_back(client, f"http://127.0.0.1:{port}/")
    assert response.code == 599
    assert isinstance(response.error, ConnectionRefusedError)
    async with silent_server() as server:
        response = await _called_back(client, server.url(), request_timeout=0.05)
    assert isinstance(response.error, HTTPTimeoutError)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"method": "POST"}, ValueError),
        ({"method": "MOVE"}, KeyError),
        ({"url": "ftp://h/"}, ValueError),
    ],
)
async def test_callback_style_with_bad_input(
    client: Any, arguments: dict[str, Any], kind: type[Exception]
) -> None:
    """CONTRACT 9: under callback= bad input is in response.error as well."""
    arguments = {"url": "http://127.0.0.1:9/", **arguments}
    response = await _called_back(client, **arguments)
    assert response.code == 599
    assert isinstance(response.error, kind)


# -- 10: cancellation, one phase at a time


async def _cancelled(future: asyncio.Future[Any]) -> None:
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future


async def _slot_is_free(client: Any) -> None:
    """The next fetch of a client with one slot succeeds."""
    async with ScriptedServer(canned(ok(b"next"))) as server:
        assert (await client.fetch(server.url())).body == b"next"


async def test_cancel_while_queued(make_client: Any) -> None:
    """CONTRACT 10: cancelled in the queue, a fetch leaves it and never opens a connection."""
    client = make_client(max_clients=1)

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.closed()

    async with ScriptedServer(handler) as server:
        first = client.fetch(server.url("/first"))
        second = client.fetch(server.url("/second"))
        assert len(client.queue) == 1
        await _cancelled(second)
        assert len(client.queue) == 0
        await server.requested()
        await _cancelled(first)
        await _slot_is_free(client)
        assert [request.target for request in server.requests] == ["/first"]


async def test_cancel_while_connecting(make_client: Any) -> None:
    """CONTRACT 10: a connect that hangs is given up at once."""
    client = make_client(max_clients=1)
    with unaccepting_port() as port:
        future = client.fetch(f"http://127.0.0.1:{port}/")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(future), 0.05)
        await _cancelled(future)
        await _slot_is_free(client)


async def test_cancel_in_the_tls_handshake(make_client: Any) -> None:
    """CONTRACT 10: a handshake that hangs is given up at once, and the socket is closed."""
    client = make_client(max_clients=1)
    async with silent_server() as server:
        future = client.fetch(server.url(scheme="https"))
        (peer,) = await server.accepted()
        await until(lambda: peer.bytes_received)
        await _cancelled(future)
        await peer.closed()
        await _slot_is_free(client)


async def test_cancel_while_sending(make_client: Any) -> None:
    """CONTRACT 10: an upload is aborted, and its producer is told."""
    client = make_client(max_clients=1)
    ended: list[BaseException] = []

    async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
        try:
            while True:
                await write(bytes(64 * 1024))
        except BaseException as error:
            ended.append(error)
            raise

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.closed()

    async with ScriptedServer(handler) as server:
        future = client.fetch(server.url(), method="PUT", body_producer=produce)
        await server.requested()
        await _cancelled(future)
        await server.finished()
        await _slot_is_free(client)
        await until(lambda: ended)
    assert isinstance(ended[0], asyncio.CancelledError)


async def test_cancel_while_waiting_for_the_response(make_client: Any) -> None:
    """CONTRACT 10: the connection of a cancelled exchange is closed, not kept."""
    client = make_client(max_clients=1)
    async with silent_server() as server:
        future = client.fetch(server.url())
        (peer,) = await server.accepted()
        await until(lambda: peer.bytes_received)
        await _cancelled(future)
        await peer.closed()
        await _slot_is_free(client)


async def test_cancel_in_the_body(make_client: Any) -> None:
    """CONTRACT 10: after the cancellation no callback is called any more."""
    client = make_client(max_clients=1)
    chunks: list[bytes] = []

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            await peer.send(b"x" * 1000)
            await asyncio.sleep(0)

    async with ScriptedServer(handler) as server:
        future = client.fetch(server.url(), streaming_callback=chunks.append)
        await until(lambda: chunks)
        await _cancelled(future)
        heard = len(chunks)
        await server.finished()
        await _slot_is_free(client)
        assert len(chunks) == heard


async def test_cancel_between_redirects(make_client: Any) -> None:
    """CONTRACT 10: cancelled at a later hop, a fetch aborts that hop."""
    client = make_client(max_clients=1)

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(redirect("/hop"))
        await peer.read_request()
        await peer.closed()

    async with ScriptedServer(handler) as server:
        future = client.fetch(server.url())
        await server.requested(2)
        await _cancelled(future)
        await server.finished()
        await _slot_is_free(client)


async def test_cancel_in_a_coroutine_callback(make_client: Any) -> None:
    """CONTRACT 10: a streaming_callback that is being awaited is cancelled with its fetch."""
    client = make_client(max_clients=1)
    entered, ended = asyncio.Event(), asyncio.Event()

    async def consume(chunk: bytes) -> None:
        entered.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    async with ScriptedServer(respond(ok(b"x" * 100))) as server:
        future = client.fetch(server.url(), streaming_callback=consume)
        await entered.wait()
        await _cancelled(future)
        await ended.wait()
        await _slot_is_free(client)


async def test_cancelling_twice_and_late(client: Any) -> None:
    """Cancelling again, or after the end, does nothing."""
    async with ScriptedServer(canned(ok())) as server:
        future = client.fetch(server.url())
        assert future.cancel() is True
        assert future.cancel() is False
        done = client.fetch(server.url())
        assert (await done).body == b"ok"
        assert done.cancel() is False


async def test_wait_for_cancels(client: Any) -> None:
    """asyncio.wait_for() around a fetch aborts it like a cancellation."""
    async with silent_server() as server:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.fetch(server.url()), 0.05)
        await server.finished()


# -- 11: the caller's objects


@pytest.mark.parametrize("headers", [{"X-Mine": "1"}, HTTPHeaders({"X-Mine": "1"})])
async def test_request_object_is_the_callers_and_reusable(client: Any, headers: Any) -> None:
    """CONTRACT 11: response.request is the caller's object; it and its headers stay as given."""
    table = {"/": redirect("/end"), "/end": ok()}
    async with ScriptedServer(routes(table)) as server:
        request = HTTPRequest(
            server.url(),
            "POST",
            headers=headers,
            body="text",
            auth_username="u",
            auth_password="p",
            params={"a": "1"},
        )
        table["/?a=1"] = redirect("/end")
        before, content = dict(vars(request)), dict(headers)
        for _ in range(2):
            response = await client.fetch(request)
            assert response.request is request
        assert request.headers is headers
    assert dict(headers) == content
    assert {key: value for key, value in vars(request).items() if key in before} == before
    assert [r.target for r in server.requests] == ["/?a=1", "/end"] * 2
    assert [r.body for r in server.requests] == [b"text", b""] * 2


async def test_request_may_be_changed_after_fetch(make_client: Any) -> None:
    """CONTRACT 11: what a request says is read when it is fetched, not when its turn comes."""
    client = make_client(max_clients=1)
    async with ScriptedServer(canned(ok())) as server:
        request = HTTPRequest(server.url("/first"))
        first = client.fetch(request)
        second = client.fetch(request)
        request.url = server.url("/changed")
        await asyncio.gather(first, second)
    assert [r.target for r in server.requests] == ["/first", "/first"]


# -- 12, 13: bad requests


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_body_must_be_given(client: Any, method: str) -> None:
    """CONTRACT 12: a method with a body refuses to go without one, unless told otherwise."""
    async with ScriptedServer(canned(ok())) as server:
        with pytest.raises(ValueError, match=f"Body must not be None for method {method}"):
            await client.fetch(server.url(), method=method)
        assert server.connections == []
        await client.fetch(server.url(), method=method, allow_nonstandard_methods=True)
        await client.fetch(server.url(), method=method, body=b"")


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("body", [{"body": b"x"}, {"body": b""}, {"body": [b"x"]}, {"json": 1}])
async def test_body_must_not_be_given(client: Any, method: str, body: dict[str, Any]) -> None:
    """CONTRACT 12: a method without body refuses one."""
    async with ScriptedServer(canned(ok())) as server:
        with pytest.raises(ValueError, match=f"Body must be None for method {method}"):
            await client.fetch(server.url(), method=method, **body)
        assert server.connections == []


@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS"])
async def test_nonstandard_body(client: Any, method: str) -> None:
    """CONTRACT 12: allow_nonstandard_methods lets even a GET carry a body."""
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url(), method=method, body=b"x", allow_nonstandard_methods=True)
    assert (server.requests[0].method, server.requests[0].body) == (method, b"x")


async def test_unknown_method(client: Any) -> None:
    """CONTRACT 13: an unknown method raises KeyError, and is sent when allowed."""
    async with ScriptedServer(canned(ok())) as server:
        with pytest.raises(KeyError, match="PROPFIND"):
            await client.fetch(server.url(), method="PROPFIND")
        await client.fetch(server.url(), method="PROPFIND", allow_nonstandard_methods=True)
    assert [request.method for request in server.requests] == ["PROPFIND"]


async def test_method_in_lower_case(client: Any) -> None:
    """A method is case-sensitive (RFC 9110 section 9.1); one that is not known has a hint."""
    with pytest.raises(KeyError, match=r"unknown method post; did you mean POST\?"):
        await client.fetch("http://127.0.0.1:9/", method="post", body=b"")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("timeout", "request_timeout"),
        ("verify", "validate_cert"),
        ("follow_redirect", "follow_redirects"),
        ("header", "headers"),
    ],
)
async def test_names_that_are_nearly_right(
    client: Any, client_class: type[Any], name: str, meant: str
) -> None:
    """A parameter that does not exist is a TypeError that names the one that was meant."""
    words = rf"'{name}'; did you mean {meant}\?"
    with pytest.raises(TypeError, match=words):
        await client.fetch("http://127.0.0.1:9/", **{name: 1})
    with pytest.raises(TypeError, match=words):
        async with client.stream("http://127.0.0.1:9/", **{name: 1}):
            raise AssertionError("entered")
    with pytest.raises(ValueError, match=words.replace("; did", ", .*; did")):
        client_class(force_instance=True, defaults={name: 1})


def test_http_input_error_is_no_value_error() -> None:
    """CONTRACT 13: HTTPInputError is not a ValueError."""
    assert not issubclass(HTTPInputError, ValueError)


# -- 14: kinds of errors


def _is_backends_error(error: Exception, backend: str) -> None:
    base = ERROR_BASES.get(backend)
    if base is not None:
        assert isinstance(error, import_object(base))
        assert isinstance(error.errno, int)  # type: ignore[attr-defined]


async def test_refused(client: Any, backend: str) -> None:
    """CONTRACT 14: a refused connection is a ConnectionRefusedError with errno and text."""
    with refused_port() as port:
        error = await error_of(client.fetch(f"http://127.0.0.1:{port}/"))
    assert isinstance(error, HTTPConnectionRefusedError)
    assert isinstance(error, HTTPConnectError)
    assert isinstance(error, ConnectionRefusedError)
    assert isinstance(error, OSError)
    assert "Connection refused" in str(error)
    assert str(port) in str(error)
    assert (error.stage, error.retryable, error.proxy) == ("connect", True, None)
    assert error.errno == errno.ECONNREFUSED
    _is_backends_error(error, backend)


@pytest.mark.parametrize("kind", ["dead", "missing"])
async def test_unix_socket_that_nobody_serves(client: Any, tmp_path: Path, kind: str) -> None:
    """A failure to connect to a Unix socket names its path: the URL's host tells nothing."""
    path = tmp_path / kind
    if kind == "dead":
        with socket.socket(socket.AF_UNIX) as former:
            former.bind(str(path))
    error = await error_of(client.fetch("http://any.test/", unix_socket=str(path)))
    assert isinstance(error, HTTPConnectError)
    assert isinstance(error, ConnectionRefusedError) == (kind == "dead")
    assert str(path) in str(error)


async def test_name_not_found(client: Any, backend: str) -> None:
    """CONTRACT 14: a failed name look-up is also a socket.gaierror, of stage "dns"."""
    error = await error_of(client.fetch("http://no-such-host.invalid/"))
    assert isinstance(error, HTTPResolveError)
    assert isinstance(error, socket.gaierror)
    assert "no-such-host.invalid" in str(error)
    assert error.stage == "dns"
    _is_backends_error(error, backend)


async def test_tls_failure(client: Any, backend: str, server_context: ssl.SSLContext) -> None:
    """CONTRACT 14: a certificate that is not trusted is also an ssl.SSLError, of stage "tls"."""
    async with ScriptedServer(silent, server_context) as server:
        error = await error_of(client.fetch(server.url()))
        assert server.requests == []
    assert isinstance(error, HTTPTLSError)
    assert isinstance(error, ssl.SSLError)
    assert error.stage == "tls"
    _is_backends_error(error, backend)


async def test_timeout(client: Any, backend: str) -> None:
    """CONTRACT 14: a time-out is also a TimeoutError, and its text is just the message."""
    async with silent_server() as server:
        error = await error_of(client.fetch(server.url(), request_timeout=0.05))
    assert isinstance(error, HTTPTimeoutError)
    assert isinstance(error, TimeoutError)
    assert str(error) == error.message
    assert "599" not in str(error)
    _is_backends_error(error, backend)


@pytest.mark.parametrize("then", ["close", "reset"])
async def test_peer_went_away(client: Any, backend: str, then: Any) -> None:
    """CONTRACT 14: a peer that closes without an answer is an HTTPStreamClosedError."""
    async with ScriptedServer(respond(b"", then=then)) as server:
        error = await error_of(client.fetch(server.url(), method="POST", body=b"x"))
    assert isinstance(error, HTTPStreamClosedError)
    assert isinstance(error, ConnectionError)
    assert str(error) == error.message
    assert error.stage == "response"
    _is_backends_error(error, backend)


async def test_errors_keep_a_cause_or_an_errno(client: Any) -> None:
    """No failure is a bare 599: its message says what and to where."""
    with refused_port() as port:
        error = await error_of(client.fetch(f"http://user:s3cret@127.0.0.1:{port}/?t=s3cret"))
    assert f"127.0.0.1:{port}" in error.message
    assert "s3cret" not in repr(error) + str(error)


# -- 15: what callers' own code raises


class _Mine(Exception):
    """A caller's own exception."""


def _raise(*_: object) -> None:
    raise _Mine("from the callback")


async def _araise(*_: object) -> None:
    raise _Mine("from the coroutine")


async def _pieces_then_raise() -> Any:
    yield b"one"
    raise _Mine("from the iterator")


@pytest.mark.parametrize(
    "arguments",
    [
        {"streaming_callback": _raise},
        {"streaming_callback": _araise},
        {"header_callback": _raise},
        {"method": "PUT", "body_producer": _raise},
        {"method": "PUT", "body_producer": _araise},
        {"method": "PUT", "body": _pieces_then_raise},
        {"method": "PUT", "body": lambda: map(_raise, [1])},
    ],
    ids=lambda arguments: "-".join(arguments),
)
async def test_callers_exception_reaches_the_awaiter(
    client: Any, arguments: dict[str, Any]
) -> None:
    """CONTRACT 15: it is raised as it is, the transfer is aborted, and others are untouched."""
    if "body" in arguments:  # an iterator, so one for each run
        arguments = {**arguments, "body": arguments["body"]()}
    release = asyncio.Event()

    async def other(peer: Peer) -> None:
        await peer.read_request()
        await release.wait()
        await peer.send(ok(b"untouched"))

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500)
        await peer.closed()

    async with ScriptedServer(handler) as server, ScriptedServer(other) as elsewhere:
        undisturbed = client.fetch(elsewhere.url())
        with pytest.raises(_Mine):
            await client.fetch(server.url(), **arguments)
        await server.finished()
        release.set()
        assert (await undisturbed).body == b"untouched"


async def test_callers_exception_is_in_the_callback_response(client: Any) -> None:
    """CONTRACT 9, 15: under callback= it is in response.error."""
    async with ScriptedServer(canned(ok())) as server:
        response = await _called_back(client, server.url(), streaming_callback=_raise)
    assert isinstance(response.error, _Mine)


# -- 16: no logs


async def test_raised_failures_are_not_logged(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """CONTRACT 16: a failure that is raised is not logged as well, at no level above DEBUG."""
    caplog.set_level(logging.INFO)
    with refused_port() as port, pytest.raises(HTTPError):
        await client.fetch(f"http://127.0.0.1:{port}/")
    async with ScriptedServer(canned(b"garbage\r\n\r\n")) as server:
        with pytest.raises(HTTPError):
            await client.fetch(server.url(), request_timeout=1)
    async with ScriptedServer(canned(ok())) as server:
        with pytest.raises(_Mine):
            await client.fetch(server.url(), streaming_callback=_raise)
        with pytest.raises(_Mine):
            await client.fetch(server.url(), streaming_callback=_araise)
    assert [record.getMessage() for record in caplog.records] == []


async def test_callback_that_raises_is_the_loops_business(client: Any, stray_logs: Any) -> None:
    """What the callback= function itself raises has no awaiter: the loop reports it."""
    async with ScriptedServer(canned(ok())) as server:
        client.fetch(server.url(), callback=_raise)
        await until(lambda: stray_logs.records)
    stray_logs.expect("asyncio", "Exception in callback")


# -- 17: the error as an object

_KINDS = [
    HTTPConnectError,
    HTTPConnectionRefusedError,
    HTTPError,
    HTTPLimitError,
    HTTPProtocolError,
    HTTPProxyError,
    HTTPResolveError,
    HTTPStreamClosedError,
    HTTPTLSError,
    HTTPTimeoutError,
]


def test_names() -> None:
    """HTTPError is HTTPClientError, and every other error is a subclass."""
    assert HTTPError is HTTPClientError
    assert all(issubclass(kind, HTTPError) for kind in _KINDS)


@pytest.mark.parametrize("code", [403, 304])
async def test_status_error_text_and_copies(client: Any, code: int) -> None:
    """CONTRACT 17: "HTTP 403: Forbidden" is str and repr; copies and pickles keep everything."""
    phrase = {403: "Forbidden", 304: "Not Modified"}[code]
    async with ScriptedServer(canned(reply(f"{code} {phrase}", b"", "X-A: b"))) as server:
        with pytest.raises(HTTPError) as caught:
            await client.fetch(server.url())
    error = caught.value
    for twin in (error, copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert str(twin) == repr(twin) == f"HTTP {code}: {phrase}"
        assert (twin.code, twin.message) == (code, phrase)
        assert twin.response.headers["X-A"] == "b"
        assert type(twin) is type(error)


async def test_failures_survive_copy_and_pickle(client: Any, server_context: Any) -> None:
    """CONTRACT 17: so do the errors without a response, with their stage."""
    errors = []
    with refused_port() as port:
        errors.append(await error_of(client.fetch(f"http://127.0.0.1:{port}/")))
    async with silent_server() as server:
        errors.append(await error_of(client.fetch(server.url(), request_timeout=0.05)))
    async with ScriptedServer(respond(b"", then="close")) as server:
        errors.append(await error_of(client.fetch(server.url())))
    async with ScriptedServer(silent, server_context) as server:
        errors.append(await error_of(client.fetch(server.url())))
    errors.append(await error_of(client.fetch("http://no-such-host.invalid/")))
    for error in errors:
        for twin in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
            assert type(twin) is type(error)
            assert str(twin) == str(error)
            assert (twin.code, twin.stage, twin.retryable) == (599, error.stage, error.retryable)


def test_error_made_by_a_program() -> None:
    """HTTPError(code) takes the registered phrase; a message and a response may be given."""
    assert str(HTTPError(403)) == "HTTP 403: Forbidden"
    assert str(HTTPError(403, "No")) == "HTTP 403: No"
    assert HTTPError(599).code == 599
    response = HTTPResponse(HTTPRequest("http://a/"), 418)
    assert HTTPError(418, response=response).response is response


@pytest.mark.parametrize(
    "answer", ["\x1b[31mred", "tab\there", "caf\xe9"], ids=["escape", "tab", "latin-1"]
)
async def test_matrix_81_error_text_escapes_peer_bytes(client: Any, answer: str) -> None:
    """Matrix 81: a reason phrase cannot put control bytes into the text of an error."""
    async with ScriptedServer(canned(reply(f"500 {answer}"))) as server:
        outcome = client.fetch(server.url())
        with pytest.raises(HTTPError) as caught:
            await outcome
    assert str(caught.value).isprintable()
    assert repr(caught.value).isprintable()
