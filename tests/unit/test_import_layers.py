"""Who may import whom: the picture of the source tree as one dict, held against the imports.

A module without a place in `LAYERS` fails, and so does a place without a module.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import whimbrel

ROOT = Path(whimbrel.__file__).parent

POLICY = "whimbrel._policy"
CAPABILITIES = "whimbrel._curl.capabilities"
CONTRACT = "whimbrel.httpclient"
HTTPUTIL = "whimbrel.httputil"
DOWNLOAD = "whimbrel._download"
MEMORY = "whimbrel._memory"
UPLOAD = "whimbrel._upload"
HTTP1 = "whimbrel._http1"
IOSTREAM = "whimbrel.iostream"
CHANNEL = "whimbrel._connection"
CONNECTION = "whimbrel.http1connection"
SIMPLE = "whimbrel._simple"
TESTING = "whimbrel.testing"
BACKENDS = "whimbrel._backends"
READINESS = "whimbrel._readiness"
BUSY_POLL = "whimbrel._busy_poll"
WAKEUPS = "whimbrel._wakeups"
LOW_WATER = "whimbrel._low_water"
SEND_QUEUE = "whimbrel._send_queue"
KNOWN_HEADS = "whimbrel._known_heads"

# Module, or package for all that is in it -> what of ours it may import.
LAYERS: dict[str, set[str]] = {
    # Without anything of ours.
    "whimbrel._version": set(),
    "whimbrel.util": set(),
    "whimbrel._loops": set(),
    "whimbrel._streaming": set(),
    MEMORY: set(),
    "whimbrel._deadlines": set(),
    BUSY_POLL: set(),
    LOW_WATER: set(),
    SEND_QUEUE: set(),
    KNOWN_HEADS: set(),
    WAKEUPS: {"whimbrel._loops"},
    READINESS: {BUSY_POLL, WAKEUPS, "whimbrel._loops"},
    "whimbrel._curl": set(),
    "whimbrel._curl.room": set(),
    "whimbrel._curl.lanes": set(),
    "whimbrel._curl.pollers": {BUSY_POLL, WAKEUPS, "whimbrel._curl.lanes", "whimbrel._loops"},
    "whimbrel._curl.driver": {
        WAKEUPS,
        "whimbrel._curl.lanes",
        "whimbrel._curl.pollers",
        "whimbrel._curl.room",
        "whimbrel._loops",
    },
    CAPABILITIES: set(),
    # Pure decisions.
    HTTPUTIL: {"whimbrel.util"},
    POLICY: {POLICY, HTTPUTIL, "whimbrel._deadlines", "whimbrel.util"},
    # What both backends put bodies through.
    DOWNLOAD: {MEMORY, POLICY},
    UPLOAD: {POLICY},
    # The pipeline and the contract.
    "whimbrel._pipeline": set(),
    "whimbrel._pipeline.errors": {HTTPUTIL},
    "whimbrel._pipeline.request": {HTTPUTIL, POLICY, "whimbrel._version"},
    "whimbrel._pipeline.response": {
        HTTPUTIL,
        POLICY,
        "whimbrel._pipeline.errors",
        "whimbrel._pipeline.request",
    },
    "whimbrel._pipeline.reader": {"whimbrel._pipeline.response", "whimbrel._streaming"},
    "whimbrel._pipeline.fetch": {
        HTTPUTIL,
        POLICY,
        WAKEUPS,
        "whimbrel._pipeline.errors",
        "whimbrel._pipeline.request",
        "whimbrel._pipeline.response",
    },
    CONTRACT: {
        BACKENDS,
        BUSY_POLL,
        "whimbrel._pipeline.errors",
        "whimbrel._pipeline.fetch",
        "whimbrel._pipeline.reader",
        "whimbrel._pipeline.request",
        "whimbrel._pipeline.response",
        POLICY,
        "whimbrel._loops",
        WAKEUPS,
        "whimbrel.util",
    },
    "whimbrel": {"whimbrel._version"},
    # libcurl.
    "whimbrel._curl.tls": {CAPABILITIES, "whimbrel._curl", POLICY},
    "whimbrel._curl.options": {CAPABILITIES, "whimbrel._curl", "whimbrel._curl.tls", POLICY},
    "whimbrel._curl.errors": {"whimbrel._curl.driver", POLICY, CONTRACT},
    "whimbrel._curl.heads": {"whimbrel._curl.errors", POLICY, HTTPUTIL},
    "whimbrel._curl.handle": {
        CAPABILITIES,
        "whimbrel._curl",
        "whimbrel._curl.options",
        UPLOAD,
        POLICY,
    },
    "whimbrel._curl.stall": set(),
    "whimbrel._curl.large_body": {
        "whimbrel._curl.errors",
        "whimbrel._curl.handle",
        "whimbrel._curl.room",
        DOWNLOAD,
        LOW_WATER,
        POLICY,
    },
    "whimbrel._curl.transfer": {
        "whimbrel._curl.driver",
        "whimbrel._curl.errors",
        "whimbrel._curl.handle",
        "whimbrel._curl.heads",
        "whimbrel._curl.large_body",
        "whimbrel._curl.options",
        "whimbrel._curl.room",
        "whimbrel._curl.stall",
        DOWNLOAD,
        SEND_QUEUE,
        UPLOAD,
        POLICY,
        CONTRACT,
        HTTPUTIL,
    },
    "whimbrel.curl_httpclient": {
        CAPABILITIES,
        "whimbrel._curl",
        "whimbrel._curl.driver",
        "whimbrel._curl.errors",
        "whimbrel._curl.heads",
        "whimbrel._curl.transfer",
        KNOWN_HEADS,
        POLICY,
        CONTRACT,
    },
    # HTTP/1.1, for the simple backend and the server.
    HTTP1: {HTTP1, KNOWN_HEADS},
    "whimbrel._iostream": set(),
    IOSTREAM: {"whimbrel._iostream", "whimbrel._loops", READINESS},
    CHANNEL: {CHANNEL, HTTP1, IOSTREAM, POLICY, HTTPUTIL},
    CONNECTION: {CHANNEL, HTTP1, IOSTREAM, HTTPUTIL},
    # Pure Python.
    SIMPLE: {
        SIMPLE,
        HTTP1,
        IOSTREAM,
        DOWNLOAD,
        KNOWN_HEADS,
        LOW_WATER,
        READINESS,
        SEND_QUEUE,
        UPLOAD,
        POLICY,
        CONTRACT,
        HTTPUTIL,
    },
    "whimbrel.simple_httpclient": {
        SIMPLE,
        HTTP1,
        KNOWN_HEADS,
        "whimbrel._deadlines",
        READINESS,
        "whimbrel._loops",
        POLICY,
        CONTRACT,
    },
    # The server.
    "whimbrel.ioloop": {"whimbrel._loops"},
    "whimbrel._web": {"whimbrel._version", IOSTREAM, HTTPUTIL},
    "whimbrel.httpserver": {CONNECTION, IOSTREAM, "whimbrel.ioloop", "whimbrel._web", HTTPUTIL},
    "whimbrel.web": {"whimbrel._web", IOSTREAM, HTTPUTIL, "whimbrel.util"},
    # What is for people to run.
    BACKENDS: {"whimbrel.util"},
    TESTING: {
        TESTING,
        BACKENDS,
        CONNECTION,
        CONTRACT,
        DOWNLOAD,
        HTTP1,
        HTTPUTIL,
        POLICY,
        UPLOAD,
        "whimbrel.httpserver",
    },
    "whimbrel._cli": {"whimbrel._cli", "whimbrel._version", BACKENDS, CONTRACT, HTTPUTIL},
    "whimbrel.cli": {"whimbrel._cli", "whimbrel.demo", CONTRACT},
    "whimbrel.demo": {"whimbrel._version", BACKENDS, TESTING, CONTRACT},
    "whimbrel.__main__": {"whimbrel.cli"},
}

# Imports against the direction of the picture, allowed inside a function only.
UPWARD: set[tuple[str, str]] = {
    (CONTRACT, "whimbrel.curl_httpclient"),  # the default backend
    (CONTRACT, "whimbrel.simple_httpclient"),  # and the one that takes over without it
    ("whimbrel.web", "whimbrel.httpserver"),  # Application.listen()
    (CONTRACT, "whimbrel.cli"),  # main()
    ("whimbrel", CONTRACT),  # the names of `import whimbrel`, on demand
    ("whimbrel", HTTPUTIL),
    ("whimbrel", "whimbrel.ioloop"),
}

# Whoever imports what is neither ours nor the standard library's.
THIRD_PARTY: dict[str, set[str]] = {
    CAPABILITIES: {"pycurl", "certifi"},
    "whimbrel._curl.driver": {"pycurl"},
    "whimbrel._curl.lanes": {"pycurl"},
    "whimbrel._curl.pollers": {"pycurl"},
    "whimbrel._curl.errors": {"pycurl"},
    "whimbrel._curl.handle": {"pycurl"},
    "whimbrel._curl.large_body": {"pycurl"},
    "whimbrel._curl.options": {"pycurl"},
    "whimbrel._curl.tls": {"pycurl"},
    "whimbrel._curl.transfer": {"pycurl"},
    POLICY: {"idna"},
    SIMPLE: {"certifi"},
    TESTING: {"pytest", "pytest_asyncio"},  # of its fixtures only
}


class Import(NamedTuple):
    importer: str
    target: str
    in_function: bool


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES: dict[str, Path] = {module_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports_of(name: str) -> list[Import]:
    """All imports of a module but those for type checkers."""
    return [
        Import(name, target, inside)
        for node, inside in statements(ast.parse(MODULES[name].read_text()), False)
        for target in targets(name, node)
    ]


def statements(node: ast.AST, inside: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    children = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and is_type_checking(node.test):
        children = iter(node.orelse)
    for child in children:
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, inside
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from statements(child, inside or is_function)


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def targets(name: str, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    assert node.level == 0, f"{name} imports relatively; absolute imports are the rule here"
    assert node.module is not None
    for alias in node.names:
        full = f"{node.module}.{alias.name}"
        yield full if full in MODULES else node.module


def place_of(module: str) -> str | None:
    """The entry of `LAYERS` that a module belongs to: its own, or its package's."""
    if module in LAYERS:
        return module
    parent = module.rpartition(".")[0]
    # What is in these two has a place of its own each.
    return None if parent in ("", "whimbrel", "whimbrel._curl") else place_of(parent)


def top(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_module_has_a_place(name: str) -> None:
    assert place_of(name) is not None, f"{name}: give it a place in LAYERS"


@pytest.mark.parametrize("name", sorted(LAYERS.keys() | THIRD_PARTY.keys()))
def test_every_place_has_a_module(name: str) -> None:
    assert name in MODULES


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_only_what_its_place_allows(name: str) -> None:
    place = place_of(name)
    assert place is not None
    for found in imports_of(name):
        if top(found.target) != "whimbrel":
            continue
        target = place_of(found.target)
        if (place, target) in UPWARD and found.in_function:
            continue
        assert target in LAYERS[place], f"{name} imports {found.target}"


@pytest.mark.parametrize(("importer", "target"), sorted(UPWARD))
def test_every_upward_import_is_needed(importer: str, target: str) -> None:
    found = [found for found in imports_of(importer) if found.target == target]
    assert found, "no longer there: take it out of UPWARD"
    assert all(one.in_function for one in found)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_third_party_imports(name: str) -> None:
    place = place_of(name)
    found = {top(found.target) for found in imports_of(name)}
    others = found - set(sys.stdlib_module_names) - {"whimbrel"}
    assert others <= THIRD_PARTY.get(place or "", set())


def test_third_party_places_are_needed() -> None:
    found: dict[str, set[str]] = {}
    for name in MODULES:
        for one in imports_of(name):
            if top(one.target) not in {*sys.stdlib_module_names, "whimbrel"}:
                found.setdefault(place_of(name) or name, set()).add(top(one.target))
    assert found == THIRD_PARTY


def test_pycurl_is_for_the_backend_alone() -> None:
    users = {
        name for name in MODULES if any(top(found.target) == "pycurl" for found in imports_of(name))
    }
    assert users
    assert all(
        name.startswith("whimbrel._curl.") or name == "whimbrel.curl_httpclient" for name in users
    )


def test_modules_imported_by_name_are_optional_and_known() -> None:
    """`importlib` would slip past all of the above: two modules use it, one with fixed names."""
    users = {name for name in MODULES if any(f.target == "importlib" for f in imports_of(name))}
    assert users == {"whimbrel._policy.decoding", "whimbrel.util"}
    strings = {
        node.value
        for node in ast.walk(ast.parse(MODULES["whimbrel._policy.decoding"].read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert {"brotli", "brotlicffi"} <= strings
    # util.import_object imports what the caller of configure() names, or _backends by name.
    for name in MODULES.keys() - {"whimbrel._policy.decoding", "whimbrel.util", BACKENDS}:
        assert not {
            ast.unparse(node.func)
            for node in ast.walk(ast.parse(MODULES[name].read_text()))
            if isinstance(node, ast.Call)
        } & {"__import__", "import_object", "importlib.import_module", "import_module"}


def test_the_reader_of_imports_sees_them_all() -> None:
    """The tests above are worth what `statements` finds."""
    source = """
    import a
    from typing import TYPE_CHECKING
    if TYPE_CHECKING:
        import hidden
    else:
        import b
    try:
        import c
    except ImportError:
        import d
    class K:
        import e
        def method(self):
            with self:
                import f
    async def run():
        from g import h
    """
    found = [
        (target, inside)
        for node, inside in statements(ast.parse(textwrap.dedent(source)), False)
        for target in targets("some", node)
    ]
    assert found == [
        ("a", False),
        ("typing", False),
        ("b", False),
        ("c", False),
        ("d", False),
        ("e", False),
        ("f", True),
        ("g", True),
    ]


# -- what that is good for


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_contract_needs_no_pycurl() -> None:
    output = run(
        """
        import sys
        sys.modules["pycurl"] = None
        import whimbrel.httpclient
        whimbrel.httpclient.HTTPRequest("http://example.com/")
        print(type(whimbrel.httpclient.AsyncHTTPClient()).__name__)
        """
    )
    assert output == "SimpleAsyncHTTPClient\n"


WITHOUT_PYCURL = sorted(
    name for name in MODULES if not name.startswith(("whimbrel._curl", "whimbrel.curl_httpclient"))
)


@pytest.mark.parametrize("module", WITHOUT_PYCURL)
def test_nothing_else_needs_pycurl(module: str) -> None:
    run(f"import sys; sys.modules['pycurl'] = None; import {module}")


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import whimbrel", ("pycurl", "ssl", "asyncio", "http.cookiejar", "idna", "certifi")),
        ("import whimbrel.httpclient", ("pycurl", "http.cookiejar", "http.cookies", "idna")),
        ("import whimbrel.curl_httpclient", ("http.cookiejar", "idna", "certifi", "brotli")),
    ],
)
def test_what_an_import_does_not_load(statement: str, absent: tuple[str, ...]) -> None:
    loaded = set(run(f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))").split())
    assert "whimbrel" in loaded
    assert not loaded & set(absent)
