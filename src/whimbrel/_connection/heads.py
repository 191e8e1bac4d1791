"""Heads of messages that are to be sent: what their fields say, and what may not stand there."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Protocol

from whimbrel._http1 import grammar
from whimbrel._http1.errors import LocalProtocolError
from whimbrel.httputil import HTTPOutputError


class IllegalText(HTTPOutputError, ValueError):
    """A start line or header holds what would break the message."""


class Headers(Protocol):
    """Any mapping of fields: its (name, value) pairs, in order."""

    def get_all(self) -> Iterable[tuple[str, str]]: ...


class Framing:
    """What the headers of a message say of its body and of the connection.

    `fields` is a list of one's own. `length` is that of the body, None where none is given;
    `chunked` whether it is to be sent in chunks; `close`, `keep_alive` and `upgrade` are what
    Connection says. Raises HTTPOutputError for framing fields that contradict each other.
    """

    __slots__ = ("chunked", "close", "fields", "keep_alive", "length", "upgrade")

    def __init__(self, headers: Headers) -> None:
        self.fields = list(headers.get_all())
        self.length: int | None = None
        self.chunked = self.close = self.keep_alive = self.upgrade = False
        for name, value in self.fields:
            size = len(name)
            if size == 14 and name.lower() == "content-length":
                if self.length is not None or not (value.isascii() and value.isdigit()):
                    raise HTTPOutputError("Content-Length is not one number")
                self.length = int(value)
            elif size == 17 and name.lower() == "transfer-encoding":
                if self.chunked or value.lower() != "chunked":
                    raise HTTPOutputError("Transfer-Encoding is not just chunked")
                self.chunked = True
            elif size == 10 and name.lower() == "connection":
                tokens = [token.strip(" \t") for token in value.lower().split(",")]
                self.close |= "close" in tokens
                self.keep_alive |= "keep-alive" in tokens
                self.upgrade |= "upgrade" in tokens
        if self.chunked and self.length is not None:
            # RFC 9112 section 6.2.
            raise HTTPOutputError("Content-Length and Transfer-Encoding exclude each other")

    def add(self, name: str, value: str) -> None:
        """Add a field."""
        self.fields.append((name, value))

    def remove(self, *names: str) -> None:
        """Take fields out, by their lower-case names."""
        self.fields = [field for field in self.fields if field[0].lower() not in names]

    def response_head(self, code: int, reason: str) -> bytes:
        """The bytes of a response's head. Raises `IllegalText`."""
        try:
            return _status_line(code, reason) + grammar.encode_fields(self.fields) + b"\r\n"
        except LocalProtocolError as error:
            raise IllegalText(str(error)) from error

    def request_head(self, method: str, target: str) -> bytes:
        """The bytes of a request's head. Raises `IllegalText`."""
        try:
            line = grammar.encode_request_line(method, target)
            return line + grammar.encode_fields(self.fields) + b"\r\n"
        except LocalProtocolError as error:
            raise IllegalText(str(error)) from error


_status_line = functools.lru_cache(maxsize=256)(grammar.encode_status_line)
