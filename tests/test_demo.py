"""`whimbrel demo` as a user runs it, and that it notices what goes wrong."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

import whimbrel
from whimbrel.demo import CHECKS

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
        assert re.fullmatch(r"whimbrel: usage: .*pycurl.*\n", without_debug_notes(err))


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
