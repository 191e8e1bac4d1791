"""`python -m whimbrel.httpclient URL…`: the command line of Tornado's httpclient module."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

from whimbrel._cli.failures import Exit, Failure
from whimbrel._cli.secrets import Argument, hide
from whimbrel.httpclient import HTTPClient, HTTPError, HTTPResponse

_USAGE: Final = """\
usage: python -m whimbrel.httpclient [options] URL...

Fetch URLs and print their bodies; flags as of tornado.httpclient.

  --print_headers        print the response's headers (false)
  --print_body           print the response's body (true)
  --follow_redirects     follow redirects (true)
  --validate_cert        verify certificates (true)
  --proxy_host=HOST      fetch through this proxy
  --proxy_port=PORT      and this port of it
  --help

A flag without =VALUE is true; false, f and 0 are false. Dashes may stand for underscores.
`python -m whimbrel` has many more options.
"""

_FLAGS: Final[dict[str, Any]] = {
    "print_headers": False,
    "print_body": True,
    "follow_redirects": True,
    "validate_cert": True,
    "proxy_host": None,
    "proxy_port": None,
    "help": False,
}


def parse(argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Flags by name, with their defaults, and the URLs.

    Raises:
        Failure: usage.
    """
    flags = dict(_FLAGS)
    urls: list[str] = []
    rest = iter(argv)
    for argument in rest:
        if argument == "--":
            urls.extend(rest)
        elif not argument.startswith("-"):
            urls.append(argument)
        else:
            name, equals, value = argument.lstrip("-").partition("=")
            name = name.replace("-", "_")
            if name not in flags:
                raise Failure(Exit.USAGE, "usage", f"unknown flag --{name}; see --help")
            flags[name] = _value(name, value if equals else None)
    return flags, urls


def _value(name: str, text: str | None) -> Any:
    if isinstance(_FLAGS[name], bool):
        return text is None or text.lower() not in ("false", "0", "f")
    if text is None:
        raise Failure(Exit.USAGE, "usage", f"--{name} needs a value")
    if name != "proxy_port":
        return text
    if not (text.isascii() and text.isdigit()):
        raise Failure(Exit.USAGE, "usage", f"--{name} needs a number")
    return int(text)


def fetch_and_print(argv: Sequence[str]) -> int:
    """Fetch the URLs of a command line one by one, and print what came; 0.

    As with Tornado, a response with an error status is printed like any other, and any other
    failure ends the program.

    Raises:
        Failure, HTTPError, ValueError: as they come; see `failures.failure_of`.
    """
    flags, urls = parse(argv)
    hide(Argument.with_userinfo(url) for url in urls)
    if flags["help"]:
        print(_USAGE, end="")
        return Exit.OK
    if not urls:
        raise Failure(Exit.USAGE, "usage", "no URL; see --help")
    with HTTPClient() as client:
        for url in urls:
            response = _fetch(client, url, flags)
            if flags["print_headers"]:
                lines = [f"{name}: {value}\n" for name, value in response.headers.get_all()]
                _print("".join(lines).encode("latin-1"))
            if flags["print_body"]:
                _print(response.body)
    return Exit.OK


def _fetch(client: HTTPClient, url: str, flags: dict[str, Any]) -> HTTPResponse:
    try:
        return client.fetch(
            url,
            follow_redirects=flags["follow_redirects"],
            validate_cert=flags["validate_cert"],
            proxy_host=flags["proxy_host"],
            proxy_port=flags["proxy_port"],
        )
    except HTTPError as error:
        if error.response is None:
            raise
        return error.response


def _print(data: bytes) -> None:
    sys.stdout.buffer.write(data + b"\n")
    sys.stdout.buffer.flush()
