"""Applications: which handler a request goes to."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

import pytest

from conftest import StrayLogs
from server.support import Connect, Serve, get
from whimbrel._web.routing import URLSpec
from whimbrel.httpserver import HTTPServer
from whimbrel.web import Application, ErrorHandler, RedirectHandler, RequestHandler, url

ACCESS = "whimbrel.access"
GENERAL = "whimbrel.general"


class Name(RequestHandler):
    """Writes the name that its route gives it, and what the path held."""

    def initialize(self, name: str = "") -> None:
        self.name = name

    def get(self, *args: str, **kwargs: str) -> None:
        self.write({"name": self.name, "args": list(args), "kwargs": kwargs})


ROUTES: list[Any] = [
    (r"/", Name, {"name": "root"}),
    (r"/a/([0-9]+)", Name, {"name": "number"}),
    (r"/a/(.*)", Name, {"name": "any"}, "any"),
    URLSpec(r"/b/(?P<x>[^/]*)/(?P<y>.*)", Name, {"name": "named"}, name="named"),
    (r"/c(/d)?", Name, {"name": "optional"}),
    (r"/e$", Name, {"name": "anchored"}),
    (r"/f/(?:x|y)", Name, {"name": "no group"}),
]


@pytest.mark.parametrize(
    ("target", "name", "args", "kwargs"),
    [
        ("/", "root", [], {}),
        ("/?a=/b", "root", [], {}),
        ("/a/17", "number", ["17"], {}),
        ("/a/17x", "any", ["17x"], {}),
        ("/a/", "any", [""], {}),
        ("/a/%C3%A9%2F+%25", "any", ["\xe9/+%"], {}),
        ("/b/1/2/3", "named", [], {"x": "1", "y": "2/3"}),
        ("/c", "optional", [None], {}),
        ("/c/d", "optional", ["/d"], {}),
        ("/e", "anchored", [], {}),
        ("/f/y", "no group", [], {}),
        ("http://other.example/a/17", "number", ["17"], {}),
    ],
)
async def test_routes(
    target: str,
    name: str,
    args: list[str],
    kwargs: dict[str, str],
    serve: Serve,
    connect: Connect,
) -> None:
    """The first pattern that matches the whole path is taken; groups are decoded and passed on."""
    response = await (await connect(serve(Application(ROUTES)))).ask(get(target))
    assert json.loads(response.body) == {"name": name, "args": args, "kwargs": kwargs}


@pytest.mark.parametrize("target", ["/x", "/e/", "/A/1", "//", "/f/x/", "*"])
async def test_no_route(target: str, serve: Serve, connect: Connect, stray_logs: StrayLogs) -> None:
    """404, and the connection goes on."""
    wire = await connect(serve(Application(ROUTES)))
    method = "OPTIONS" if target == "*" else "GET"
    response = await wire.ask(get(target, method=method))
    assert response.code == 404
    assert response.body == (
        b"<html><title>404: Not Found</title><body>404: Not Found</body></html>"
    )
    assert (await wire.ask(get())).code == 200
    stray_logs.expect(ACCESS, rf"404 {method} {re.escape(target)} ")


@pytest.mark.parametrize("target", ["/a/%ff", "/b/%ff/x"])
async def test_a_path_that_is_not_utf_8(
    target: str, serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    response = await (await connect(serve(Application(ROUTES)))).ask(get(target))
    assert response.code == 400
    stray_logs.expect(GENERAL, "400 GET .*: Invalid unicode in (the path|x)")
    stray_logs.expect(ACCESS, "400")


async def test_a_default_handler_of_ones_own(
    serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    application = Application(
        default_handler_class=Name, default_handler_args={"name": "elsewhere"}
    )
    assert b"elsewhere" in (await (await connect(serve(application))).ask(get("/x"))).body
    gone = Application(
        default_handler_class=ErrorHandler, default_handler_args={"status_code": 410}
    )
    assert (await (await connect(serve(gone))).ask(get("/x"))).code == 410
    stray_logs.expect(ACCESS, "410")


@pytest.mark.parametrize(
    ("host", "target", "name"),
    [
        ("api.example.com", "/", "api"),
        ("API.example.com:8080", "/", "api"),
        ("api.example.com", "/all", "all"),
        ("www.example.com", "/all", "all"),
        ("www.example.com", "/", "default host"),
        ("other.example", "/", "default host"),
        ("xapi.example.com", "/", "default host"),
    ],
)
async def test_hosts(host: str, target: str, name: str, serve: Serve, connect: Connect) -> None:
    """Routes of a host come first, then those for all, then those of the default host."""
    application = Application([(r"/all", Name, {"name": "all"})], default_host="example.net")
    application.add_handlers(r"api\.example\.com", [(r"/", Name, {"name": "api"})])
    application.add_handlers(r"example\.net", [(r"/", Name, {"name": "default host"})])
    request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    response = await (await connect(serve(application))).ask(request)
    assert json.loads(response.body)["name"] == name


@pytest.mark.parametrize(
    ("pattern", "args", "path"),
    [
        (r"/", (), "/"),
        (r"^/a\.b/(.*)$", ("x y/\xe9",), "/a.b/x%20y/%C3%A9"),
        (r"/(?P<x>\d+)/y", (1,), "/1/y"),
        (r"/([^/]+)/((?:a|b)\)?)", (b"\xff", "c"), "/%FF/c"),
    ],
)
def test_reverse(pattern: str, args: tuple[Any, ...], path: str) -> None:
    assert URLSpec(pattern, RequestHandler).reverse(*args) == path


@pytest.mark.parametrize(
    "pattern",
    [
        r"/x+",
        r"/(a)?",
        r"/\d",
        r"/[ab]",
        r"/((a)b)",
        r"/(?:a)(b)",
        r"/(?:x(a))",
        r"/([(])/x",
        r"/([)])",
    ],
)
def test_what_cannot_be_reversed(pattern: str) -> None:
    with pytest.raises(ValueError, match="cannot reverse"):
        URLSpec(pattern, RequestHandler).reverse("x")


def test_reverse_url() -> None:
    """By name, on the application and on a handler's."""
    application = Application(ROUTES)
    assert application.reverse_url("any", "x") == "/a/x"
    assert application.reverse_url("named", 1, 2) == "/b/1/2"
    with pytest.raises(KeyError, match="nobody not found in named urls"):
        application.reverse_url("nobody")
    with pytest.raises(ValueError, match="takes 1 arguments"):
        application.reverse_url("any")


def test_a_name_that_comes_twice_is_told_of(stray_logs: StrayLogs) -> None:
    twice = [(r"/1", Name, {}, "same"), (r"/2", Name, {}, "same")]
    assert Application(twice).reverse_url("same") == "/2"
    stray_logs.expect("whimbrel.application", "Several routes are called same")


def test_groups_are_named_all_or_none() -> None:
    with pytest.raises(ValueError, match="named in part"):
        URLSpec(r"/(?P<x>.*)/(.*)", RequestHandler)


@pytest.mark.parametrize(
    "handler", [object, Application(), RequestHandler.__init__, "whimbrel.web.ErrorHandler"]
)
def test_a_route_to_no_handler_is_refused(handler: Any) -> None:
    """When the application is made, not at the first request; the message names the route."""
    message = r"the route '/x' goes to .*, which is no subclass of RequestHandler"
    with pytest.raises(TypeError, match=message):
        Application([(r"/", Name), (r"/x", handler)])
    with pytest.raises(TypeError, match=message):
        Application().add_handlers(".*", [URLSpec(r"/x", handler)])


def test_a_default_handler_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="default_handler_class goes to <class 'object'>"):
        Application(default_handler_class=object)


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/old/a/b%20c", "/new/a/b%20c"),
        ("/old/x?a=1&b=%26", "/new/x?a=1&b=%26"),
        ("/old/x?a=\\", "/new/x?a=%5C"),
        ("/old/%0d%0aX:y", "/new/%0D%0AX%3Ay"),
        ("/root//evil.example", "/evil.example"),
        ("/named/1/2", "/at/2/1?k=v#end"),
        ("/named/1/2?q=1", "/at/2/1?k=v&q=1#end"),
        ("/maybe", "/none/"),
    ],
)
async def test_redirect_handler(target: str, location: str, serve: Serve, connect: Connect) -> None:
    """What the groups matched is put in, encoded again, and the query is kept."""
    routes = [
        (r"/old/(.*)", RedirectHandler, {"url": "/new/{0}"}),
        (r"/root/(.*)", RedirectHandler, {"url": "/{0}"}),
        (r"/named/(?P<a>.*)/(?P<b>.*)", RedirectHandler, {"url": "/at/{b}/{a}?k=v#end"}),
        (r"/maybe(/x)?", RedirectHandler, {"url": "/none/{0}"}),
    ]
    response = await (await connect(serve(Application(routes)))).ask(get(target))
    assert (response.code, response.value("Location")) == (301, location)


async def test_redirect_handler_for_a_while(serve: Serve, connect: Connect) -> None:
    routes = [url(r"/", RedirectHandler, {"url": "//other.example/", "permanent": False})]
    response = await (await connect(serve(Application(routes)))).ask(get())
    assert (response.code, response.value("Location")) == (302, "//other.example/")


def test_repr_of_a_route() -> None:
    route = URLSpec("/", RequestHandler, {"a": 1}, "name")
    assert repr(route) == f"URLSpec('/', {RequestHandler!r}, kwargs={{'a': 1}}, name='name')"


@pytest.mark.parametrize("name", ["xsrf_cookies", "static_path", "compress_response", "ui_modules"])
def test_settings_that_would_be_missed_are_refused(name: str) -> None:
    """An application that counts on them must not run without."""
    with pytest.raises(ValueError, match=f"the setting {name} is not supported"):
        Application([], **{name: True})
    assert Application([], **{name: False}).settings == {name: False}


async def test_handlers_see_settings_and_names(serve: Serve, connect: Connect) -> None:
    class Links(RequestHandler):
        def get(self) -> None:
            self.write(self.settings["greeting"] + self.reverse_url("link", 1))

    application = Application([(r"/", Links), (r"/to/(.*)", Links, {}, "link")], greeting="hello ")
    response = await (await connect(serve(application))).ask(get())
    assert response.body == b"hello /to/1"


async def test_listen_makes_a_server(connect: Connect) -> None:
    """Application.listen starts an HTTPServer with the arguments given."""
    server = Application(ROUTES).listen(0, "127.0.0.1", no_keep_alive=True)
    assert isinstance(server, HTTPServer)
    response = await (await connect(server)).ask(get())
    assert response.value("Connection") == "close"
    server.stop()
    await server.close_all_connections()


async def test_listen_takes_what_a_servers_listen_takes() -> None:
    """Two may share a port only if both said so."""
    application = Application(ROUTES)
    options: dict[str, Any] = {"family": socket.AF_INET, "backlog": 5, "reuse_port": True}
    first = application.listen(0, **options)
    second = application.listen(first.port, **options)
    for server in (first, second):
        assert [sock.family for sock in server.sockets] == [socket.AF_INET]
        server.stop()
