"""What handlers are told of a request: arguments and uploaded files."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from conftest import StrayLogs
from server.support import Connect, Serve, get
from whimbrel.web import (
    Application,
    MissingArgumentError,
    RequestHandler,
)

from .support import ACCESS, GENERAL, ask


class Arguments(RequestHandler):
    """Tells what it is given."""

    def get(self) -> None:
        self.write(
            {
                "all": self.get_arguments("a"),
                "query": self.get_query_arguments("a"),
                "body": self.get_body_arguments("a"),
                "last": self.get_argument("a", None),
            }
        )

    post = get


FORM = "Content-Type: application/x-www-form-urlencoded"
PARTS = "Content-Type: multipart/form-data; boundary=XX"


def part(name: str, value: bytes, more: str = "") -> bytes:
    head = f'--XX\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + value + b"\r\n"


@pytest.mark.parametrize(
    ("target", "headers", "body", "query", "form"),
    [
        ("/?a=1&a=2", [], b"", ["1", "2"], []),
        ("/?b=1", [], b"", [], []),
        ("/?a=+x+&a=%20", [], b"", ["x", ""], []),
        ("/?a=x%00y%1b%0a", [], b"", ["x y"], []),
        ("/?a=%C3%A9", [], b"", ["\xe9"], []),
        ("/?a=q", [FORM], b"a=f&a=g%26", ["q"], ["f", "g&"]),
        ("/?a=q", [PARTS], part("a", b"p") + b"--XX--\r\n", ["q"], ["p"]),
        ("/", ["Content-Type: text/plain"], b"a=1", [], []),
    ],
)
async def test_arguments(
    target: str,
    headers: list[str],
    body: bytes,
    query: list[str],
    form: list[str],
    serve: Serve,
    connect: Connect,
) -> None:
    """Of the query, of a form's body, and of both."""
    method = "POST" if body else "GET"
    response = await (await connect(serve(Arguments))).ask(
        get(target, *headers, method=method, body=body)
    )
    everything = query + form
    assert json.loads(response.body) == {
        "all": everything,
        "query": query,
        "body": form,
        "last": everything[-1] if everything else None,
    }


async def test_one_argument(serve: Serve, connect: Connect) -> None:
    """The last one counts; a default stands in; spaces may be kept."""

    def one(self: RequestHandler) -> None:
        assert self.get_argument("a") == "2"
        assert self.get_query_argument("a") == "2"
        assert self.get_argument("b", "default") == "default"
        assert self.get_body_argument("a", None) is None
        assert self.get_argument("c", strip=False) == " c "
        assert self.get_argument("\xe9") == "name"
        self.write("right")

    response = await ask(serve, connect, one, target="/?a=1&a=2&c=+c+&%C3%A9=name")
    assert response.body == b"right"


async def test_uploaded_files(serve: Serve, connect: Connect) -> None:
    class Upload(RequestHandler):
        def post(self) -> None:
            (file,) = self.request.files["f"]
            self.write(f"{file.filename} {file.content_type} {len(file.body)}")

    body = part("f", b"\x00" * 300, '; filename="x.bin"\r\nContent-Type: image/png') + b"--XX--\r\n"
    response = await (await connect(serve(Upload))).ask(get("/", PARTS, method="POST", body=body))
    assert response.body == b"x.bin image/png 300"


@pytest.mark.parametrize("call", ["get_argument", "get_query_argument", "get_body_argument"])
async def test_a_missing_argument(
    call: str, serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    """400, and the log says which."""

    def missing(self: RequestHandler) -> None:
        with pytest.raises(MissingArgumentError) as caught:
            getattr(self, call)("needed")
        assert caught.value.arg_name == "needed"
        raise caught.value

    assert (await ask(serve, connect, missing)).code == 400
    stray_logs.expect(GENERAL, r"400 GET / \(127.0.0.1\): Missing argument needed")
    stray_logs.expect(ACCESS, "400 GET / ")


@pytest.mark.parametrize(
    ("target", "headers", "body", "message"),
    [
        ("/?a=%ff", [], b"", "Invalid unicode in a"),
        ("/", [PARTS], b"--YY\r\n", "Invalid body: multipart body does not start with"),
        ("/", [FORM], b"&".join([b"a"] * 1001), "Invalid body: more than 1000 arguments"),
        ("/", [FORM, "Content-Encoding: gzip"], b"a=1", "Invalid body: unsupported Content-Enc"),
    ],
)
async def test_malformed_arguments(
    target: str,
    headers: list[str],
    body: bytes,
    message: str,
    serve: Serve,
    connect: Connect,
    stray_logs: StrayLogs,
) -> None:
    """400 from the handler; the message was well-formed HTTP, and the connection goes on."""
    wire = await connect(serve(Arguments))
    method = "POST" if body else "GET"
    response = await wire.ask(get(target, *headers, method=method, body=body))
    assert response.code == 400
    assert (await wire.ask(get())).code == 200
    stray_logs.expect(GENERAL, re.escape(message))
    stray_logs.expect(ACCESS, "400")


BROKEN = get("/broken", PARTS, method="POST", body=b"--YY\r\n")


@pytest.mark.parametrize("name", ["arguments", "body_arguments", "files"])
@pytest.mark.parametrize("where", ["prepare", "post", "coroutine"])
async def test_a_malformed_form_is_400_wherever_it_is_asked_for(
    where: str, name: str, serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    """Also by the request itself, without the handler's methods."""

    class Reader(RequestHandler):
        def prepare(self) -> None:
            if where == "prepare":
                self.read()

        async def later(self) -> None:
            self.read()

        def post(self) -> Any:
            return self.later() if where == "coroutine" else self.read()

        def read(self) -> None:
            getattr(self.request, name)

    assert (await (await connect(serve(Reader))).ask(BROKEN)).code == 400
    stray_logs.expect(GENERAL, r"400 POST /broken .*: Invalid body: multipart body does not start")
    stray_logs.expect(ACCESS, "400")


async def test_a_form_that_nobody_asks_for_is_not_parsed(
    serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    """Neither where there is no handler, nor where it takes the body as it is."""

    class Raw(RequestHandler):
        def post(self) -> None:
            self.write(self.request.body)

    server = serve(Application([(r"/broken", Raw)]))
    assert (await (await connect(server)).ask(BROKEN)).body == b"--YY\r\n"
    assert (await (await connect(serve(Application()))).ask(BROKEN)).code == 404
    stray_logs.expect(ACCESS, "404")
