"""The pytest plugin, in pytest runs of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

import whimbrel
from whimbrel._backends import loadable

pytest_plugins = ["pytester"]

SOURCE = Path(whimbrel.__file__).parents[1]
CONFTEST = 'pytest_plugins = ["whimbrel.testing.fixtures"]'

# What there is to use, without a marker in auto mode, with `pytestmark` in strict mode.
TESTS = """
import pytest
from whimbrel import AsyncHTTPClient, HTTPClient
from whimbrel.httpclient import HTTPProxyError
from whimbrel.testing import LOCALHOST_CERTIFICATE, MockResponse, UnexpectedRequest, pattern

async def test_origin(http_client, whimbrel_backend, origin_server):
    response = await http_client.fetch(origin_server.url("/bytes/10"))
    assert response.body == pattern(10)
    assert origin_server.request_count == 1
    assert type(http_client).__name__.lower().startswith(whimbrel_backend)

async def test_configured(http_client):
    assert type(AsyncHTTPClient()) is type(http_client)

async def test_tls_and_proxy(http_client, secure_origin_server, proxy_server):
    response = await http_client.fetch(
        secure_origin_server.url("/hello"),
        proxy=proxy_server.url,
        ca_certs=LOCALHOST_CERTIFICATE,
    )
    assert response.code == 200
    assert proxy_server.tunnel_count == 1

async def test_mock(mock_http):
    mock_http.route("GET", "http://api.test/", MockResponse(json=[1]))
    assert (await AsyncHTTPClient().fetch("http://api.test/")).json() == [1]
    with pytest.raises(UnexpectedRequest):
        await AsyncHTTPClient().fetch("http://api.test/other")
    mock_http.unexpected.clear()

def test_mock_without_a_loop(mock_http):
    mock_http.route("GET", "http://api.test/", MockResponse(json=[2]))
    with HTTPClient() as client:
        assert client.fetch("http://api.test/").json() == [2]
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A user's project that loads the plugin."""
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    # Nothing may depend on it: clients of the fixture do not look there.
    monkeypatch.setenv("http_proxy", "http://nowhere.test:1")
    pytester.makeconftest(CONFTEST)
    return pytester


def run(
    project: pytest.Pytester, mode: str, *options: str, scope: str = "function"
) -> pytest.RunResult:
    settings = (
        f"asyncio_mode={mode}",
        f"asyncio_default_fixture_loop_scope={scope}",
        f"asyncio_default_test_loop_scope={scope}",
    )
    arguments = [argument for setting in settings for argument in ("-o", setting)]
    return project.runpytest_subprocess(
        "-p", "no:cacheprovider", "-W", "error", *arguments, *options
    )


@pytest.mark.parametrize("scope", ["function", "session"])
@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_in_both_modes_of_pytest_asyncio(project: pytest.Pytester, mode: str, scope: str) -> None:
    """And with a loop for each test, or one for all."""
    tests = TESTS
    if mode == "strict":
        tests = tests.replace("async def", "@pytest.mark.asyncio\nasync def")
    project.makepyfile(tests)
    result = run(project, mode, scope=scope)
    result.assert_outcomes(passed=3 * len(loadable()) + 2)


def test_a_test_runs_once_for_each_backend(project: pytest.Pytester) -> None:
    project.makepyfile("async def test_it(http_client): pass")
    result = run(project, "auto", "-v")
    result.stdout.fnmatch_lines(["*::test_it[[]curl] PASSED*"])
    result.assert_outcomes(passed=len(loadable()))


def test_backends_can_be_chosen(project: pytest.Pytester) -> None:
    """By redefining the fixture that the client depends on."""
    project.makepyfile(
        """
        import pytest

        @pytest.fixture(params=["curl"])
        def whimbrel_backend(request):
            return request.param

        async def test_it(http_client): pass
        """
    )
    run(project, "auto").assert_outcomes(passed=1)


def test_a_backend_that_cannot_be_imported_is_left_out(project: pytest.Pytester) -> None:
    """With pycurl broken, collecting still works."""
    project.makepyfile(pycurl="raise ImportError('broken')")
    project.makepyfile("async def test_it(http_client, origin_server): pass")
    result = run(project, "auto", "-v")
    assert "[curl]" not in result.stdout.str()
    assert result.ret == pytest.ExitCode.OK


def test_servers_answer_code_that_blocks(project: pytest.Pytester) -> None:
    """Without a loop, and on the loop of the test, which stands still meanwhile."""
    project.makepyfile(
        """
        import threading
        import pytest
        from whimbrel import HTTPClient
        from whimbrel.testing import LOCALHOST_CERTIFICATE

        def fetch(secure_origin_server, proxy_server):
            with HTTPClient(trust_env=False) as client:
                response = client.fetch(
                    secure_origin_server.url("/stream/100000"),
                    proxy=proxy_server.url,
                    ca_certs=LOCALHOST_CERTIFICATE,
                    request_timeout=10,
                )
            assert len(response.body) == 100_000
            assert secure_origin_server.request_count == proxy_server.tunnel_count == 1

        def test_without_a_loop(secure_origin_server, proxy_server):
            fetch(secure_origin_server, proxy_server)

        async def test_on_the_loop_of_the_test(secure_origin_server, proxy_server):
            fetch(secure_origin_server, proxy_server)

        async def test_closing_one_early(origin_server, http_client):
            url = origin_server.url("/hello")
            await http_client.fetch(url)
            await origin_server.close()
            with pytest.raises(ConnectionRefusedError):
                await http_client.fetch(url)

        def test_no_thread_is_left():
            assert threading.enumerate() == [threading.main_thread()]
        """
    )
    run(project, "auto").assert_outcomes(passed=3 + len(loadable()))


def test_a_swallowed_unexpected_request_fails_the_test(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        from whimbrel import AsyncHTTPClient

        async def swallow():
            try:
                await AsyncHTTPClient().fetch("http://api.test/")
            except BaseException:
                pass

        async def test_swallowed(mock_http):
            await swallow()

        async def test_expected(mock_http):
            await swallow()
            mock_http.unexpected.clear()
        """
    )
    result = run(project, "auto")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*UnexpectedRequest: no route for GET http://api.test/*"])


def test_without_pytest_asyncio(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy is named."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    project.makepyfile(pytest_asyncio="raise ModuleNotFoundError(name='pytest_asyncio')")
    result = project.runpytest_subprocess("-p", "no:cacheprovider")
    result.stderr.fnmatch_lines(["*needs pytest-asyncio: pip install pytest-asyncio*"])
    assert result.ret != pytest.ExitCode.OK


def test_the_client_is_closed_and_the_configuration_restored(project: pytest.Pytester) -> None:
    """Whatever the test does: its failure, too, leaves nothing to the next one."""
    project.makepyfile(
        """
        from whimbrel import AsyncHTTPClient

        kept = []
        before = AsyncHTTPClient._save_configuration()

        async def test_fails(http_client):
            kept.append(http_client)
            raise ValueError

        def test_mock_fails(mock_http):
            raise ValueError

        def test_after():
            assert all(client._closed for client in kept)
            assert AsyncHTTPClient._save_configuration() == before
        """
    )
    run(project, "auto").assert_outcomes(passed=1, failed=len(loadable()) + 1)


def test_pytest_is_needed_by_the_plugin_only(project: pytest.Pytester) -> None:
    """The rest of whimbrel.testing is imported where there is no pytest."""
    program = (
        "import sys; sys.modules['pytest'] = sys.modules['pytest_asyncio'] = None;"
        "import whimbrel.testing.misbehaving, whimbrel.testing.scripted"
    )
    assert project.runpython_c(program).ret == 0
