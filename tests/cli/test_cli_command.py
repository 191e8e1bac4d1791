"""`whimbrel URL…` in real processes, against servers of this process."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import stat
import struct
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from command_line import Ran, run, started

from whimbrel import __version__
from whimbrel._cli.failures import Exit, Failure
from whimbrel._cli.fetching import _with_suggestion
from whimbrel.testing import (
    LOCALHOST_CERTIFICATE,
    OriginServer,
    ProxyServer,
    Reply,
    Request,
    localhost_context,
    pattern,
    refused_port,
)

HELLO = b"Hello from whimbrel\n"


@pytest.fixture
async def origin() -> AsyncIterator[OriginServer]:
    async with OriginServer() as server:
        yield server


@pytest.fixture
async def secure() -> AsyncIterator[OriginServer]:
    async with OriginServer(localhost_context()) as server:
        yield server


@pytest.fixture
async def proxy() -> AsyncIterator[ProxyServer]:
    async with ProxyServer("alice", "secret") as server:
        yield server


@pytest.fixture
def ca_file(tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    path.write_bytes(LOCALHOST_CERTIFICATE)
    return str(path)


@contextlib.asynccontextmanager
async def speaking(data: bytes) -> AsyncIterator[str]:
    """The URL of a server that reads a request's head, sends `data` and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(data)
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


def names(folder: Path) -> list[str]:
    """What is in a folder and below, sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def failed(ran: Ran, code: int, line: str) -> None:
    """Nothing on stdout, and on stderr the one line that `line` matches."""
    assert (ran.code, ran.out) == (code, b""), ran.err
    assert re.fullmatch(rf"whimbrel: {line}\n", ran.err), ran.err


# Requests


async def test_a_plain_fetch_prints_the_body_and_nothing_else(origin: OriginServer) -> None:
    assert await run(origin.url("/hello")) == (0, HELLO, "")


async def test_bodies_are_bytes(origin: OriginServer) -> None:
    ran = await run(origin.url("/stream/300000"))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == pattern(300_000)


async def test_the_scheme_may_be_left_out(origin: OriginServer) -> None:
    assert (await run(f"127.0.0.1:{origin.port}/hello")).out == HELLO


async def test_options_arrive_on_the_wire(origin: OriginServer, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"from\r\nfile\n")
    (tmp_path / "lines").write_text("X-One: 1\nX-Two: 2\n")
    ran = await run(
        *("-X", "PATCH", "-A", "probe/1", "-H", "X-Typed: caf\u00e9", "-H", "X-Empty;"),
        *("-H", f"@{tmp_path}/lines", "-H", "X-Two: again", "-u", "al:se:cret"),
        *("-d", "a=1", "-d", f"@{tmp_path}/data", "--data-binary", f"@{tmp_path}/data"),
        *("--data-binary", "@-", origin.url("/echo")),
        stdin=b"in\0put",
    )
    assert (ran.code, ran.err) == (0, "")
    echo = json.loads(ran.out)
    fields = [(name.lower(), value) for name, value in echo["headers"]]
    assert echo["method"] == "PATCH"
    assert echo["body"] == "a=1&fromfile&from\r\nfile\n&in\0put"
    for field in (
        ("user-agent", "probe/1"),
        ("x-typed", "caf\u00e9".encode().decode("latin-1")),
        ("x-empty", ""),
        ("x-one", "1"),
        ("authorization", "Basic YWw6c2U6Y3JldA=="),
        ("content-type", "application/x-www-form-urlencoded"),
    ):
        assert field in fields
    assert [value for name, value in fields if name == "x-two"] == ["2", "again"]


@pytest.mark.parametrize(
    ("arguments", "method", "body"),
    [
        ([], "GET", b""),
        (["-d", "x"], "POST", b"x"),
        (["-X", "POST"], "POST", b""),
        (["-X", "GET", "-d", "x"], "GET", b"x"),
        (["-X", "purge"], "purge", b""),
    ],
)
async def test_methods(
    origin: OriginServer, arguments: list[str], method: str, body: bytes
) -> None:
    assert (await run(*arguments, origin.url("/hello"))).code == 0
    assert (origin.requests[-1].method, origin.requests[-1].body) == (method, body)


async def test_head_prints_the_header_block_as_it_came(origin: OriginServer) -> None:
    ran = await run("-I", origin.url("/gzip"))
    assert origin.requests[-1].method == "HEAD"
    lines = ran.out.split(b"\r\n")
    assert (ran.code, lines[0], lines[-2:]) == (0, b"HTTP/1.1 200 OK", [b"", b""])
    assert b"Content-Encoding: gzip" in lines


async def test_include_prints_headers_then_the_decoded_body(origin: OriginServer) -> None:
    head, _, body = (await run("-i", origin.url("/gzip"))).out.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Encoding: gzip" in head
    assert "headers" in json.loads(body)


async def test_redirects_are_followed_with_location_only(origin: OriginServer) -> None:
    ran = await run("-i", origin.url("/redirect/2"))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(b"HTTP/1.1 302 Found\r\n")
    assert b"Location: /redirect/1" in ran.out
    ran = await run("-iL", origin.url("/redirect/2"))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(b"HTTP/1.1 200 OK\r\n")
    assert ran.out.endswith(HELLO)


async def test_options_and_urls_may_be_mixed(origin: OriginServer) -> None:
    ran = await run("-s", origin.url("/hello"), "-L", origin.url("/redirect/1"), "-f")
    assert ran == (0, HELLO * 2, "")


async def test_several_urls_share_a_connection(origin: OriginServer) -> None:
    ran = await run(origin.url("/hello"), origin.url("/bytes/5"), origin.url("/hello"))
    assert ran == (0, HELLO + pattern(5) + HELLO, "")
    assert origin.connection_count == 1


async def test_digest(origin: OriginServer) -> None:
    assert await run("--digest", "-u", "alice:secret", origin.url("/digest")) == (
        0,
        b"hello alice\n",
        "",
    )


async def test_through_a_proxy(
    origin: OriginServer, secure: OriginServer, proxy: ProxyServer, ca_file: str
) -> None:
    ran = await run(
        *("-x", proxy.url_with_credentials, "--cacert", ca_file),
        *(origin.url("/hello"), secure.url("/hello")),
    )
    assert ran == (0, HELLO * 2, "")
    assert (proxy.forward_count, proxy.tunnel_count) == (1, 1)
    assert origin.requests[-1].get("proxy-authorization") is None
    ran = await run("-x", proxy.url, "-U", "alice:secret", origin.url("/hello"))
    assert ran == (0, HELLO, "")


async def test_the_environment_names_a_proxy_and_an_empty_x_ignores_it(
    origin: OriginServer, proxy: ProxyServer
) -> None:
    env = {"http_proxy": proxy.url_with_credentials}
    assert await run(origin.url("/hello"), env=env) == (0, HELLO, "")
    assert proxy.forward_count == 1
    assert await run("-x", "", origin.url("/hello"), env=env) == (0, HELLO, "")
    assert proxy.forward_count == 1


async def test_insecure(secure: OriginServer) -> None:
    assert await run("-k", secure.url("/hello")) == (0, HELLO, "")


async def test_interface(origin: OriginServer) -> None:
    assert (await run("--interface", "127.0.0.1", origin.url("/hello"))).out == HELLO


# Failures: one line, and a code


async def test_failures_that_need_no_server(origin: OriginServer) -> None:
    with refused_port() as port:
        failed(
            await run(f"http://127.0.0.1:{port}/"),
            7,
            f"connect: Connection refused by 127.0.0.1:{port}.*",
        )
        failed(
            await run("-x", f"http://alice:secret@127.0.0.1:{port}", origin.url("/hello")),
            5,
            f"proxy-connect: Connection refused: proxy http://127.0.0.1:{port}",
        )
    failed(await run("http://nowhere.invalid/"), 6, "dns: .*nowhere.invalid.*")


async def test_failures_of_proxies(
    origin: OriginServer, secure: OriginServer, proxy: ProxyServer
) -> None:
    wrong = proxy.url.replace("//", "//alice:guess@")
    failed(await run("-x", wrong, secure.url("/hello")), 67, "proxy-auth: .*407.*")
    ran = await run("-x", wrong, origin.url("/hello"))
    assert ran.code == 67
    assert ran.err == "whimbrel: proxy-auth: HTTP 407: Proxy Authentication Required\n"
    with refused_port() as port:
        failed(
            await run("-x", proxy.url_with_credentials, f"https://127.0.0.1:{port}/"),
            97,
            "tunnel: .*502.*",
        )


async def test_failures_of_tls(origin: OriginServer, secure: OriginServer) -> None:
    failed(await run(secure.url("/hello")), 60, "tls: .*certificate.*")
    failed(await run(origin.url("/hello").replace("http:", "https:")), 35, "tls: .*")


@pytest.mark.parametrize(
    ("reply", "code", "stage"),
    [
        (b"", 52, "response"),
        (b"HTTP/1.1 200 OK\r\nA: b", 52, "response"),
        (b"nonsense\r\n\r\n", 8, "response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", 8, "response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", 18, "body"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nno", 18, "body"),
    ],
)
async def test_failures_of_replies(reply: bytes, code: int, stage: str) -> None:
    async with speaking(reply) as url:
        failed(await run(url), code, f"{stage}: .*")


async def test_time_out_limit_status_and_redirects(origin: OriginServer) -> None:
    failed(await run("--max-time", "0.2", origin.url("/slow/9")), 28, "response: Timeout.*")
    failed(
        await run("--max-filesize", "10", origin.url("/bytes/11")),
        63,
        "body: .* --max-filesize.*10.*",
    )
    failed(await run("-f", origin.url("/status/404")), 22, "response: HTTP 404: Not Found")
    ran = await run("-L", "--max-redirs", "1", origin.url("/redirect/2"))
    assert (ran.code, ran.err) == (
        47,
        "whimbrel: response: more than 1 redirects (--max-redirs)\n",
    )
    assert (await run("-L", "--max-redirs", "2", origin.url("/redirect/2"))).code == 0


async def test_a_redirect_to_another_scheme_is_refused() -> None:
    async with speaking(b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n") as url:
        failed(await run("-L", url), 47, "response: HTTP 302: .*file.*")


async def test_a_status_alone_is_no_failure(origin: OriginServer) -> None:
    assert await run(origin.url("/status/404")) == (0, b"Not Found\n", "")


async def test_the_first_failure_decides_and_the_rest_is_fetched(origin: OriginServer) -> None:
    with refused_port() as port:
        ran = await run(
            "-f",
            f"http://u:pw@127.0.0.1:{port}/",
            origin.url("/hello"),
            origin.url("/status/500"),
        )
    first, second = ran.err.splitlines()
    assert (ran.code, ran.out) == (7, HELLO)
    assert first.startswith(f"whimbrel: connect: http://127.0.0.1:{port}/: Connection refused")
    assert second == (
        f"whimbrel: response: {origin.url('/status/500')}: HTTP 500: Internal Server Error"
    )


async def test_text_of_the_peer_is_escaped() -> None:
    reply = (
        b"HTTP/1.1 404 \x1b[31m\xc2\x9bRed\xe2\x80\xae\r\nX: \x1b[2J\r\nContent-Length: 0\r\n\r\n"
    )
    async with speaking(reply) as url:
        ran = await run("-f", "-v", url)
    assert ran.code in (8, 22)
    assert ran.err.replace("\n", "").isprintable(), ascii(ran.err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no URL; see whimbrel --help"),
        (["--nosuch=secret", "x"], "unknown option --nosuch; see whimbrel --help"),
        (["-Zsecret", "x"], "unknown option -Z; see whimbrel --help"),
        (["--max-time", "soon", "x"], "argument --max-time: invalid number of seconds value: .*"),
        (["--max-time", "-1", "x"], "argument --max-time: .*"),
        (["--max-redirs", "x", "x"], "argument --max-redirs: invalid number value: 'x'; .*"),
        (["--backend", "other", "x"], "argument --backend: invalid choice: 'other' .*"),
        (["-o", "a", "-o", "b", "x"], "2 -o for 1 URLs: give one for each; .*"),
        (["-I", "-d", "x", "x"], "-I and -d exclude each other; .*"),
        (["--digest", "x"], "--digest needs -u; .*"),
        (["-U", "a:b", "x"], "-U and --proxy-digest need -x; .*"),
        (["--http2", "--http3", "x"], "argument --http3: not allowed with argument --http2; .*"),
        (["-H", "nonsense", "x"], "-H wants 'Name: value' or 'Name;'"),
        (["-H", "Name:", "x"], "-H 'Name:' is empty; 'Name;' sends an empty value"),
        (["-H", "A: b\r\nC: d", "x"], ".*header.*"),
        (["-H", "A B: c", "x"], ".*header.*"),
        (["-X", "GET /", "x"], "method .*"),
        (["-A", "a\nb", "x"], "user_agent .*"),
        (["-u", "a:b\n", "--digest", "x"], "auth_password .*"),
        (["ftp://127.0.0.1/"], "Unsupported url scheme 'ftp'.*"),
        (["http://u:secret@[::1/"], "url .*"),
        (["-x", "gopher://u:secret@h:1", "x"], "proxy .*'gopher'.*"),
        (["-u", "alice", "x"], "-u: no password: give USER:PASSWORD or set WHIMBREL_PASSWORD"),
        (["demo", "--nosuch"], ".*--nosuch.*"),
        (["demo", "--serve", "--backend", "curl"], ".*not allowed with argument --serve.*"),
    ],
)
async def test_bad_usage_opens_no_socket(arguments: list[str], message: str) -> None:
    ran = await run(*arguments)
    failed(ran, 2, f"usage: {message}")
    assert "secret" not in ran.err


async def test_files_that_cannot_be_used(origin: OriginServer, tmp_path: Path) -> None:
    missing = str(tmp_path / "none" / "x")
    line = f"{re.escape(missing)}: No such file or directory"
    failed(await run("-d", f"@{missing}", origin.url("/")), 26, f"read: {line}")
    failed(await run("-o", missing, origin.url("/hello")), 23, f"write: {line}")
    failed(
        await run("--cacert", missing, origin.url("/").replace("http:", "https:")),
        2,
        "usage: ca_certs: .*",
    )


async def test_an_unknown_backend_is_a_usage_error(origin: OriginServer) -> None:
    """There is no silent change to another backend."""
    assert (await run("--backend", "none-such", origin.url("/hello"))).code == 2


@pytest.mark.parametrize("backend", ["curl", "simple"])
async def test_backends(origin: OriginServer, secure: OriginServer, backend: str) -> None:
    """Each does the work, and has the same exit codes."""
    assert await run("--backend", backend, origin.url("/hello")) == (0, HELLO, "")
    ran = await run("--backend", backend, secure.url("/hello"))
    failed(ran, 60, "tls: the certificate of localhost:.* was not accepted: .*")
    with refused_port() as port:
        failed(await run("--backend", backend, f"127.0.0.1:{port}"), 7, "connect: .*refused.*")


async def test_what_only_libcurl_can_do(secure: OriginServer) -> None:
    ran = await run("--backend", "simple", "--http3", secure.url("/hello"))
    line = "usage: the simple backend speaks HTTP/1.1 only: for HTTP/3 use --backend curl"
    failed(ran, 4, line)
    assert (await run("--backend", "simple", "--http1.1", "-k", secure.url("/hello"))).code == 0


async def test_a_misspelt_sub_command() -> None:
    """It is a host like any other, and where there is none, what was meant is suggested."""
    ran = await run("--connect-timeout", "5", "-x", "", "demmo")
    assert ran.code in (6, 28)  # a resolver may be slow to say no
    assert re.fullmatch(r"whimbrel: dns: .*demmo.*; did you mean `whimbrel demo`\?\n", ran.err), (
        ran.err
    )


@pytest.mark.parametrize(
    ("given", "stage", "suggested"),
    [
        ("demmo", "dns", True),
        ("Demo", "dns", True),
        ("demo", "connect", True),
        ("demo", "response", False),
        ("demo.example", "dns", False),
        ("demo:80", "dns", False),
        ("demo/x", "dns", False),
        ("http://demo", "dns", False),
        ("localhost", "dns", False),
    ],
)
def test_when_a_sub_command_is_suggested(given: str, stage: str, suggested: bool) -> None:
    failure = Failure(Exit.DNS, stage, "it failed")
    with_suggestion = _with_suggestion(failure, given)
    assert ("did you mean" in str(with_suggestion)) is suggested
    assert (with_suggestion.exit, with_suggestion.stage) == (Exit.DNS, stage)


# Output


async def test_output_goes_to_the_file_and_keeps_its_permissions(
    origin: OriginServer, tmp_path: Path
) -> None:
    target, link = tmp_path / "body", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    new = tmp_path / "new"
    ran = await run("-o", str(link), "-o", str(new), *[origin.url("/bytes/100000")] * 2)
    assert ran == (0, b"", "")
    assert target.read_bytes() == new.read_bytes() == pattern(100_000)
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(new.stat().st_mode) == 0o666 & ~umask
    assert names(tmp_path) == ["body", "link", "new"]


async def test_a_failed_transfer_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "body"
    target.write_text("old")
    async with speaking(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nnew") as url:
        failed(await run("-o", str(target), url), 18, "body: .*")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["body"]


async def test_fail_leaves_the_old_file(origin: OriginServer, tmp_path: Path) -> None:
    target = tmp_path / "body"
    target.write_text("old")
    failed(await run("-f", "-o", str(target), origin.url("/status/500")), 22, "response: .*")
    assert target.read_text() == "old"


async def test_the_server_does_not_choose_the_file(tmp_path: Path) -> None:
    async def disposition(request: Request) -> Reply:
        return Reply(200, b"x", [("Content-Disposition", 'attachment; filename="../../escaped"')])

    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    async with OriginServer(routes={"/d": disposition}) as origin:
        assert await run("-o", "named", origin.url("/d"), cwd=folder) == (0, b"", "")
    assert names(tmp_path) == ["a", "a/b", "a/b/named"]


async def test_devices_are_written_to_not_replaced(origin: OriginServer) -> None:
    assert await run("-o", "/dev/null", origin.url("/hello")) == (0, b"", "")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_a_full_disk_is_told(origin: OriginServer) -> None:
    line = "No space left on device"
    failed(await run("-o", "/dev/full", origin.url("/hello")), 23, f"write: /dev/full: {line}")
    with open("/dev/full", "wb") as full:  # noqa: ASYNC230 (no file that could block)
        ran = await run(origin.url("/hello"), stdout=full)
    assert (ran.code, ran.err) == (23, f"whimbrel: write: stdout: {line}\n")


async def test_help_may_go_to_a_closed_pipe() -> None:
    readable, writable = os.pipe()
    os.close(readable)
    try:
        assert await run("--help", stdout=writable) == (141, b"", "")
    finally:
        os.close(writable)


async def test_a_closed_stdout_is_told(origin: OriginServer) -> None:
    closing = ("sh", "-c", 'exec "$@" >&-', "sh")
    async with started(origin.url("/hello"), launcher=closing) as process:
        _, err = await process.communicate()
        assert (process.returncode, err) == (23, b"whimbrel: write: stdout is closed\n")


async def test_a_closed_pipe_ends_it_quietly(origin: OriginServer) -> None:
    async with started(origin.url("/stream/100000000")) as process:
        assert process.stdout is not None
        await process.stdout.readexactly(10)
        process.stdout._transport.close()  # type: ignore[attr-defined]
        assert process.stderr is not None
        assert await process.stderr.read() == b""
        assert await process.wait() == 141


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_signals_end_it_quietly_and_tidily(
    origin: OriginServer, tmp_path: Path, number: int, code: int
) -> None:
    endless = asyncio.Event()

    async def half(request: Request) -> Reply:
        async def body() -> AsyncIterator[bytes]:
            yield b"half"
            await endless.wait()

        return Reply(200, body())

    async with (
        OriginServer(routes={"/half": half}) as server,
        started("-o", str(tmp_path / "body"), server.url("/half")) as process,
    ):
        while not names(tmp_path):  # noqa: ASYNC110 (another process's file)
            await asyncio.sleep(0.01)
        process.send_signal(number)
        out, err = await process.communicate()
        assert (process.returncode, out, err) == (code, b"", b"")
        assert names(tmp_path) == []


async def test_stdout_is_written_while_it_comes() -> None:
    more = asyncio.Event()

    async def halves(request: Request) -> Reply:
        async def body() -> AsyncIterator[bytes]:
            yield b"first"
            await more.wait()
            yield b"second"

        return Reply(200, body())

    async with (
        OriginServer(routes={"/halves": halves}) as server,
        started(server.url("/halves")) as process,
    ):
        assert process.stdout is not None
        assert await process.stdout.readexactly(5) == b"first"
        more.set()
        assert await process.stdout.read() == b"second"


async def test_timing_draws_every_phase(origin: OriginServer, proxy: ProxyServer) -> None:
    ran = await run("--timing", "-L", origin.url("/redirect/1"))
    assert (ran.code, ran.out) == (0, HELLO)
    first, *rest = ran.err.splitlines()
    assert first == f"{origin.url('/hello')}: status 200, HTTP/1.1, 20 B"
    assert [re.split(r"\s{2,}", line.strip())[0] for line in rest] == [
        *("queue", "redirects", "name look-up", "connect", "handshake", "prepare", "wait"),
        *("transfer", "total"),
    ]
    total = float(re.search(r"([0-9.]+) ms", rest[-1])[1])  # type: ignore[index]
    parts = [float(re.search(r"([0-9.]+) ms", line)[1]) for line in rest[:-1]]  # type: ignore[index]
    assert total > 0
    assert sum(parts) == pytest.approx(total, abs=0.1)


async def test_verbose_shows_both_heads_but_no_secret(origin: OriginServer) -> None:
    ran = await run(
        *("-v", "-H", "Authorization: Bearer hush", "-H", "Cookie: a=hush", "-H", "X: shown"),
        origin.url("/cookies/set?a=hush").replace("//", "//alice:hush@"),
    )
    assert ran.code == 0
    lines = ran.err.splitlines()
    shown = f"> GET {origin.url('/cookies/set?a=hush')}"
    assert lines[:4] == [shown, "> Authorization: ***", "> Cookie: ***", "> X: shown"]
    assert "< HTTP/1.1 302 Found" in lines
    assert "< Set-Cookie: ***" in lines
    assert "hush" not in ran.err.replace(shown, "")


# Secrets


def arguments_of(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


@pytest.mark.skipif(
    not Path("/proc/self/mem").exists(), reason="arguments are hidden on Linux only"
)
async def test_secrets_do_not_stay_in_the_process_list(
    origin: OriginServer, proxy: ProxyServer
) -> None:
    async with started(
        *("-u", "alice:pass1", "-Hauthorization: pass2", f"--proxy={proxy.url_with_credentials}"),
        *("-d", "pass3", origin.url("/slow/20").replace("//", "//bob:pass4@")),
    ) as process:
        async with asyncio.timeout(10):
            while not proxy.requests:  # noqa: ASYNC110 (another process's request)
                await asyncio.sleep(0.01)
        shown = arguments_of(process.pid)
        process.kill()
    url = origin.url("/slow/20").replace("//", "//*********@").encode()
    hidden = proxy.url.replace("//", "//************@").encode()
    assert shown[-8:] == [
        *(b"-u", b"alice:*****", b"-Hauthorization:******", b"--proxy=" + hidden),
        *(b"-d", b"*****", url, b""),
    ]


async def test_passwords_from_the_environment(origin: OriginServer, proxy: ProxyServer) -> None:
    ran = await run(
        *("-u", "alice", "-x", proxy.url.replace("//", "//alice@"), origin.url("/basic")),
        env={"WHIMBREL_PASSWORD": "secret", "WHIMBREL_PROXY_PASSWORD": "secret"},
    )
    assert ran == (0, b"hello alice\n", "")
    ran = await run(
        *("-U", "alice", "-x", proxy.url, origin.url("/hello")),
        env={"WHIMBREL_PROXY_PASSWORD": "secret"},
    )
    assert ran == (0, HELLO, "")


# Makes stdin the controlling terminal of the session, and executes the rest.
ADOPT = (
    *(sys.executable, "-c"),
    "import fcntl, os, sys, termios\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execv(sys.argv[1], sys.argv[1:])",
)


@contextlib.asynccontextmanager
async def on_a_terminal(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """The process with a terminal for stdin and stderr, and the terminal's other end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    try:
        async with started(
            *arguments, launcher=ADOPT, stdin=theirs, stderr=theirs, env={"COLUMNS": "80"}
        ) as process:
            os.close(theirs)
            theirs = -1
            yield process, ours
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)


async def read_terminal(ours: int, until: bytes | None = None) -> bytes:
    """What was printed, up to `until` or the end."""
    loop = asyncio.get_running_loop()
    seen = b""
    while until is None or until not in seen:
        readable = loop.create_future()
        loop.add_reader(ours, readable.set_result, None)
        try:
            await readable
        finally:
            loop.remove_reader(ours)
        try:
            piece = os.read(ours, 4096)
        except OSError:  # EIO: the last holder of the other end has gone
            break
        if not piece:
            break
        seen += piece
    return seen


async def test_a_terminal_is_asked_for_the_password(origin: OriginServer) -> None:
    async with on_a_terminal("-u", "alice", origin.url("/basic")) as (process, ours):
        assert await read_terminal(ours, b": ") == b"password of 'alice': "
        os.write(ours, b"secret\n")
        assert process.stdout is not None
        assert await process.stdout.read() == b"hello alice\n"
        assert b"secret" not in await read_terminal(ours)
        assert await process.wait() == 0


async def test_a_terminal_gets_a_progress_bar(tmp_path: Path) -> None:
    async def slowly(request: Request) -> Reply:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield pattern(100_000)
                await asyncio.sleep(0.15)  # longer than the bar waits before it is redrawn

        return Reply(200, body(), length=300_000)

    async with OriginServer(routes={"/slowly": slowly}) as origin:
        url = origin.url("/slowly")
        async with on_a_terminal("-o", str(tmp_path / "body"), url) as (process, ours):
            seen = await read_terminal(ours)
            assert await process.wait() == 0
        assert re.search(rb"\r [ 1-9][0-9]% \[#+ *\] [0-9.]+ KiB of 293.0 KiB, ", seen), seen
        assert seen.endswith(b"\r\x1b[K")
        async with on_a_terminal("-s", "-o", str(tmp_path / "body"), url) as (process, ours):
            assert await read_terminal(ours) == b""
            assert await process.wait() == 0


# Help


async def test_help_and_version() -> None:
    ran = await run("--version")
    assert ran.out.decode().startswith(f"whimbrel {__version__} (pycurl ")
    ran = await run("--help")
    text = ran.out.decode()
    assert (ran.code, ran.err) == (0, "")
    for code in Exit:
        assert f"{code.value:>3}  {code.meaning}\n" in text


async def test_without_stderr_the_code_still_tells() -> None:
    async with started("http://[::1/", stderr=asyncio.subprocess.DEVNULL) as process:
        await process.communicate()
        assert process.returncode == 2


def test_the_page_lists_every_option_and_every_code() -> None:
    """docs/cli.md, --help and the table in the code say the same."""
    from whimbrel._cli.arguments import _parser

    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) \| (.+?) \|$", page, re.MULTILINE))
    assert rows == {str(code.value): code.meaning for code in Exit}
    for action in _parser()._actions:
        for option in action.option_strings:
            assert f"`{option}" in page, option
