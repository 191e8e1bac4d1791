"""Passwords: where they come from besides the command line, and how they leave its display.

The command line of a process is there for every user of the machine to read. What was given there
is overwritten first thing (Linux; elsewhere it stays visible), as curl does; the moment before
remains, so a password is better typed, or put into a variable of the environment.
"""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from whimbrel._cli.failures import Exit, Failure

PASSWORD_VARIABLE: Final = "WHIMBREL_PASSWORD"
PROXY_PASSWORD_VARIABLE: Final = "WHIMBREL_PROXY_PASSWORD"

# proc(5): the fields of /proc/self/stat behind the command's name, which is field 2.
_ARG_START, _ARG_END = 48 - 3, 49 - 3

_USERINFO = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.\-]*://)?([^/?#]*)@")


def credentials(option: str, text: str, variable: str) -> tuple[str, str]:
    """User name and password of ``USER:PASSWORD``; without a colon, from `variable` or a prompt.

    Raises:
        Failure: there is no password, no variable and no terminal.
    """
    username, colon, password = text.partition(":")
    if colon:
        return username, password
    found = os.environ.get(variable)
    if found is not None:
        return username, found
    if not _has_terminal():
        raise Failure(
            Exit.USAGE, "usage", f"{option}: no password: give USER:PASSWORD or set {variable}"
        )
    try:
        return username, getpass.getpass(f"password of {username!a}: ")
    except EOFError:
        raise Failure(Exit.USAGE, "usage", f"{option}: no password was typed") from None


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
    except OSError:
        return False
    return True


class Argument(NamedTuple):
    """A value given on the command line, and the part of it that nobody else should read."""

    before: str
    secret: str
    after: str = ""

    @classmethod
    def after_colon(cls, text: str) -> Argument:
        """``USER:PASSWORD``, or a header line."""
        name, colon, secret = text.partition(":")
        return cls(name + colon, secret)

    @classmethod
    def with_userinfo(cls, url: str) -> Argument:
        """A URL: everything before the last ``@`` of its authority is secret."""
        match = _USERINFO.match(url)
        start, end = match.span(1) if match else (len(url), len(url))
        return cls(url[:start], url[start:end], url[end:])


def hide(given: Iterable[Argument]) -> bool:
    """Overwrite the secret parts where the system shows this process's arguments.

    Returns:
        Whether that could be done: False away from Linux, or where /proc is closed to us.
    """
    wanted = [argument for argument in given if argument.secret]
    if not wanted:
        return True
    try:
        with open("/proc/self/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            shown = memory.read(end - start)
            memory.seek(start)
            memory.write(mask(shown, wanted))
    except (OSError, ValueError, IndexError, OverflowError):
        return False
    return True


def mask(shown: bytes, given: Iterable[Argument]) -> bytes:
    """`shown` (arguments, each ended by NUL) with asterisks over the secret parts of `given`.

    A value may be an argument of its own, or the tail of one (``-ualice:secret``). The length
    stays: it is the process's own memory that is written to.
    """
    arguments = shown.split(b"\0")
    for argument in given:
        before, secret, after = (os.fsencode(part) for part in argument)
        masked = before + b"*" * len(secret) + after
        tail = before + secret + after
        arguments = [
            shown.removesuffix(tail) + masked if shown.endswith(tail) else shown
            for shown in arguments
        ]
    return b"\0".join(arguments)
