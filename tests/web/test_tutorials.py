"""The tutorials for Tornado's client and server, word for word but for the package's name.

Each runs as a program of its own. Before it runs, the hosts that it names are mapped to a server on
loopback, by `configure`; of the server's program the port is another one.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from whimbrel.httpserver import HTTPServer
from whimbrel.ioloop import IOLoop
from whimbrel.web import Application, RequestHandler

# Maps the hosts, then runs the file as `python FILE` would.
RUN = """\
import runpy, sys
from whimbrel.httpclient import AsyncHTTPClient
path, port = sys.argv[1], int(sys.argv[2])
AsyncHTTPClient.configure(None, hostname_mapping={
    (host, 80): ("127.0.0.1", port) for host in ("example.com", "www.google.com")
})
runpy.run_path(path, run_name="__main__")
"""

# -- tutorial: Tornado's async client

SIMPLE_GET = """\
import tornado.httpclient

async def fetch_data():
    http_client = tornado.httpclient.AsyncHTTPClient()
    response = await http_client.fetch("http://example.com")
    print(response.body)

tornado.ioloop.IOLoop.current().run_sync(fetch_data)
"""

HANDLING_ERRORS = """\
import tornado.httpclient

async def fetch_data():
    http_client = tornado.httpclient.AsyncHTTPClient()
    try:
        response = await http_client.fetch("http://example.com")
    except tornado.httpclient.HTTPError as e:
        print("Error: " + str(e))
    else:
        print(response.body)

tornado.ioloop.IOLoop.current().run_sync(fetch_data)
"""

POST = """\
import tornado.httpclient

async def fetch_data():
    http_client = tornado.httpclient.AsyncHTTPClient()
    request = tornado.httpclient.HTTPRequest(
        url="http://example.com",
        method="POST",
        body='Your data here'
    )
    response = await http_client.fetch(request)
    print(response.body)

tornado.ioloop.IOLoop.current().run_sync(fetch_data)
"""

# -- tutorial: Tornado's HTTP client and server module

SERVER = """\
import tornado.httpserver
import tornado.ioloop
import tornado.web

class MainHandler(tornado.web.RequestHandler):
    def get(self):
        self.write("Hello, world")

def make_app():
    return tornado.web.Application([
        (r"/", MainHandler),
    ])

if __name__ == "__main__":
    app = make_app()
    http_server = tornado.httpserver.HTTPServer(app)
    http_server.listen(8888)
    tornado.ioloop.IOLoop.current().start()
"""

SERVER_OPTIONS = """\
http_server = tornado.httpserver.HTTPServer(app, max_buffer_size=50485760)
"""

CLIENT = """\
from tornado import httpclient

def handle_response(response):
    if response.error:
        print("Error: %s" % response.error)
    else:
        print(response.body)

http_client = httpclient.AsyncHTTPClient()
http_client.fetch("http://www.google.com", handle_response)
"""

CLIENT_OPTIONS = """\
from tornado import httpclient

http_client = httpclient.AsyncHTTPClient(defaults=dict(request_timeout=20.0))
"""

# -- documentation of httpclient 2.x, with Python 3's print and except

BLOCKING = """\
from tornado import httpclient

http_client = httpclient.HTTPClient()
try:
    response = http_client.fetch("http://www.google.com/")
    print(response.body)
except httpclient.HTTPError as e:
    print("Error:", e)
"""

NON_BLOCKING = """\
from tornado.httpclient import AsyncHTTPClient
from tornado import ioloop

def handle_request(response):
    if response.error:
        print("Error:", response.error)
    else:
        print(response.body)
    ioloop.IOLoop.instance().stop()

http_client = AsyncHTTPClient()
http_client.fetch("http://www.google.com/", handle_request)
ioloop.IOLoop.instance().start()
"""


class Site(RequestHandler):
    """What the tutorials fetch."""

    def get(self) -> None:
        self.set_status(200 if self.settings["healthy"] else 404)
        self.write(f"GET {self.request.full_url()}")

    def post(self) -> None:
        self.write(f"POST {self.request.full_url()} ")
        self.write(self.request.body)


@pytest.fixture
def site() -> Iterator[dict[str, int]]:
    """Our own server, with a page where all is well and one where nothing is found."""
    loop = IOLoop(make_current=False)
    ports: dict[str, int] = {}
    ready = threading.Event()

    async def start() -> list[HTTPServer]:
        found = []
        for name, healthy in (("well", True), ("ill", False)):
            # Its own log is no matter of the tutorials'.
            application = Application([(r"/", Site)], healthy=healthy, log_function=id)
            found.append(application.listen(0, "127.0.0.1"))
            ports[name] = found[-1].port
        return found

    async def end(servers: list[HTTPServer]) -> None:
        for server in servers:
            server.stop()
            await server.close_all_connections()

    def serve() -> None:
        servers = loop.run_sync(start)
        ready.set()
        loop.start()
        loop.run_sync(lambda: end(servers))

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(10)
    yield ports
    loop.add_callback(loop.stop)
    thread.join()
    loop.close()


def run(tutorial: str, port: int, tmp_path: Path, after: str = "") -> str:
    """Run a tutorial, and what is to come `after` it; its output. Nothing may go to stderr."""
    file = tmp_path / "tutorial.py"
    file.write_text(tutorial.replace("tornado", "whimbrel") + after)
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environment.pop("PYTHONASYNCIODEBUG", None)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(file), str(port)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_simple_get(site: dict[str, int], tmp_path: Path) -> None:
    assert run(SIMPLE_GET, site["well"], tmp_path) == "b'GET http://example.com/'\n"


def test_handling_errors(site: dict[str, int], tmp_path: Path) -> None:
    assert run(HANDLING_ERRORS, site["well"], tmp_path) == "b'GET http://example.com/'\n"
    assert run(HANDLING_ERRORS, site["ill"], tmp_path) == "Error: HTTP 404: Not Found\n"


def test_post(site: dict[str, int], tmp_path: Path) -> None:
    assert run(POST, site["well"], tmp_path) == "b'POST http://example.com/ Your data here'\n"


def test_blocking_client(site: dict[str, int], tmp_path: Path) -> None:
    assert run(BLOCKING, site["well"], tmp_path) == "b'GET http://www.google.com/'\n"
    assert run(BLOCKING, site["ill"], tmp_path) == "Error: HTTP 404: Not Found\n"


def test_non_blocking_client(site: dict[str, int], tmp_path: Path) -> None:
    """The fetch is begun before there is a loop."""
    assert run(NON_BLOCKING, site["well"], tmp_path) == "b'GET http://www.google.com/'\n"
    assert run(NON_BLOCKING, site["ill"], tmp_path) == "Error: HTTP 404: Not Found\n"


# handle_response prints; stops the loop that the tutorial leaves to the reader.
UNTIL_PRINTED = """
import builtins
from whimbrel import ioloop

def print(*args):
    builtins.print(*args)
    ioloop.IOLoop.current().stop()

ioloop.IOLoop.current().start()
"""


def test_client_with_a_callback(site: dict[str, int], tmp_path: Path) -> None:
    """As it stands no loop is started, and nothing happens; with one, the callback is called."""
    assert run(CLIENT, site["well"], tmp_path) == ""
    output = run(CLIENT, site["well"], tmp_path, UNTIL_PRINTED)
    assert output == "b'GET http://www.google.com/'\n"
    output = run(CLIENT, site["ill"], tmp_path, UNTIL_PRINTED)
    assert output == "Error: HTTP 404: Not Found\n"


def test_client_options(site: dict[str, int], tmp_path: Path) -> None:
    after = "print(http_client.defaults['request_timeout'])"
    assert run(CLIENT_OPTIONS, site["well"], tmp_path, after) == "20.0\n"


@pytest.fixture
async def tutorial_server(tmp_path: Path) -> AsyncIterator[int]:
    """The tutorial's server as a process of its own; its port."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    file = tmp_path / "server.py"
    options = SERVER.replace(
        "http_server.listen", SERVER_OPTIONS.strip() + "\n    http_server.listen"
    )
    file.write_text(options.replace("tornado", "whimbrel").replace("8888", str(port)))
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(file), stderr=asyncio.subprocess.PIPE
    )
    yield port
    process.terminate()
    _, err = await process.communicate()
    assert err == b""


async def test_server(tutorial_server: int) -> None:
    """It listens on its port, and says hello."""
    for _ in range(200):
        try:
            reader, writer = await asyncio.open_connection("localhost", tutorial_server)
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)
        else:
            break
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).endswith(b"\r\n\r\nHello, world")
    writer.close()
    await writer.wait_closed()
