"""`whimbrel demo` as a user runs it, and that it notices what goes wrong."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

import whimbrel
from whimbrel.demo import CHECKS

PASSES = "import sys; from whimbrel.cli import main; sys.exit(main(['demo']))"

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
sys.exit(run_demo(checks))
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
sys.exit(whimbrel.demo.run_demo(fetches=5))
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
sys.exit(whimbrel.demo.run_demo(fetches=5))
"""


async def run(program: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", "-c", program),
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


@pytest.mark.slow
async def test_the_demo_passes_with_a_line_for_every_check() -> None:
    code, out, err = await run(PASSES)
    lines = out.splitlines()
    assert (code, without_debug_notes(err)) == (0, "")
    assert re.fullmatch(r"whimbrel \S+ demo with \w+AsyncHTTPClient", lines[0])
    checks = [line for line in lines if re.match(r"(ok|FAIL) ", line)]
    assert len(checks) == len(CHECKS)
    for line, check in zip(checks, CHECKS, strict=True):
        assert re.fullmatch(rf"ok    {re.escape(check.name)} +[0-9]+\.[0-9] ms   \S.*", line), line
    assert len({line.index(" ms   ") for line in checks}) == 1  # aligned
    assert re.fullmatch(rf"{len(CHECKS)} of {len(CHECKS)} as they should be, .* s", lines[-1])
    assert "300 bodies verified" in checks[0]
    assert "TimeoutError at stage response" in out
    assert "ProxyError at stage proxy-auth" in out
    assert "ProxyError at stage proxy-connect" in out
    assert "secret" not in out


async def test_the_demo_fails_with_a_failing_check_and_runs_the_others() -> None:
    code, out, err = await run(BROKEN)
    assert (code, without_debug_notes(err)) == (1, "")
    assert re.search(r"^FAIL  status .*HTTPError: HTTP 404: Not Found$", out, re.MULTILINE)
    assert re.search(r"^FAIL  body .*the body is wrong$", out, re.MULTILINE)
    assert re.search(r"^ok    fine .*fine$", out, re.MULTILINE)
    assert out.splitlines()[-1].startswith("1 of 3 as they should be")


@pytest.mark.parametrize("program", [LOCKED, UNUSED])
async def test_the_demo_fails_when_the_proxy_has_no_part_in_it(program: str) -> None:
    code, out, err = await run(program)
    assert (code, without_debug_notes(err)) == (1, "")
    failed = re.findall(r"^FAIL  (.+?)  ", out, re.MULTILINE)
    assert failed == ["concurrent fetches through the proxy", "TLS through the proxy"]
