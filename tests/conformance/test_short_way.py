"""What the short way of a plain request must not change."""

from __future__ import annotations

import asyncio
import base64
import copy
import enum
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from typing import Any

import pytest

from whimbrel._policy import plain
from whimbrel.httpclient import HTTPError, HTTPRequest, HTTPResolveError, HTTPResponse
from whimbrel.httputil import HTTPHeaders
from whimbrel.testing.scripted import (
    Handler,
    Peer,
    RecordedRequest,
    ScriptedServer,
    canned,
    ok,
    redirect,
)


async def _echo(peer: Peer) -> None:
    while True:
        request = await peer.read_request()
        await peer.send(ok(request.target.encode(), "X-Test: 1"))


async def test_defaults_that_change_between_two_fetches(client: Any) -> None:
    async with ScriptedServer(_echo) as server:
        for agent in ("one", "one", "two", "two"):
            client.defaults["user_agent"] = agent
            await client.fetch(server.url("/"))
            await client.fetch(server.url("/"), headers={"X-Test": "1"})
        agents = [request.get("User-Agent") for request in server.requests]
        assert agents == ["one"] * 4 + ["two"] * 4


def _several(*pairs: tuple[str, str]) -> HTTPHeaders:
    headers = HTTPHeaders()
    for name, value in pairs:
        headers.add(name, value)
    return headers


class _Name(str, enum.Enum):  # noqa: UP042 (what is no StrEnum has a format of its own)
    ID = "X-Request-Id"


REQUESTS: list[dict[str, Any]] = [
    {},
    {"headers": {}},
    {"headers": {"X-Request-Id": "1"}},
    {"headers": {"x-request-id": b"2", "X-Empty": ""}},
    {"headers": {"X-Request-Id": b"8"}},
    {"headers": {"X-Request-Id": ""}},
    {"headers": {"X-Request-Id": " 9\t"}},
    {"headers": {"X-Request-Id": "\xe9"}},
    {"headers": {_Name.ID: "10"}},
    {"headers": {"X-Per%cent": "%s"}},
    {"headers": {"X-Latin": "caf\xe9", "X-Spaces": " a b "}},
    {"headers": {"User-Agent": "mine"}},
    {"headers": {"accept-encoding": "br"}},
    {"headers": {"Accept": "*/*", "Cookie": "a=b"}},
    {"headers": {"Authorization": "Bearer secret"}},
    {"headers": {"Connection": "close"}},
    {"headers": {"Host": "other.test"}},
    {"headers": _several(("X-Two", "1"), ("X-One", "2"), ("X-Two", "3"))},
    {"method": "DELETE", "headers": {"X-Request-Id": "3"}},
    {"method": "POST", "body": b"a=b"},
    {"method": "POST", "body": b""},
    {"method": "POST", "body": b"a=b", "headers": {"X-Request-Id": "4"}},
    {"method": "POST", "body": b"{}", "headers": {"Content-Type": "application/json"}},
    {"method": "POST", "body": "text", "headers": {"X-Request-Id": "5"}},
    {"method": "POST", "body": b"a=b", "headers": {"Content-Length": "3"}},
    {"method": "PUT", "body": b"put", "headers": {"X-Request-Id": "6"}},
    {"method": "PUT", "body": b"put once more"},
    {"method": "POST", "json": {"a": 1}, "headers": {"X-Request-Id": "7"}},
]


@pytest.mark.parametrize("status", ["200 OK", "303 See Other", "307 Temporary Redirect"])
@pytest.mark.parametrize("defaults", [{}, {"auth_username": "ada", "auth_password": "pw"}])
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_every_request_is_the_one_that_a_new_client_sends(
    make_client: Callable[..., Any], status: str, defaults: dict[str, Any], elsewhere: bool
) -> None:
    """Whatever went before it, nothing of which it has; nor does it lack anything, or change."""
    where = ""

    async def answer(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            moved = status != "200 OK" and request.target == "/old"
            await peer.send(redirect(f"{where}/new", status) if moved else ok(b"there"))

    async with ScriptedServer(answer) as server, ScriptedServer(answer) as other:
        where = other.url("") if elsewhere else ""
        where = where.rstrip("/")

        async def sent(client: Any, parameters: dict[str, Any]) -> list[tuple[bytes, bytes]]:
            server.requests.clear()
            other.requests.clear()
            response = await client.fetch(server.url("/old"), **parameters)
            assert response.body == b"there"
            return [(it.raw, it.body) for it in (*server.requests, *other.requests)]

        expected = []
        for parameters in REQUESTS:
            client = make_client(defaults=defaults)
            expected.append(await sent(client, parameters))
            client.close()
        for order in (1, -1):
            client = make_client(defaults=defaults)
            for parameters, whole in list(zip(REQUESTS, expected, strict=True))[::order] * 2:
                assert await sent(client, parameters) == whole
                given = {"follow_redirects": True, **parameters}  # not the short way
                assert await sent(client, given) == whole


@pytest.mark.parametrize("proxy_is", ["given", "default"])
@pytest.mark.parametrize("first", ["plain", "special"])
async def test_credentials_in_a_field_are_those_of_one_request(
    make_client: Callable[..., Any], first: str, proxy_is: str
) -> None:
    """Of the proxy's, which are no header field of the request's."""

    async def answer(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            await peer.send(ok(str(request.get("Proxy-Authorization")).encode()))

    async with ScriptedServer(answer) as proxy:
        address = proxy.url("").rstrip("/")
        client = make_client(defaults={"proxy": address} if proxy_is == "default" else {})
        through = {} if proxy_is == "default" else {"proxy": address}
        for number in range(6):
            if number or first == "special":
                response = await client.fetch(
                    "http://a.test/", headers={"Proxy-Authorization": _basic(number)}, **through
                )
                assert response.body == _basic(number).encode()
            for parameters in ({}, {"headers": {"X-Test": "1"}}):
                for url in ("http://a.test/", f"http://{number}.test/"):
                    response = await client.fetch(url, **through, **parameters)
                    assert response.body == b"None"


def _basic(number: int) -> str:
    return "Basic " + base64.b64encode(f"user{number}:pw".encode()).decode()


@pytest.mark.parametrize("first", ["plain", "special"])
async def test_what_a_field_expects_is_expected_of_one_request(client: Any, first: str) -> None:
    async def answer(peer: Peer) -> None:
        while True:
            request = await peer.read_head()
            expects = str(request.get("Expect"))
            if expects == "100-continue":
                await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            await peer.read_body(request)
            await peer.send(ok(expects.encode()))

    async with ScriptedServer(answer) as server:
        for number in range(3):
            for headers in (
                None,
                {"X-Test": "1"},
                {"Expect": "100-continue"} if number or first == "plain" else None,
                {"X-Test": "2"},
                None,
            )[:: 1 if first == "plain" else -1]:
                response = await client.fetch(
                    server.url("/"), method="POST", body=b"b", headers=headers
                )
                assert response.body == str((headers or {}).get("Expect")).encode()
            special = {"Expect": "100-continue"}
            response = await client.fetch(
                server.url("/"), method="PUT", body=b"b", headers=special if number != 1 else None
            )
            assert response.body == (b"100-continue" if number != 1 else b"None")


class _Repeating(Mapping[str, str]):
    """Names that come several times, as other libraries have them."""

    def __getitem__(self, name: str) -> str:
        return "1, 2"

    def __iter__(self) -> Iterator[str]:
        return iter(["X-Test"])

    def __len__(self) -> int:
        return 1

    def items(self) -> Any:
        return [("X-Test", "1"), ("X-Test", "2")]


class _Broken(_Repeating):
    def __getitem__(self, name: str) -> str:
        raise KeyError("not today")

    def items(self) -> Any:
        raise KeyError("nor this")


class _Value(str, enum.Enum):  # noqa: UP042 (see above)
    ONE = "1"


class _AnyCase(str):
    """As in libraries that take names of any case for the same."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.lower() == other.lower()

    def __hash__(self) -> int:
        return hash(self.lower())


async def test_names_and_values_of_other_kinds_of_str(client: Any) -> None:
    """They are the text that they hold, whatever format they have; the first time, and later."""
    async with ScriptedServer(_echo) as server:
        for name, value in ((_Name.ID, _Value.ONE), ("X-Request-Id", "1"), (_Name.ID, _Value.ONE)):
            for _ in range(2):
                await client.fetch(server.url("/"), headers={name: value})
                assert server.requests[-1].get("X-Request-Id") == "1"
        for name in ("x-a", _AnyCase("x-A"), _AnyCase("X-A")):
            await client.fetch(server.url("/"), headers={name: "1"})
            assert f"\r\n{name!s}: 1\r\n".encode() in server.requests[-1].raw_head


async def test_mappings_of_other_kinds(client: Any) -> None:
    """What they amount to, and what they raise, is the same each time."""
    async with ScriptedServer(_echo) as server:
        await client.fetch(server.url("/"), headers={"X-Test": "0"})
        for _ in range(3):
            await client.fetch(server.url("/"), headers=_Repeating())
            fetch = client.fetch(server.url("/"), headers=_Broken())
            with pytest.raises(KeyError):
                await fetch
        assert [request.get_all("X-Test") for request in server.requests[1:]] == [["1, 2"]] * 3


async def test_header_fields_that_change_after_the_fetch_began(
    make_client: Callable[..., Any],
) -> None:
    client = make_client(max_clients=1)
    async with ScriptedServer(_echo) as server:
        for _ in range(3):
            headers = {"X-Test": "before"}
            request = HTTPRequest(server.url("/x"), headers=headers)
            fetches = [client.fetch(server.url("/first")), client.fetch(request)]
            headers["X-Test"] = "after"
            await asyncio.gather(*fetches)
            assert server.requests[-1].get("X-Test") == "before"


@pytest.mark.parametrize(
    ("headers", "match"),
    [
        ({"X Y": "z"}, "header name"),
        ({"X": "a\r\nEvil: 1"}, "control character"),
        ({"X": "\u20ac"}, "Latin-1"),
        ({"X": None}, "str or bytes"),
        ([("X", "y")], "mapping"),
        ({"Expect": "soon"}, "Expect"),
        ({"Content-Length": "7"}, "contradicts"),
        ({"Transfer-Encoding": "chunked"}, "contradicts"),
        ({"Host": "a b"}, "Host"),
        ({"Proxy-Authorization": "Basic c2VjcmV0"}, "without a proxy"),
    ],
)
async def test_what_is_no_header_field(client: Any, headers: Any, match: str) -> None:
    """It says so each time, and the next request works."""
    async with ScriptedServer(_echo) as server:
        for _ in range(3):
            assert (await client.fetch(server.url("/"), headers={"X": "y"})).code == 200
            with pytest.raises(ValueError, match=match):
                await client.fetch(server.url("/"), headers=headers)
        assert len(server.requests) == 3


async def test_urls_of_two_schemes_in_turn(
    make_client: Callable[..., Any], certificates: Any
) -> None:
    client = make_client(defaults={"ca_certs": certificates.ca_file})
    async with (
        ScriptedServer(_echo) as plain,
        ScriptedServer(_echo, certificates.server_context()) as secure,
    ):
        for number in range(3):
            for server in (plain, secure):
                response = await client.fetch(server.url(f"/{number % 2}"))
                assert response.body == f"/{number % 2}".encode()
                assert response.effective_url == server.url(f"/{number % 2}")


async def test_proxies_in_turn(client: Any) -> None:
    """Each request goes through the one that it names, with its credentials, or straight."""

    async def answer(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            user = request.get("Proxy-Authorization") or "nobody"
            await peer.send(ok(f"{request.target} {user}".encode()))

    async with (
        ScriptedServer(answer) as origin,
        ScriptedServer(answer) as one,
        ScriptedServer(answer) as two,
    ):
        url = origin.url("/x")
        ada = one.url("").replace("http://", "http://ada:pw@").rstrip("/")
        for _ in range(3):
            for proxy, server, user in (
                (one.url("").rstrip("/"), one, "nobody"),
                (ada, one, "Basic YWRhOnB3"),
                (two.url("").rstrip("/"), two, "nobody"),
            ):
                response = await client.fetch(url, proxy=proxy)
                assert response.body == f"{url} {user}".encode()
                assert response.request.proxy == proxy
                assert response.proxy == server.url("").rstrip("/")
                request = HTTPRequest(url, proxy=proxy)
                assert (await client.fetch(request)).body == response.body
            response = await client.fetch(url)
            assert response.body == b"/x nobody"
            assert response.request.proxy is None
            assert response.proxy is None
        assert len(origin.requests) == 3


def _moved(tell: Callable[[RecordedRequest], str | None]) -> Handler:
    """A proxy whose origin has moved /old to /new, where it answers with what `tell` says."""

    async def answer(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.target.endswith("/old"):
                await peer.send(redirect("/new"))
            else:
                await peer.send(ok(str(tell(request)).encode()))

    return answer


async def test_a_redirect_keeps_the_proxy(client: Any) -> None:
    async with ScriptedServer(_moved(lambda request: request.target)) as proxy:
        for _ in range(3):
            request = HTTPRequest("http://origin.test/old", proxy=proxy.url("").rstrip("/"))
            fetch = client.fetch(request)
            request.proxy = "http://127.0.0.1:1"  # too late
            assert (await fetch).body == b"http://origin.test/new"


@pytest.mark.parametrize("default", ["credentials", "host"])
async def test_the_default_proxy_and_a_redirect_through_another(
    make_client: Callable[..., Any], default: str
) -> None:
    """A request's own proxy wins whole, each time: the other's credentials are not for it."""
    answer = _moved(lambda request: request.get("Proxy-Authorization"))
    async with ScriptedServer(answer) as own, ScriptedServer(answer) as other:
        if default == "host":
            defaults = {"proxy_host": "127.0.0.1", "proxy_port": own.address[1]}
        else:
            defaults = {
                "proxy": own.url("").rstrip("/"),
                "proxy_username": "corp",
                "proxy_password": "secret",
            }
        client = make_client(defaults=defaults)
        for _ in range(3):
            response = await client.fetch("http://origin.test/old", proxy=other.url("").rstrip("/"))
            assert response.body == b"None"
        assert not own.requests


async def test_defaults_that_change_before_a_redirect(client: Any) -> None:
    """What held when a fetch began holds for all of it."""
    changed = asyncio.Event()

    async def answer(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.target == "/old":
                await changed.wait()
                await peer.send(redirect("/new"))
            else:
                await peer.send(ok(str(request.get("User-Agent")).encode()))

    async with ScriptedServer(answer) as server:
        client.defaults["user_agent"] = "before"
        changed.set()
        await client.fetch(server.url("/old"))
        changed.clear()
        fetch = client.fetch(server.url("/old"))
        client.defaults["user_agent"] = "after"
        changed.set()
        assert (await fetch).body == b"before"


async def test_a_class_with_a_proxy_is_no_request_with_one(client: Any) -> None:
    async with ScriptedServer(_echo) as server, ScriptedServer(_echo) as proxy:
        through = proxy.url("").rstrip("/")
        kind: Any = type("Kind", (HTTPRequest,), {"proxy": through})
        await client.fetch(kind(server.url("/x")))
        for _ in range(2):
            response = await client.fetch(server.url("/x"), proxy=through)
            assert response.body == server.url("/x").encode()


async def test_what_is_no_proxy(client: Any) -> None:
    """It says so the second time as well."""
    async with ScriptedServer(_echo) as server:
        await client.fetch(server.url("/"))
        for _ in range(2):
            with pytest.raises(ValueError, match="unknown scheme"):
                await client.fetch(server.url("/"), proxy="gopher://127.0.0.1:1")
            with pytest.raises(ValueError, match="proxy must be a URL"):
                await client.fetch(server.url("/"), proxy=7)


async def test_other_defaults_hold_for_what_was_known_before(client: Any) -> None:
    """Also where another kind of request is the first that they are seen with."""
    async with ScriptedServer(_echo) as server:
        for agent in ("one", "two", "three"):
            client.defaults["user_agent"] = agent
            await client.fetch(server.url("/"), method="POST", body=b"x")
            for _ in range(2):
                await client.fetch(server.url("/"))
            assert [it.get("User-Agent") for it in server.requests[-3:]] == [agent] * 3


async def test_what_is_remembered_is_bounded(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of URLs and proxies may follow each other."""
    monkeypatch.setattr(plain, "MOST", 4)
    async with ScriptedServer(_echo) as server, ScriptedServer(_echo) as proxy:
        for number in range(12):
            path = f"/{number}"
            assert (await client.fetch(server.url(path))).body == path.encode()
            through = proxy.url("").replace("http://", f"http://u{number}:x@").rstrip("/")
            response = await client.fetch(server.url("/p"), proxy=through)
            assert response.body == server.url("/p").encode()
            assert _kept(client) <= 5
        # Proxies whose user names are never the same, as those that tell sessions apart.
        for number in range(12):
            through = proxy.url("").replace("http://", f"http://v{number}:x@").rstrip("/")
            await client.fetch(server.url("/p"), proxy=through)
            assert _kept(client) <= 5


async def test_names_that_are_remembered_are_bounded(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any number of header fields may follow each other, and names of any length."""
    monkeypatch.setattr(plain, "_MOST_ADDED", 4)
    async with ScriptedServer(_echo) as server:
        await client.fetch(server.url("/"))
        for number in range(12):
            for name in (f"X-{number}", "X-" + "y" * 600):
                await client.fetch(server.url("/"), headers={name: "1"})
                assert server.requests[-1].get(name) == "1"
            # Each through a proxy of its own: those are no more.
            through = server.url("").replace("http://", f"http://u{number}:x@").rstrip("/")
            await client.fetch("http://a.test/", proxy=through)
            await client.fetch("http://a.test/", proxy=through, headers={f"Y-{number}": "1"})
        known, of_forms = client._plain._added
        assert 0 < len(known) <= 4
        assert not of_forms
        assert max(len(name) for names in known for name in names) < 10


async def test_the_request_of_a_response(client: Any) -> None:
    """It is what was asked for, whichever way it went."""
    async with ScriptedServer(_echo) as server:
        for headers in (None, {}, {"X-Test": "1"}, {"X-Test": "2"}, _several(("X-Test", "3"))):
            for parameters in ({"headers": headers}, {"headers": headers, "proxy": None}):
                response = await client.fetch(server.url("/"), **parameters)
                asked = HTTPRequest(server.url("/"), **parameters)
                request = response.request
                assert type(request) is HTTPRequest
                assert {**vars(request), "start_time": 0} == {**vars(asked), "start_time": 0}
                if headers is not None:
                    assert request.headers is headers
                assert request.start_time == response.start_time
                assert response.request is request


def _kept(client: Any) -> int:
    kept = client._plain._kinds.values()
    return len(kept) + sum(len(kind.urls) for kind in kept)


async def test_the_request_of_an_overrides_own_response(client_class: type[Any]) -> None:
    """Which may have one already, or be another request's as well."""

    class Caching(client_class):  # type: ignore[misc]
        def fetch_impl(self, request: Any, callback: Any) -> Any:
            asyncio.get_running_loop().call_soon(callback, kept)
            return lambda: None

    kept = HTTPResponse(HTTPRequest("http://other.test/"), 200, buffer=BytesIO(b"kept"))
    async with Caching(force_instance=True) as client:
        for parameters in ({}, {"headers": {"X-Test": "1"}}, {"proxy": "http://p.test"}) * 3:
            response = await client.fetch("http://a.test/", **parameters)
            assert response.request.url == "http://a.test/"
            assert dict(response.request.headers) == parameters.get("headers", {})
            assert response.request.proxy == parameters.get("proxy")


async def test_a_copy_holds_nothing_that_was_taken_out(client: Any) -> None:
    """Of a request, what its response was asked with."""
    async with ScriptedServer(_echo) as server:
        for _ in range(3):
            secret = {"Authorization": "Bearer secret"}
            response = await client.fetch(server.url("/"), headers=secret)
            assert b"secret" in pickle.dumps(response)
            response.request = HTTPRequest(server.url("/"))
            assert b"secret" not in pickle.dumps(response)
            assert b"secret" not in pickle.dumps(copy.copy(response))


async def test_an_override_may_write_to_its_exchange(client_class: type[Any]) -> None:
    """What it changes is this fetch's alone."""

    class Impatient(client_class):  # type: ignore[misc]
        seen: list[float] = []

        def fetch_impl(self, request: Any, callback: Any) -> Any:
            self.seen.append(request.request_timeout)
            request.request_timeout = 5.0
            return super().fetch_impl(request, callback)

    async with ScriptedServer(_echo) as server, Impatient(force_instance=True) as client:
        for _ in range(4):
            await client.fetch(server.url("/"))
    assert Impatient.seen == [20.0] * 4


async def test_an_override_may_answer_by_itself(client_class: type[Any]) -> None:
    """Whether a status is an error is for the fetch to say; an error of its own is one."""

    class Throttled(HTTPError):
        pass

    class Canned(client_class):  # type: ignore[misc]
        def fetch_impl(self, request: Any, callback: Any) -> Any:
            asked = HTTPRequest(request.url.href)
            status, _, failed = request.url.target[1:].partition("?")
            code = int(status)
            headers = HTTPHeaders({"Location": "http://a.test/200"})
            response = HTTPResponse(asked, code, headers)
            if failed:
                response.error = {
                    "os": OSError("failed"),
                    "none": HTTPError(599, "failed"),
                    "same": HTTPError(code, "failed"),
                    "other": HTTPError(code + 1, "failed", response),
                    "own": Throttled(code, "failed", response),
                }[failed]
            return asyncio.get_running_loop().call_soon(callback, response).cancel

    own = {
        "os": OSError,
        "none": HTTPError,
        "same": HTTPError,
        "other": HTTPError,
        "own": Throttled,
    }
    async with Canned(force_instance=True) as client:
        for _ in range(2):
            assert (await client.fetch("http://a.test/204")).code == 204
            assert (await client.fetch("http://a.test/302")).code == 200
            assert (await client.fetch("http://a.test/404", raise_error=False)).code == 404
            with pytest.raises(HTTPError, match="HTTP 404: Not Found"):
                await client.fetch("http://a.test/404")
            for code in (200, 302, 404, 599):
                for kind, raised in own.items():
                    for raises in (True, False):
                        with pytest.raises(raised, match="failed"):
                            await client.fetch(f"http://a.test/{code}?{kind}", raise_error=raises)


async def test_what_an_override_adds_is_of_one_exchange(client_class: type[Any]) -> None:
    """A signature, for one: the next hop gets its own, and not that of the one before as well."""

    class Signing(client_class):  # type: ignore[misc]
        def fetch_impl(self, request: Any, callback: Any) -> Any:
            request.fields = (*request.fields, ("X-Signed", request.url.target))
            if request.profile.body == "bytes":
                request.body = b"<%b>" % request.body
            return super().fetch_impl(request, callback)

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            again = redirect("/end", "307 Temporary Redirect")
            await peer.send(again if request.target == "/begin" else ok())

    async with ScriptedServer(handler) as server, Signing(force_instance=True) as client:
        for _ in range(3):
            for headers in (None, {"X-A": "b"}):
                for method, body in (("GET", None), ("PUT", b"body")):
                    await client.fetch(
                        server.url("/begin"), method=method, headers=headers, body=body
                    )
                    two = server.requests[-2:]
                    assert [it.get_all("X-Signed") for it in two] == [["/begin"], ["/end"]]
                    assert {it.body for it in two} == {b"<body>" if body else b""}
                    assert [it.get("X-A") for it in two] == ([headers and "b"] * 2)


async def test_an_excluded_address_after_others(make_client: Any) -> None:
    """Of a URL that is new, or that a redirect leads to."""
    async with (
        ScriptedServer(_echo) as server,
        ScriptedServer(_echo, host="::1") as excluded,
        ScriptedServer(canned(redirect(excluded.url("/")))) as redirecting,
    ):
        client = make_client(defaults={"allow_ipv6": False})
        for _ in range(2):
            assert (await client.fetch(server.url("/"))).body == b"/"
            for url in (excluded.url("/"), redirecting.url("/")):
                for headers in (None, {"X-A": "b"}):
                    with pytest.raises(HTTPResolveError, match="allow_ipv6 is False") as caught:
                        await client.fetch(url, headers=headers)
                    assert caught.value.stage == "dns"
            with pytest.raises(ValueError, match="max_redirects"):
                await client.fetch(excluded.url("/"), max_redirects=-1)
        assert not excluded.connections


async def test_an_excluded_address_behind_a_proxy_that_is_not_for_it(
    make_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names no proxy: none would have been used."""
    async with ScriptedServer(canned(redirect("http://[::1]:9/"))) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url("").rstrip("/"))
        monkeypatch.setenv("no_proxy", "::1")
        client = make_client(trust_env=True)
        with pytest.raises(HTTPResolveError, match="allow_ipv6 is False") as caught:
            await client.fetch("http://a.test/", allow_ipv6=False)
        assert caught.value.proxy is None
        assert len(proxy.requests) == 1


async def test_a_fetch_from_another_thread_than_the_loops(client_class: type[Any]) -> None:
    """Even if the client was bound in that thread, before the loop moved on."""
    outcome: list[BaseException | None] = []

    def main() -> None:
        loop = asyncio.new_event_loop()
        client = loop.run_until_complete(_bound())
        running = threading.Event()
        loop.call_soon(running.set)
        worker = threading.Thread(target=loop.run_forever)
        worker.start()
        running.wait()
        try:
            client.fetch("http://127.0.0.1:9/")
        except RuntimeError as error:
            outcome.append(error)
        else:
            outcome.append(None)
        loop.call_soon_threadsafe(loop.stop)
        worker.join()
        client.close()
        loop.close()

    async def _bound() -> Any:
        client = client_class(force_instance=True)
        async with ScriptedServer(canned(ok(b"ok"))) as server:
            await client.fetch(server.url())
        return client

    await asyncio.to_thread(main)
    assert "another event loop" in str(outcome[0])


async def test_waiting_for_a_turn_is_not_waiting_for_a_slot(
    make_client: Callable[..., Any],
) -> None:
    """However short queue_timeout is: there are slots for all."""
    client = make_client(max_clients=200)
    async with ScriptedServer(_echo) as server:
        fetches = [client.fetch(server.url("/"), queue_timeout=0.001) for _ in range(150)]
        assert len(client.queue) == 0
        assert [(await fetch).code for fetch in fetches] == [200] * 150


@pytest.mark.parametrize("protocol", [*range(pickle.HIGHEST_PROTOCOL + 1), "copy", "deepcopy"])
async def test_copies_of_a_response(client: Any, protocol: Any) -> None:
    async with ScriptedServer(_echo) as server:
        response = await client.fetch(server.url("/"))
    if protocol == "copy":
        twin = copy.copy(response)
    elif protocol == "deepcopy":
        twin = copy.deepcopy(response)
    else:
        twin = pickle.loads(pickle.dumps(response, protocol))
    assert (twin.code, twin.body, twin.reason) == (200, b"/", "OK")
    assert twin.headers["X-Test"] == "1"
    assert twin.time_info == response.time_info
    assert twin.buffer.read() == b"/"
    assert response.buffer.read() == b"/"  # each has its own
    twin.note = "of a program's own"
    assert copy.copy(twin).note == twin.note


def test_the_buffer_of_a_response_that_a_program_makes() -> None:
    """Mocks write into it later, or set another one."""
    buffer = BytesIO()
    response = HTTPResponse(HTTPRequest("http://a/"), 200, buffer=buffer)
    buffer.write(b"late")
    assert response.body == b"late"
    response = HTTPResponse(HTTPRequest("http://a/"), 200)
    response.buffer = BytesIO(b"set")
    assert response.body == b"set"
    assert HTTPResponse(HTTPRequest("http://a/"), 200).body == b""


async def test_a_loop_with_a_clock_of_its_own(client_class: type[Any]) -> None:
    """Deadlines go by the clock by which the loop rings."""

    async def fetch() -> int:
        loop = asyncio.get_running_loop()
        if "time" in vars(type(loop)):
            return 200  # uvloop's cannot be replaced
        real = loop.time
        loop.time = lambda: real() + 1000.0  # type: ignore[method-assign]
        async with ScriptedServer(_echo) as server, client_class(force_instance=True) as client:
            codes = [(await client.fetch(server.url("/"))).code for _ in range(2)]
        del loop.time  # type: ignore[method-assign]
        return min(codes)

    assert await asyncio.to_thread(asyncio.run, fetch()) == 200
