"""The options of `whimbrel URL…`: curl's names, where curl has them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn
from urllib.parse import unquote

from whimbrel._backends import BACKENDS
from whimbrel._cli.failures import Exit, Failure
from whimbrel._cli.secrets import (
    PASSWORD_VARIABLE,
    PROXY_PASSWORD_VARIABLE,
    Argument,
    credentials,
    hide,
)
from whimbrel._version import __version__

_FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Options:
    """What to fetch and what to do with it.

    Attributes:
        urls: as given, some without a scheme.
        outputs: one file name per URL, "-" for stdout; empty: all to stdout.
        backend: the name of a backend; None is the default one.
        request: keyword arguments for `HTTPRequest`, the same for every URL.
        include: print the response's header lines before the body.
        follow, fail, timing, verbose, silent: as the options of these names.
    """

    urls: Sequence[str]
    outputs: Sequence[str] = ()
    backend: str | None = None
    request: dict[str, Any] = field(default_factory=dict)
    include: bool = False
    follow: bool = False
    fail: bool = False
    timing: bool = False
    verbose: bool = False
    silent: bool = False


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print two lines and leave."""

    def error(self, message: str) -> NoReturn:
        raise Failure(Exit.USAGE, "usage", f"{message}; see {self.prog} --help")


class _Data(argparse.Action):
    """Collects -d and --data-binary in the order given, with the option's name."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        pieces = getattr(namespace, self.dest) or []
        setattr(namespace, self.dest, [*pieces, (option_string == "--data-binary", values)])


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value


_seconds.__name__ = "number of seconds"


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    return int(text)


_count.__name__ = "number"


def _exit_codes() -> str:
    rows = [f"  {code.value:>3}  {code.meaning}" for code in Exit]
    return "\n".join(["exit codes (of the first URL that failed):", *rows])


def _parser() -> _Parser:
    parser = _Parser(
        prog="whimbrel",
        usage="whimbrel [options] URL...\n       whimbrel demo [--backend NAME | --serve [FOLDER]]",
        description="Fetch URLs over HTTP, through proxies if asked to. `whimbrel demo` shows what "
        "it does, on loopback; `whimbrel demo --serve` runs the servers of the examples.",
        epilog=f"""environment:
  {PASSWORD_VARIABLE}        the password, where -u gives a user name only
  {PROXY_PASSWORD_VARIABLE}  the password, where -U or the -x URL gives a user name only
  http_proxy, https_proxy, all_proxy, no_proxy
                           the proxy, where -x is not given

{_exit_codes()}""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("urls", nargs="*", metavar="URL", help="http or https; http:// where the scheme is missing")
    add("--version", action="store_true", help="print the version and exit")

    group = parser.add_argument_group("request").add_argument
    group("-X", "--request", metavar="METHOD", help="GET; POST with -d")
    group("-I", "--head", action="store_true", help="send HEAD, print the header lines")
    group(
        "-H", "--header", action="append", default=[], metavar="LINE", dest="headers",
        help="'Name: value', or 'Name;' for an empty value; @FILE reads lines from a file",
    )  # fmt: skip
    group(
        "-d", "--data", action=_Data, metavar="DATA",
        help="the body; @FILE is a file without its line ends, @- stdin; several join with &",
    )  # fmt: skip
    group("--data-binary", action=_Data, dest="data", metavar="DATA", help="like -d, files exactly")
    group("-A", "--user-agent", metavar="TEXT", help=f"whimbrel/{__version__}")

    group = parser.add_argument_group("authentication").add_argument
    group("-u", "--user", metavar="USER[:PASSWORD]", help="Basic, unless --digest")
    group("--digest", action="store_true", help="answer Digest challenges with -u")

    group = parser.add_argument_group("connection").add_argument
    group(
        "-x", "--proxy", metavar="URL",
        help="http, https, socks4, socks4a, socks5 or socks5h; '' connects directly",
    )  # fmt: skip
    group("-U", "--proxy-user", metavar="USER[:PASSWORD]", help="credentials for the proxy of -x")
    group("--proxy-digest", action="store_true", help="Digest at the proxy; Basic otherwise")
    group("--interface", metavar="NAME", help="name or address of the local end")
    versions = parser.add_argument_group("HTTP version").add_mutually_exclusive_group()
    for option, value, text in (
        ("--http1.1", "1.1", "HTTP/1.1"),
        ("--http2", "2", "HTTP/2, or 1.1 where the server does not offer it"),
        ("--http2-prior-knowledge", "2-prior-knowledge", "HTTP/2 at once, without TLS too"),
        ("--http3", "3", "HTTP/3, or an older one where that fails"),
        ("--http3-only", "3-only", "HTTP/3 or nothing"),
    ):
        versions.add_argument(
            option, action="store_const", const=value, dest="http_version", help=text
        )

    group = parser.add_argument_group("TLS").add_argument
    group("-k", "--insecure", action="store_true", help="do not verify the certificate")
    group("--cacert", metavar="FILE", help="PEM file of the CAs to trust")
    group("--cert", metavar="FILE", help="PEM file of the client certificate")
    group("--key", metavar="FILE", help="PEM file of its key")

    group = parser.add_argument_group("limits").add_argument
    group("--max-time", type=_seconds, metavar="SECONDS", help="for each URL; 0, unlimited")
    group(
        "--connect-timeout", type=_seconds, metavar="SECONDS",
        help="for name, TCP, proxy and TLS; 20, 0 is unlimited",
    )  # fmt: skip
    group("--max-filesize", type=_count, metavar="BYTES", help="of the decoded body; 0, unlimited")
    group("-L", "--location", action="store_true", help="follow redirects; without it they are not")
    group("--max-redirs", type=_count, metavar="N", help="how many redirects -L follows; 50")

    group = parser.add_argument_group("output").add_argument
    group(
        "-o", "--output", action="append", default=[], metavar="FILE", dest="outputs",
        help="write the body to FILE, which is replaced when all has come; once per URL",
    )  # fmt: skip
    group("-i", "--include", action="store_true", help="print the header lines too")
    group("-f", "--fail", action="store_true", help="a status of 400 or above is an error")
    group("-s", "--silent", action="store_true", help="no progress bar")
    group("-v", "--verbose", action="store_true", help="show both header blocks, on stderr")
    group("--timing", action="store_true", help="show where the time went, on stderr")
    group("--backend", choices=tuple(BACKENDS), help="the client: curl, the default, or simple")
    return parser


def parse(argv: Sequence[str]) -> Options | None:
    """Parse the arguments, read the files they name, and hide the secrets among them.

    Returns:
        None when ``--version`` was asked for and printed.

    Raises:
        Failure: usage, or a file that cannot be read.
        SystemExit: ``--help`` was asked for and printed.
    """
    parser = _parser()
    given, unknown = parser.parse_known_intermixed_args(argv)  # options after URLs, too
    hide(_secrets(given))
    if unknown:
        # Its value might be a password behind a misspelt option.
        name = unknown[0].partition("=")[0] if unknown[0].startswith("--") else unknown[0][:2]
        parser.error(f"unknown option {name}")
    if given.version:
        print(version_text())
        return None
    if not given.urls:
        parser.error("no URL")
    if given.outputs and len(given.outputs) != len(given.urls):
        parser.error(f"{len(given.outputs)} -o for {len(given.urls)} URLs: give one for each")
    return Options(
        urls=given.urls,
        outputs=given.outputs,
        backend=given.backend,
        request=_request(given, parser),
        include=given.include or given.head,
        follow=given.location,
        fail=given.fail,
        timing=given.timing,
        verbose=given.verbose,
        silent=given.silent,
    )


@dataclass(frozen=True)
class DemoOptions:
    """What ``whimbrel demo`` is to do.

    Attributes:
        backends: names of those to use, in turn; None is every one that can be loaded.
        serve: the folder for the files of the examples, whose servers are to be run instead of
            the demo; None runs the demo.
    """

    backends: Sequence[str] | None = None
    serve: str | None = None


def parse_demo(argv: Sequence[str]) -> DemoOptions:
    """Parse what follows ``whimbrel demo``.

    Raises:
        Failure: usage.
        SystemExit: ``--help`` was asked for and printed.
    """
    parser = _Parser(
        prog="whimbrel demo",
        description="Fetch from an origin and through a proxy, both on loopback and started here, "
        "and check every answer. Exit code 1 when something did not do what it should.",
        allow_abbrev=False,
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--backend",
        choices=(*BACKENDS, "both"),
        help="the client to use; without it every one that can be loaded, in turn",
    )
    group.add_argument(
        "--serve",
        nargs="?",
        const=".",
        metavar="FOLDER",
        help="run the servers that the examples of the documentation talk to, until Ctrl-C, and "
        "write their files into FOLDER, or this one",
    )
    given = parser.parse_args(argv)
    if given.backend is None:
        return DemoOptions(serve=given.serve)
    return DemoOptions(tuple(BACKENDS) if given.backend == "both" else (given.backend,))


def version_text() -> str:
    """``whimbrel 0.1.0 (pycurl 7.49.0, Python 3.11.7)``."""
    from importlib.metadata import PackageNotFoundError, version  # a tenth of the start-up time

    try:
        pycurl = f"pycurl {version('pycurl')}"
    except PackageNotFoundError:
        pycurl = "no pycurl"
    return f"whimbrel {__version__} ({pycurl}, Python {sys.version.split()[0]})"


def _secrets(given: argparse.Namespace) -> list[Argument]:
    found = [Argument.with_userinfo(url) for url in (*given.urls, given.proxy or "")]
    lines = (*given.headers, given.user or "", given.proxy_user or "")
    found += [Argument.after_colon(line) for line in lines]
    found += [Argument("", data) for _, data in given.data or () if not data.startswith("@")]
    return found


def _request(given: argparse.Namespace, parser: _Parser) -> dict[str, Any]:
    """The keyword arguments for HTTPRequest; what is None there means "not given"."""
    headers = _headers(given.headers)
    body = None if given.data is None else b"&".join(_data(*piece) for piece in given.data)
    if given.head and body is not None:
        parser.error("-I and -d exclude each other")
    method = given.request or ("HEAD" if given.head else "GET" if body is None else "POST")
    if body is None and method in ("POST", "PUT", "PATCH"):
        body = b""
    elif body is not None and not any(name.lower() == "content-type" for name, _ in headers):
        headers.append(("Content-Type", _FORM.encode()))
    request: dict[str, Any] = {
        "method": method,
        "headers": headers,
        "body": body,
        "allow_nonstandard_methods": True,
        "user_agent": given.user_agent,
        "follow_redirects": given.location,
        "max_redirects": 50 if given.max_redirs is None else given.max_redirs,
        "request_timeout": given.max_time or 0.0,
        "connect_timeout": 20.0 if given.connect_timeout is None else given.connect_timeout,
        "max_body_size": given.max_filesize or 0,
        "network_interface": given.interface,
        "http_version": given.http_version,
        "validate_cert": False if given.insecure else None,
        "ca_certs": given.cacert,
        "client_cert": given.cert,
        "client_key": given.key,
        **_proxy(given, parser),
    }
    if given.user is not None:
        username, password = credentials("-u", given.user, PASSWORD_VARIABLE)
        request["auth_username"], request["auth_password"] = username, password
        request["auth_mode"] = "digest" if given.digest else "basic"
    elif given.digest:
        parser.error("--digest needs -u")
    return request


def _proxy(given: argparse.Namespace, parser: _Parser) -> dict[str, Any]:
    if not given.proxy:
        if given.proxy_user is not None or given.proxy_digest:
            parser.error("-U and --proxy-digest need -x")
        return {"proxy": None if given.proxy is None else False}
    found: dict[str, Any] = {
        "proxy": given.proxy,
        "proxy_auth_mode": "digest" if given.proxy_digest else None,
    }
    if given.proxy_user is not None:
        pair = credentials("-U", given.proxy_user, PROXY_PASSWORD_VARIABLE)
        found["proxy_username"], found["proxy_password"] = pair
        return found
    userinfo = Argument.with_userinfo(given.proxy).secret
    password = os.environ.get(PROXY_PASSWORD_VARIABLE)
    if userinfo and ":" not in userinfo and password is not None:
        found["proxy_username"], found["proxy_password"] = unquote(userinfo), password
    return found


def _headers(lines: Sequence[str]) -> list[tuple[str, bytes]]:
    """Name and value of every -H line; values as the bytes that were typed."""
    headers = []
    for line in lines:
        if line.startswith("@"):
            text = os.fsdecode(_read(line[1:]))
            headers += _headers([row for row in text.splitlines() if row and row[0] != "@"])
            continue
        name, colon, value = line.partition(":")
        if not colon and name.endswith(";"):
            name = name[:-1]
        elif not colon:
            raise Failure(Exit.USAGE, "usage", "-H wants 'Name: value' or 'Name;'")
        elif not value.strip():
            raise Failure(
                Exit.USAGE, "usage", f"-H '{name}:' is empty; 'Name;' sends an empty value"
            )
        headers.append((name, os.fsencode(value.strip(" \t"))))
    return headers


def _data(binary: bool, text: str) -> bytes:
    if not text.startswith("@"):
        return os.fsencode(text)
    data = _read(text[1:])
    return data if binary else data.translate(None, b"\r\n\0")


def _read(name: str) -> bytes:
    try:
        if name == "-":
            return sys.stdin.buffer.read()
        with open(name, "rb") as file:
            return file.read()
    except OSError as error:
        raise Failure(Exit.READ, "read", f"{name}: {error.strerror}") from error
