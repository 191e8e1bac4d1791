"""`whimbrel demo` as a user runs it, and that it notices what goes wrong."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest

import whimbrel
from whimbrel import AsyncHTTPClient
from whimbrel.demo import CHECKS
from whimbrel.testing.examples import FILES

PASSES = "import sys; from whimbrel.cli import main; sys.exit(main(['demo', *sys.argv[1:]]))"

# A check through the seam for them, against the demo's own servers and client.
BROKEN = """
import sys
from whimbrel.demo import CHECKS, Check, Unexpected, run_demo

async def wrong_status(playground):
    response = await playground.client.fetch(playground.origin.url("/status/404"))
    return "unreachable"

async def wrong_body(playground):
    response = await playground.client.fetch(playground.origin.url("/hello"))
    if response.body != b"something else":
        raise Unexpected("the body is wrong")
    return "unreachable"

async def fine(playground):
    return "fine"

checks = [Check("status", wrong_status), Check("body", wrong_body), Check("fine", fine)]
sys.exit(run_demo(checks, backends=sys.argv[1:]))
"""

# A proxy that lets nobody through: the demo's own checks must see it.
LOCKED = """
import sys
import whimbrel.demo
from whimbrel.testing import ProxyServer

class Locked(ProxyServer):
    def __init__(self, username, password):
        super().__init__(username, password + "x")
    @property
    def url_with_credentials(self):
        return self.url.replace("//", "//alice:secret@")

whimbrel.demo.ProxyServer = Locked
sys.exit(whimbrel.demo.run_demo(fetches=5, backends=sys.argv[1:]))
"""

# A proxy that says it was never used, as if the client had gone past it.
UNUSED = """
import sys
import whimbrel.demo
from whimbrel.testing import ProxyServer

class Unused(ProxyServer):
    forward_count = property(lambda self: 0, lambda self, value: None)
    tunnel_count = property(lambda self: 0, lambda self, value: None)

whimbrel.demo.ProxyServer = Unused
sys.exit(whimbrel.demo.run_demo(fetches=5, backends=sys.argv[1:]))
"""


# One check, which takes no time.
SHORT = "import whimbrel.demo; whimbrel.demo.CHECKS = whimbrel.demo.CHECKS[-1:]\n"

# As if pycurl had not been installed.
WITHOUT_PYCURL = "import sys; sys.modules['pycurl'] = None\n"


# The servers of the examples on free ports: those of the pages may be taken here.
FREE_PORTS = """
import functools, whimbrel.demo as demo
demo.run_servers = functools.partial(demo.run_servers, ports=demo.Ports(0, 0, 0, 0))
"""


async def run(program: str, *arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", "-c", program, *arguments),
        env={
            "PYTHONPATH": str(Path(whimbrel.__file__).parents[1]),
            "http_proxy": "http://nowhere:1",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def without_debug_notes(err: str) -> str:
    # asyncio's debug mode tells of every step that took over 0.1 s; this machine may be busy.
    return "".join(line for line in err.splitlines(True) if not line.startswith("Executing <"))


def lines_of(out: str, backend: str) -> list[str]:
    return re.findall(rf"^(?:ok  |FAIL)  {backend} .*", out, re.MULTILINE)


@pytest.mark.slow
async def test_the_demo_passes_with_a_line_for_every_check_and_backend() -> None:
    """Without --backend on both, one after the other."""
    code, out, err = await run(PASSES)
    lines = out.splitlines()
    assert (code, without_debug_notes(err)) == (0, "")
    assert re.fullmatch(r"whimbrel \S+ demo", lines[0])
    checks = [line for line in lines if re.match(r"(ok|FAIL) ", line)]
    assert len(checks) == 2 * len(CHECKS)
    wanted = [(name, check.name) for name in ("curl", "simple") for check in CHECKS]
    for line, (backend, check) in zip(checks, wanted, strict=True):
        form = rf"ok    {backend} +{re.escape(check)} +[0-9]+\.[0-9] ms   \S.*"
        assert re.fullmatch(form, line), line
    assert len({line.index(" ms   ") for line in checks}) == 1  # aligned
    assert re.fullmatch(rf"{len(checks)} of {len(checks)} as they should be, .* s", lines[-1])
    assert out.count("200 bodies verified") == 4
    assert "share this one process" in out
    for error in ("Timeout", "Proxy"):
        assert f"Curl{error}Error at stage" in out
        assert f"HTTP{error}Error at stage" in out
    assert "secret" not in out


@pytest.mark.parametrize("backend", ["curl", "simple"])
async def test_the_demo_runs_on_the_backend_that_is_asked_for(backend: str) -> None:
    code, out, err = await run(SHORT + PASSES, "--backend", backend)
    assert (code, without_debug_notes(err)) == (0, "")
    assert len(lines_of(out, backend)) == 1
    assert out.splitlines()[-1].startswith("1 of 1 as they should be")


async def test_the_demo_without_libcurl() -> None:
    """It runs on what there is; a backend that is asked for must be there."""
    code, out, err = await run(WITHOUT_PYCURL + SHORT + PASSES)
    assert (code, without_debug_notes(err)) == (0, "")
    assert len(lines_of(out, "simple")) == 1
    assert out.splitlines()[-1].startswith("1 of 1 as they should be")
    for backend in ("curl", "both"):
        code, out, err = await run(WITHOUT_PYCURL + SHORT + PASSES, "--backend", backend)
        assert (code, out) == (4, "")
        assert without_debug_notes(err).startswith(
            "whimbrel: usage: the curl backend needs pycurl: pip install pycurl, or use"
            " --backend simple ("
        )
        assert err.count("\n") == 1


async def test_the_demo_fails_with_a_failing_check_and_runs_the_others() -> None:
    """A failure on one backend does not keep the other from its turn."""
    code, out, err = await run(BROKEN, "curl", "simple")
    assert (code, without_debug_notes(err)) == (1, "")
    for backend in ("curl", "simple"):
        status, body, fine = lines_of(out, backend)
        assert re.match(r"FAIL  \w+ +status .*HTTPError: HTTP 404: Not Found$", status)
        assert re.match(r"FAIL  \w+ +body .*the body is wrong$", body)
        assert re.match(r"ok    \w+ +fine .*fine$", fine)
    assert out.splitlines()[-1].startswith("2 of 6 as they should be")


@pytest.mark.parametrize("backend", ["curl", "simple"])
@pytest.mark.parametrize("program", [LOCKED, UNUSED])
async def test_the_demo_fails_when_the_proxy_has_no_part_in_it(program: str, backend: str) -> None:
    code, out, err = await run(program, backend)
    assert (code, without_debug_notes(err)) == (1, "")
    failed = re.findall(rf"^FAIL  {backend} +(.+?)  ", out, re.MULTILINE)
    assert failed == ["concurrent fetches through the proxy", "TLS through the proxy"]


# -- the servers of the examples


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
async def test_serving_the_examples(tmp_path: Path, end: signal.Signals) -> None:
    """It says what is where, and that is there; a signal ends it in order."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", "-c", FREE_PORTS + PASSES, "--serve"),
        env={"PYTHONPATH": str(Path(whimbrel.__file__).parents[1])},
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        told = (await process.stdout.readuntil(b"Ctrl-C ends it.\n")).decode()
        urls = re.findall(r"^  ([a-z0-9]+://localhost:\d+) ", told, re.MULTILINE)
        origin, secure, proxy, socks = urls
        assert f"{', '.join(FILES)} are in {tmp_path}\n" in told
        assert contents(tmp_path) == FILES
        async with AsyncHTTPClient(force_instance=True, trust_env=False) as client:
            assert (await client.fetch(f"{origin}/hello")).code == 200
            for one in (proxy, socks):
                response = await client.fetch(
                    f"{secure}/hello",
                    proxy=one.replace("://", "://alice:secret@"),
                    ca_certs=str(tmp_path / "ca.pem"),
                )
                assert response.code == 200
        process.send_signal(end)
        _, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert (process.returncode, without_debug_notes(err.decode())) == (0, "")


async def test_serving_where_it_cannot_be_done(tmp_path: Path) -> None:
    """A port or a name that is taken is one line, and nothing is left behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = FREE_PORTS.replace("(0, 0, 0, 0)", f"(0, 0, {port}, 0)") + PASSES
        code, out, err = await run(program, "--serve", str(tmp_path / "new"))
    reason = os.strerror(errno.EADDRINUSE)
    assert (code, out) == (1, "")
    assert without_debug_notes(err) == f"whimbrel: serve: port {port} of 127.0.0.1: {reason}\n"
    assert contents(tmp_path) == {}

    mine = tmp_path / "client.key"
    mine.write_text("my own")
    code, out, err = await run(FREE_PORTS + PASSES, "--serve", str(tmp_path))
    assert (code, out) == (1, "")
    message = f"whimbrel: serve: {mine}: there is another file of this name\n"
    assert without_debug_notes(err) == message
    assert mine.read_text() == "my own"
