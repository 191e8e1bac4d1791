"""`python -m whimbrel.httpclient`: Tornado's flags, in real processes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from command_line import run

from whimbrel.testing import (
    OriginServer,
    ProxyServer,
    Reply,
    Request,
    localhost_context,
    refused_port,
)

MODULE = "whimbrel.httpclient"
HELLO = b"Hello from whimbrel\n"


@pytest.fixture
async def origin() -> AsyncIterator[OriginServer]:
    async def two(request: Request) -> Reply:
        return Reply(200, b"body", [("X-A", "1"), ("X-A", "2")])

    async with OriginServer(routes={"/two": two}) as server:
        yield server


async def test_bodies_are_printed_each_with_a_line_end(origin: OriginServer) -> None:
    ran = await run(origin.url("/hello"), origin.url("/two"), module=MODULE)
    assert ran == (0, HELLO + b"\nbody\n", "")


@pytest.mark.parametrize(
    "flags",
    [
        ["--print_headers", "--print_body=false"],
        ["--print-headers", "--print-body=0"],
        ["-print_headers=true", "-print_body=F"],
    ],
)
async def test_headers_are_printed_one_to_a_line_then_an_empty_line(
    origin: OriginServer, flags: list[str]
) -> None:
    ran = await run(*flags, origin.url("/two"), module=MODULE)
    lines = ran.out.decode().split("\n")
    assert (ran.code, ran.err) == (0, "")
    assert [line for line in lines if line.startswith("X-A")] == ["X-A: 1", "X-A: 2"]
    assert lines[-2:] == ["", ""]
    assert "body" not in lines


async def test_redirects_are_followed_unless_told_otherwise(origin: OriginServer) -> None:
    assert (await run(origin.url("/redirect/1"), module=MODULE)).out == HELLO + b"\n"
    ran = await run(
        "--follow_redirects=false", "--print_headers", origin.url("/redirect/1"), module=MODULE
    )
    assert ran.code == 0
    assert b"\nLocation: /hello\n" in b"\n" + ran.out


async def test_an_error_status_is_printed_like_any_other(origin: OriginServer) -> None:
    assert await run(origin.url("/status/404"), module=MODULE) == (0, b"Not Found\n\n", "")


async def test_certificates_are_verified_unless_told_otherwise() -> None:
    async with OriginServer(localhost_context()) as secure:
        ran = await run(secure.url("/hello"), module=MODULE)
        assert (ran.code, ran.out) == (60, b"")
        assert ran.err.startswith("whimbrel: tls: ")
        assert ran.err.count("\n") == 1
        ran = await run("--validate-cert=false", secure.url("/hello"), module=MODULE)
        assert ran == (0, HELLO + b"\n", "")


async def test_a_proxy_by_host_and_port(origin: OriginServer) -> None:
    async with ProxyServer() as proxy:
        ran = await run(
            *("--proxy_host=127.0.0.1", f"--proxy-port={proxy.port}", origin.url("/hello")),
            module=MODULE,
        )
        assert (ran, proxy.forward_count) == ((0, HELLO + b"\n", ""), 1)


async def test_a_failure_ends_it(origin: OriginServer) -> None:
    with refused_port() as port:
        ran = await run(f"http://127.0.0.1:{port}/", origin.url("/hello"), module=MODULE)
    assert (ran.code, ran.out) == (7, b"")
    assert ran.err.startswith(f"whimbrel: connect: Connection refused by 127.0.0.1:{port}")
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no URL; see --help"),
        (["--nosuch=1", "x"], "unknown flag --nosuch; see --help"),
        (["--proxy_port", "x"], "--proxy_port needs a value"),
        (["--proxy_port=x", "x"], "--proxy_port needs a number"),
        (["--proxy_host=h", "http://x/"], "proxy_host needs proxy_port too"),
        (["--", "--print_headers"], "url is not an absolute URL"),
    ],
)
async def test_bad_usage(arguments: list[str], message: str) -> None:
    ran = await run(*arguments, module=MODULE)
    assert (ran.code, ran.out) == (2, b"")
    assert ran.err.startswith(f"whimbrel: usage: {message}")
    assert ran.err.count("\n") == 1


async def test_help() -> None:
    ran = await run("--help", module=MODULE)
    assert (ran.code, ran.err) == (0, "")
    for flag in ("print_headers", "print_body", "follow_redirects", "validate_cert", "proxy_host"):
        assert f"--{flag}".encode() in ran.out
