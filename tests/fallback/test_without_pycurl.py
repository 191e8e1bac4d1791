"""pycurl missing or broken, in real processes: pure Python takes over, one log line says why."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

import whimbrel
from whimbrel._cli.failures import Exit
from whimbrel.testing import OriginServer

SOURCE = str(Path(whimbrel.__file__).parents[1])
# What whimbrel runs on without pycurl: docs/backends.md says to install these.
NEEDED = ("certifi", "idna")


class Broken(NamedTuple):
    """One way for pycurl not to be there.

    Attributes:
        module: what is found as ``pycurl.py``; None where there is no such module at all.
        reason: what the log line is to say.
    """

    module: str | None
    reason: str


WAYS = {
    "absent": Broken(None, "No module named 'pycurl'"),
    "no library": Broken(
        "raise ImportError('libcurl.so.4: cannot open shared object file')",
        "libcurl.so.4: cannot open shared object file",
    ),
    "other version": Broken(
        "raise ImportError('pycurl: libcurl link-time version (7.68.0) is older than"
        " compile-time version (8.5.0)')",
        "link-time version (7.68.0) is older than compile-time version (8.5.0)",
    ),
    "system error": Broken("raise OSError('cannot allocate memory')", "cannot allocate memory"),
    "no names": Broken("version = 'PycURL/7.19.5'", "module 'pycurl' has no attribute"),
    "blocked": Broken(
        "import sys; sys.modules['pycurl'] = None; import pycurl", "None in sys.modules"
    ),
}


class Python(NamedTuple):
    """An interpreter in which pycurl cannot be imported."""

    command: list[str]
    environment: dict[str, str]
    reason: str

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `program`, warnings being errors."""
        return self._run("-c", PREAMBLE + textwrap.dedent(program), *arguments)

    def module(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``python -m name``."""
        return self._run("-m", name, *arguments)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture(params=WAYS)
def python(request: pytest.FixtureRequest, tmp_path: Path) -> Python:
    """An interpreter for each way in which pycurl may be missing."""
    way = WAYS[request.param]
    folder = tmp_path / "modules"
    folder.mkdir()
    command = [sys.executable, "-W", "error"]
    if way.module is None:
        # Without site-packages, so that pycurl is really not there.
        command.append("-S")
        for name in NEEDED:
            spec = find_spec(name)
            assert spec is not None
            assert spec.origin is not None
            (folder / name).symlink_to(Path(spec.origin).parent)
    else:
        (folder / "pycurl.py").write_text(way.module)
    path = os.pathsep.join((str(folder), SOURCE))
    return Python(command, environment(path), way.reason)


def environment(path: str) -> dict[str, str]:
    """This process's, without what Python and whimbrel read from it, and with `path`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.startswith(("PYTHON", "WHIMBREL_"))
    }
    return {**kept, "PYTHONPATH": path, "LC_ALL": "C.UTF-8"}


# Notes who asks for pycurl, and keeps what is logged.
PREAMBLE = """
import logging, sys

asked = []

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "pycurl":
            asked.append(name)

sys.meta_path.insert(0, Watch())
records = []

class Keep(logging.Handler):
    def emit(self, record):
        records.append((record.name, record.levelname, record.getMessage()))

logging.getLogger().addHandler(Keep())
logging.getLogger().setLevel(logging.DEBUG)
logging.getLogger("asyncio").setLevel(logging.INFO)  # it tells which selector it uses
"""


@pytest.fixture
def told(python: Python) -> Callable[[str], None]:
    """Check that a text is the one line which says that, and why, pure Python runs."""

    def check(text: str) -> None:
        assert "AsyncHTTPClient runs in pure Python" in text
        assert python.reason in text
        assert len(text.strip().splitlines()) == 1

    return check


def answers_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What a program that ran well has printed, line by line."""
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_imports_do_not_ask_for_pycurl(python: Python) -> None:
    """Neither whimbrel nor any module of its public interface, the curl backend's own apart."""
    program = """
        import whimbrel, whimbrel.httpclient, whimbrel.simple_httpclient, whimbrel.httputil
        import whimbrel.iostream, whimbrel.http1connection, whimbrel.httpserver, whimbrel.web
        import whimbrel.ioloop, whimbrel.util, whimbrel.cli, whimbrel.demo, whimbrel.testing
        from whimbrel import AsyncHTTPClient, HTTPClient, HTTPRequest
        AsyncHTTPClient.configure("whimbrel.simple_httpclient.SimpleAsyncHTTPClient")
        print(asked, records)
    """
    assert answers_of(python.run(program)) == ["[] []"]


async def test_the_simple_backend_takes_over(python: Python, told: Callable[[str], None]) -> None:
    """Shared and private clients, in several loops, and HTTPClient; one WARNING for all of them."""
    program = """
        import asyncio
        from whimbrel import AsyncHTTPClient, HTTPClient

        url = sys.argv[1]

        async def main():
            shared = AsyncHTTPClient()
            print(type(shared).__module__, type(shared).__name__)
            first = await shared.fetch(url + "/hello")
            async with AsyncHTTPClient(force_instance=True) as private:
                second = await private.fetch(url + "/echo", method="POST", json={"a": 1})
                again = await private.fetch(url + "/hello")
            print(first.code, second.json()["body"], again.reused)

        for _ in range(2):
            asyncio.run(main())
        with HTTPClient() as blocking:
            print(blocking.fetch(url + "/hello").body)
        # Configured anew, it is chosen anew; that is no news.
        AsyncHTTPClient.configure(None, max_clients=3)
        async def configured():
            print(type(AsyncHTTPClient()).__name__, AsyncHTTPClient().max_clients)
        asyncio.run(configured())
        for name, level, text in records:
            print(name, level, text)
        assert not hasattr(sys.modules.get("pycurl"), "Curl")
    """
    async with OriginServer() as server:
        lines = answers_of(await asyncio.to_thread(python.run, program, server.url("")))
    assert lines[:2] == [
        "whimbrel.simple_httpclient SimpleAsyncHTTPClient",
        '200 {"a":1} True',
    ]
    assert lines[2:4] == lines[:2]
    assert lines[4:6] == ["b'Hello from whimbrel\\n'", "SimpleAsyncHTTPClient 3"]
    assert len(lines) == 7
    assert lines[6].startswith("whimbrel WARNING ")
    told(lines[6])


async def test_naming_the_curl_backend_raises(python: Python) -> None:
    """Who insists on libcurl is told so; what was configured before stays."""
    program = """
        import asyncio
        from whimbrel import AsyncHTTPClient

        SIMPLE = "whimbrel.simple_httpclient.SimpleAsyncHTTPClient"
        CURL = "whimbrel.curl_httpclient.CurlAsyncHTTPClient"
        AsyncHTTPClient.configure(SIMPLE)
        for attempt in range(2):
            try:
                AsyncHTTPClient.configure(CURL)
            except ImportError as error:
                print(error)
        try:
            import whimbrel.curl_httpclient
        except ImportError as error:
            print(error)

        async def main():
            client = AsyncHTTPClient()
            print(type(client).__name__, (await client.fetch(sys.argv[1] + "/hello")).code)
            try:
                await client.fetch(sys.argv[1] + "/hello", http_version="2")
            except NotImplementedError as error:
                print(CURL in str(error))

        asyncio.run(main())
        print(records)
    """
    async with OriginServer() as server:
        lines = answers_of(await asyncio.to_thread(python.run, program, server.url("")))
    assert len(lines) == 6
    assert all(python.reason in line for line in lines[:3])
    assert lines[3:] == ["SimpleAsyncHTTPClient 200", "True", "[]"]


async def test_the_simple_backend_asks_for_no_pycurl(python: Python) -> None:
    """Chosen by name, or made directly, it runs without a look at pycurl, and says nothing."""
    program = """
        import asyncio
        from whimbrel import AsyncHTTPClient
        from whimbrel.simple_httpclient import SimpleAsyncHTTPClient

        AsyncHTTPClient.configure(SimpleAsyncHTTPClient)

        async def main():
            async with SimpleAsyncHTTPClient(force_instance=True) as client:
                for own in (client, AsyncHTTPClient()):
                    print((await own.fetch(sys.argv[1] + "/gzip")).code)

        asyncio.run(main())
        print(asked, records)
    """
    async with OriginServer() as server:
        lines = answers_of(await asyncio.to_thread(python.run, program, server.url("")))
    assert lines == ["200", "200", "[] []"]


async def test_the_command_line(python: Python, told: Callable[[str], None]) -> None:
    """It fetches, and says in one line why with the simple backend; --backend simple says nothing,
    and what needs libcurl fails with a line of its own."""
    async with OriginServer() as server:
        url = server.url("/hello")
        for module in ("whimbrel", "whimbrel.httpclient"):
            done = await asyncio.to_thread(python.module, module, url)
            assert (done.returncode, done.stdout.strip()) == (Exit.OK, "Hello from whimbrel")
            told(done.stderr)
        done = await asyncio.to_thread(python.module, "whimbrel", "--backend", "simple", url)
        assert (done.returncode, done.stdout) == (Exit.OK, "Hello from whimbrel\n")
        assert done.stderr == ""
        for backend in ("curl", "simple"):
            version = ["--http2"] if backend == "simple" else []
            done = await asyncio.to_thread(
                python.module, "whimbrel", "--backend", backend, *version, url
            )
            assert (done.returncode, done.stdout) == (Exit.CAPABILITY, "")
            assert len(done.stderr.splitlines()) == 1
            assert (python.reason if backend == "curl" else "--backend curl") in done.stderr


# -- and with pycurl


@pytest.fixture
def everything() -> Python:
    """This very interpreter, in which pycurl works."""
    return Python([sys.executable, "-W", "error"], environment(SOURCE), "")


async def test_with_pycurl_the_default_is_libcurl(everything: Python) -> None:
    """Without a word; and pycurl is not imported before a client needs it, or by the simple one."""
    program = """
        import asyncio
        from whimbrel import AsyncHTTPClient, HTTPRequest
        from whimbrel.simple_httpclient import SimpleAsyncHTTPClient

        async def main():
            async with SimpleAsyncHTTPClient(force_instance=True) as client:
                await client.fetch(sys.argv[1] + "/hello")
            print(asked, "pycurl" in sys.modules)
            client = AsyncHTTPClient()
            print(type(client).__name__, (await client.fetch(sys.argv[1] + "/hello")).code)
            client.close()

        asyncio.run(main())
        print(sorted(set(asked)), records)
    """
    async with OriginServer() as server:
        lines = answers_of(await asyncio.to_thread(everything.run, program, server.url("")))
    assert lines == ["[] False", "CurlAsyncHTTPClient 200", "['pycurl'] []"]


def test_a_libcurl_that_is_too_old_for_us() -> None:
    """It is found out when the backend is chosen, not at the first fetch."""
    older = "import pycurl; pycurl.version_info = lambda: (9, '7.67.0', 0x074300)\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", older + WHICH],
        env=environment(SOURCE),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "SimpleAsyncHTTPClient\n", done.stderr
    assert "whimbrel needs libcurl 7.68.0 or newer" in done.stderr


WHICH = "from whimbrel import AsyncHTTPClient; print(type(AsyncHTTPClient()).__name__)"
