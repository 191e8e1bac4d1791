"""HTTP vocabulary shared by clients and servers: headers, start lines, URLs, dates, bodies.

The names are those of Tornado's ``httputil``. Everything here is pure: no sockets, no event loop.
Whatever parses input from the network does so in linear time and with bounds, and raises
:class:`HTTPInputError` when it refuses something.
"""

from __future__ import annotations

import binascii
import datetime
import re
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, AnyStr, NamedTuple, TypeVar, overload
from urllib.parse import parse_qsl, unquote, urlencode

from whimbrel.util import utf8

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Awaitable
    from http.cookies import SimpleCookie

_T = TypeVar("_T")

#: Reason phrases by status code, as ``int``.
responses: dict[int, str] = {status.value: status.phrase for status in HTTPStatus}


class HTTPInputError(Exception):
    """Malformed HTTP came from the peer, or was given to a parser. Not a ``ValueError``."""


class _FormError(HTTPInputError):
    """The form in a request's body is malformed, or too large."""


class HTTPOutputError(Exception):
    """A program tried to send something that is not well-formed HTTP."""


# --------------------------------------------------------------------------------------------
# Headers
# --------------------------------------------------------------------------------------------

# token = 1*tchar (RFC 9110 section 5.6.2)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

# What may not stand in a field value (RFC 9110 section 5.5): control characters but HTAB, and
# anything that is no byte. 0x80-0xFF is obs-text: bytes of unknown meaning, held as Latin-1.
_BAD_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]")

# Optional whitespace (RFC 9110 section 5.6.3). str.strip() would take U+00A0 and others as well.
_OWS = " \t"

# Names in normal form, by the form in which they came: of whatever was looked up, and of valid
# names only. Bounded in number and in length, since some of them come from the network.
_normal_names: dict[str, str] = {}
_normal_tokens: dict[str, str] = {}
_MAX_NORMAL_NAMES = 2048
_MAX_CACHED_NAME = 64


def _remember(cache: dict[str, str], name: str) -> str:
    normal = "-".join([word.capitalize() for word in name.split("-")])
    if len(name) <= _MAX_CACHED_NAME:
        if len(cache) >= _MAX_NORMAL_NAMES:
            cache.clear()
        cache[name] = normal
    return normal


def _normalize(name: str) -> str:
    """Return ``name`` in ``Http-Header-Case``; it need not be a valid name."""
    return _normal_names.get(name) or _remember(_normal_names, name)


def _normalize_token(name: str) -> str | None:
    """Return a valid field name in ``Http-Header-Case``, None for an invalid one."""
    normal = _normal_tokens.get(name)
    if normal is None and _TOKEN.fullmatch(name):
        normal = _remember(_normal_tokens, name)
    return normal


def _abbreviate(text: str, limit: int = 60) -> str:
    """Return ``text`` quoted, printable and short enough for an error message."""
    return ascii(text) if len(text) <= limit else f"{text[:limit]!a}..."


class HTTPHeaders(MutableMapping[str, str]):
    """Case-insensitive header fields, each with one or several values, in the order of arrival.

    ``headers[name]`` is all values of the name joined by ``","`` (of ``Set-Cookie``, whose values
    hold commas, ask :meth:`get_list`); assigning replaces them all, :meth:`add` appends one,
    ``del`` removes every one. Names are kept in ``Http-Header-Case``.

    Built from nothing, from a mapping, from ``(name, value)`` pairs (the last of equal names
    counts) or from keyword arguments; from another ``HTTPHeaders`` all values are kept. Values
    are ``str`` whose characters stand for bytes (Latin-1), or ``bytes``; any other type raises
    ``TypeError``.

    :meth:`add`, :meth:`parse` and :meth:`parse_line` refuse what is not well-formed with
    :class:`HTTPInputError`. Plain assignment stores what it is given, as in Tornado; a client
    refuses it with ``ValueError``, naming the field, before it opens a socket.
    """

    # While _lists is unset the fields still lie in _lines, as they came: the first look at _lists
    # ends in __getattr__, which parses them, and leaves _lines empty. Before that _looks counts the
    # names that were asked for.
    __slots__ = ("_lines", "_lists", "_looks")

    _lines: Sequence[bytes] | bytes
    _lists: dict[str, list[str]]
    _looks: int

    @overload
    def __init__(self, /, **kwargs: str | bytes) -> None: ...
    @overload
    def __init__(
        self,
        fields: Mapping[str, str]
        | Mapping[str, bytes]
        | Mapping[str, str | bytes]
        | Iterable[tuple[str, str | bytes]],
        /,
        **kwargs: str | bytes,
    ) -> None: ...
    def __init__(self, fields: Any = (), /, **kwargs: str | bytes) -> None:
        self._lines = b""
        if isinstance(fields, HTTPHeaders):
            self._lists = {name: values[:] for name, values in fields._lists.items()}
            if not kwargs:
                return
            fields = ()
        else:
            self._lists = {}
        self.update(fields, **kwargs)

    @classmethod
    def from_lines(cls, lines: Sequence[bytes]) -> HTTPHeaders:
        r"""Return the fields of a response's raw header lines, parsed when first looked at.

        ``lines`` are ``b"Name: value\r\n"`` each, the status line left out; the sequence is kept,
        and must not change. A client takes what it gets, so nothing here raises: lines without a
        colon or without a valid name are skipped, a folded line continues the value before it
        (RFC 9112 section 5.2), and NUL or a bare CR in a value becomes a space (RFC 9110
        section 5.5).
        """
        self = cls.__new__(cls)
        self._lines = lines
        self._looks = _MOST_LOOKS  # they are no block to look in
        return self

    @classmethod
    def from_head(cls, head: bytes) -> HTTPHeaders:
        """The same for a whole head: start line, field lines, and the blank line or none."""
        self = cls.__new__(cls)
        self._lines = head
        self._looks = 0
        return self

    if not TYPE_CHECKING:  # or every misspelt attribute would pass the type checker

        def __getattr__(self, name: str) -> Any:
            # Reached only for what is not set. Must not touch _lists unless lines are there:
            # copy and pickle probe instances on which neither is set yet.
            if name == "_lists":
                lines = self._lines
                lists = _parse_leniently(lines) if lines else {}
                try:
                    # Another thread has been here meanwhile: what it found may have changed since.
                    return _LISTS.__get__(self)
                except AttributeError:
                    self._looks = _MOST_LOOKS
                    self._lists = lists
                self._lines = b""  # last: whoever finds it so finds the fields
                return lists
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _values(self, name: str) -> list[str] | None:
        """All values of ``name``; None if there are none. To be looked at only."""
        head = self._lines
        if head and self._looks < _MOST_LOOKS:
            self._looks += 1
            found = _search(head, name)  # type: ignore[arg-type]  # no list is looked in
            if found is not _UNCLEAR:
                return found
        return self._lists.get(_normalize(name))

    # -- several values

    def add(self, name: str, value: str | bytes) -> None:
        """Append a value to those of ``name``.

        Raises :class:`HTTPInputError` for a name that is not a token (RFC 9110 section 5.1), and
        for a value with control characters other than tab, with characters above U+00FF, or with
        whitespace at either end.
        """
        normal = _normalize_token(name)
        if normal is None:
            raise HTTPInputError(f"invalid header name {_abbreviate(name)}")
        value = _text(name, value)
        # Two scans in C spare nearly every value the regular expression.
        if not (value.isascii() and value.isprintable()) and (bad := _BAD_IN_VALUE.search(value)):
            # The value may be a secret: tell its place and the character, not the rest.
            raise HTTPInputError(
                f"invalid value of header {_abbreviate(name)}: "
                f"character 0x{ord(bad.group()):02x} at position {bad.start()}"
            )
        if value and (value[0] in _OWS or value[-1] in _OWS):
            raise HTTPInputError(f"whitespace around the value of header {_abbreviate(name)}")
        _append(self._lists, normal, value)

    def get_list(self, name: str) -> list[str]:
        """Return all values of ``name``, in order; an empty list if there are none."""
        return (self._values(name) or [])[:]

    def get_all(self) -> Iterator[tuple[str, str]]:
        """Iterate over ``(name, value)`` pairs; a name with several values comes several times."""
        for name, values in self._lists.items():
            for value in values:
                yield name, value

    # -- parsing

    def parse_line(self, line: str) -> None:
        r"""Add the field of one line, with or without its ``\r\n`` or ``\n``.

        An empty line adds nothing. Raises :class:`HTTPInputError` for a line that starts with
        whitespace (folding is refused, RFC 9112 section 5.2), has no colon, or holds what
        :meth:`add` refuses. Only spaces and tabs around the value are dropped.
        """
        if line.endswith("\n"):
            line = line[:-2] if line.endswith("\r\n") else line[:-1]
        if not line:
            return
        if line[0] in _OWS:
            raise HTTPInputError("header line starts with whitespace: folding is not supported")
        name, colon, value = line.partition(":")
        if not colon:
            raise HTTPInputError("no colon in header line")
        self.add(name, value.strip(_OWS))

    @classmethod
    def parse(cls, headers: str) -> HTTPHeaders:
        r"""Return the fields of a block of lines, each ended by ``\r\n`` or ``\n``.

        The characters stand for bytes (Latin-1). Raises what :meth:`parse_line` raises.
        """
        self = cls()
        for line in headers.replace("\r\n", "\n").split("\n"):
            self.parse_line(line)
        return self

    # -- mapping

    def __getitem__(self, name: str) -> str:
        values = self._values(name)
        if values is None:
            raise KeyError(_normalize(name))
        return values[0] if len(values) == 1 else ",".join(values)

    @overload
    def get(self, name: str, default: None = None, /) -> str | None: ...
    @overload
    def get(self, name: str, default: str, /) -> str: ...
    @overload
    def get(self, name: str, default: _T, /) -> str | _T: ...
    def get(self, name: str, default: Any = None) -> Any:
        """Return all values of ``name`` joined by ``","``, or ``default`` if there are none."""
        values = self._values(name)
        if values is None:
            return default
        return values[0] if len(values) == 1 else ",".join(values)

    def __setitem__(self, name: str, value: str | bytes) -> None:
        if not isinstance(name, str):
            raise TypeError(f"header names are str, got {type(name).__name__}")
        self._lists[_normalize(name)] = [_text(name, value)]

    def __delitem__(self, name: str) -> None:
        del self._lists[_normalize(name)]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._values(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._lists)

    def __len__(self) -> int:
        return len(self._lists)

    def clear(self) -> None:
        """Remove every field."""
        self._lines = b""
        self._lists = {}

    # -- copies

    def copy(self) -> HTTPHeaders:
        """Return an independent copy, with all values."""
        return HTTPHeaders(self)

    def __copy__(self) -> HTTPHeaders:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> HTTPHeaders:
        return self.copy()  # strings need no copying

    def __getstate__(self) -> dict[str, list[str]]:
        return self._lists

    def __setstate__(self, state: dict[str, list[str]]) -> None:
        self._lines = b""
        self._lists = state

    # -- text

    def __str__(self) -> str:
        """One ``Name: value`` line for each value."""
        return "".join([f"{name}: {value}\n" for name, value in self.get_all()])

    def __repr__(self) -> str:
        """Names only: values may be secrets, and reprs end up in logs."""
        return f"<{type(self).__name__} {list(self._lists)}>"


_LISTS: Any = HTTPHeaders.__dict__["_lists"]  # the slot


def _text(name: str, value: object) -> str:
    """Return a header value as ``str``, bytes being read as Latin-1."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("latin-1")
    raise TypeError(
        f"the value of header {_abbreviate(name)} must be str or bytes, got {type(value).__name__}"
    )


def _append(lists: dict[str, list[str]], normal_name: str, value: str) -> None:
    values = lists.get(normal_name)
    if values is None:
        lists[normal_name] = [value]
    else:
        values.append(value)


# A head is searched for so many names before it is parsed. Most programs ask for one or two; each
# costs about as much as the parsing of three fields.
_MOST_LOOKS = 3

_UNCLEAR: list[str] = []
_FOLDS = (b" ", b"\t", b"\r", b"\0")  # the last two become spaces

# What precedes the value of a field in a lower-case head, by the name that is asked for; None for a
# name that no field can have. Bounded in number and in length, as above.
_prefixes: dict[str, bytes | None] = {}


def _prefix(name: str) -> bytes | None:
    try:
        return _prefixes[name]
    except KeyError:
        normal = _normalize(name)
        prefix = f"\n{normal}:".lower().encode() if _TOKEN.fullmatch(normal) else None
        if len(name) <= _MAX_CACHED_NAME:
            if len(_prefixes) >= _MAX_NORMAL_NAMES:
                _prefixes.clear()
            _prefixes[name] = prefix
        return prefix


def _search(head: bytes, name: str) -> list[str] | None:
    """What `_parse_leniently` would find for ``name``, and None for nothing; `_UNCLEAR` where it
    would have to mend a value."""
    prefix = _prefix(name)
    if prefix is None:
        return None
    low = head.lower()
    values: list[str] = []
    at = low.find(prefix)
    while at >= 0:
        start = at + len(prefix)
        end = low.find(b"\n", start)
        if end < 0:
            end = len(head)
        value = head[start:end].strip(b" \t\r")
        behind = head[end + 1 : end + 3]
        if b"\r" in value or b"\0" in value or (behind[:1] in _FOLDS and behind != b"\r\n"):
            return _UNCLEAR
        values.append(value.decode("latin-1"))
        at = low.find(prefix, end)
    return values or None


# obs-fold and the whitespace after it (RFC 9112 section 5.2).
_FOLD = re.compile(r"\n[ \t]+")


def _parse_leniently(lines: Sequence[bytes] | bytes) -> dict[str, list[str]]:
    """Parse for :meth:`HTTPHeaders.from_lines` and `from_head`, never raising, in linear time."""
    if isinstance(lines, bytes):
        block = lines.partition(b"\n")[2]
    else:
        block = b"".join([line if line.endswith(b"\n") else line + b"\n" for line in lines])
    # What is rare is looked for in the whole block, in C, so that it costs others nothing.
    text = block.decode("latin-1").replace("\r\n", "\n")
    if "\r" in text or "\0" in text:
        text = text.replace("\r", " ").replace("\0", " ")
    if "\n " in text or "\n\t" in text:
        text = _FOLD.sub(" ", text)
    lists: dict[str, list[str]] = {}
    for line in text.split("\n"):
        name, colon, value = line.partition(":")
        if not colon or (normal := _normal_tokens.get(name) or _normalize_token(name)) is None:
            continue
        value = value.strip(_OWS)
        if normal in lists:
            lists[normal].append(value)
        else:
            lists[normal] = [value]
    return lists


# --------------------------------------------------------------------------------------------
# Start lines
# --------------------------------------------------------------------------------------------


class RequestStartLine(NamedTuple):
    """First line of a request (RFC 9112 section 3)."""

    method: str
    path: str  #: the request-target as sent: path and query, or another of the four forms
    version: str  #: ``"HTTP/1.1"`` or ``"HTTP/1.0"``


class ResponseStartLine(NamedTuple):
    """First line of a response (RFC 9112 section 4)."""

    version: str
    code: int
    reason: str  #: may be empty


# request-line = method SP request-target SP HTTP-version. Bytes above 0x7F are no URI
# characters, but clients send them; controls and spaces would let a line be read in two ways.
_REQUEST_LINE = re.compile(
    r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e\x80-\xff]+) (HTTP/[0-9]\.[0-9])"
)

# status-line = HTTP-version SP status-code SP [ reason-phrase ]. The last space is required, but
# many servers that send no phrase leave it out as well.
_STATUS_LINE = re.compile(r"(HTTP/[0-9]\.[0-9]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")


def parse_request_start_line(line: str) -> RequestStartLine:
    """Parse a request line, given without its line end.

    Raises :class:`HTTPInputError` if it is malformed, or of another version than HTTP/1.x.
    """
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise HTTPInputError("malformed HTTP request line")
    method, target, version = match.groups()
    _check_version(version)
    return RequestStartLine(method, target, version)


def parse_response_start_line(line: str) -> ResponseStartLine:
    """Parse a status line, given without its line end.

    Raises :class:`HTTPInputError` if it is malformed, of another version than HTTP/1.x, or has a
    status code outside 100-999.
    """
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise HTTPInputError("malformed HTTP status line")
    version, code, reason = match.groups()
    _check_version(version)
    return ResponseStartLine(version, int(code), reason or "")


def _check_version(version: str) -> None:
    # A higher minor version is understood as the highest we know (RFC 9110 section 2.5).
    if not version.startswith("HTTP/1."):
        raise HTTPInputError(f"unexpected HTTP version {version!r}")


# --------------------------------------------------------------------------------------------
# URLs, hosts, dates, cookies, credentials
# --------------------------------------------------------------------------------------------

_Arguments = Mapping[str, Any] | Sequence[tuple[str, Any]]


def url_concat(url: str, args: _Arguments | None) -> str:
    """Return ``url`` with ``args`` appended to its query; a fragment stays where it is.

    ``args`` are a dict, or a list or tuple of pairs (where a name may come twice); values are
    encoded as UTF-8, ``bytes`` as they are. None returns ``url`` unchanged. Otherwise the query
    that was there is normalised too: ``"?x"`` becomes ``"?x="``.

    Raises ``TypeError`` for any other kind of ``args``.
    """
    if args is None:
        return url
    if isinstance(args, Mapping):
        pairs = list(args.items())
    elif isinstance(args, list | tuple):
        pairs = list(args)
    else:
        raise TypeError(f"args must be a dict, list or tuple, not {type(args).__name__}")
    head, hash_mark, fragment = url.partition("#")
    path, _, query = head.partition("?")
    # surrogateescape carries bytes that are not UTF-8 through unchanged.
    pairs[:0] = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
    query = urlencode(pairs, errors="surrogateescape")
    return f"{path}?{query}{hash_mark}{fragment}" if query else f"{path}{hash_mark}{fragment}"


def qs_to_qsl(qs: Mapping[str, Sequence[AnyStr]]) -> Iterator[tuple[str, AnyStr]]:
    """Yield ``(name, value)`` pairs from a mapping of names to lists, as ``parse_qs`` makes."""
    for name, values in qs.items():
        for value in values:
            yield name, value


_HOST_AND_PORT = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]+):([0-9]{1,5})")


def split_host_and_port(netloc: str) -> tuple[str, int | None]:
    """Split ``"host:port"``; the port is None where there is none.

    An IPv6 address keeps its brackets; without brackets its colons are never taken for a port's.
    """
    match = _HOST_AND_PORT.fullmatch(netloc)
    return (match[1], int(match[2])) if match else (netloc, None)


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def format_timestamp(
    ts: int | float | tuple[int, ...] | time.struct_time | datetime.datetime,
) -> str:
    """Return a point in time in HTTP's format (IMF-fixdate, RFC 9110 section 5.6.7).

    ``ts`` is seconds since the epoch, a ``datetime`` (aware, or naive and then in UTC), or a
    ``struct_time`` or tuple in UTC, as ``time.gmtime()`` makes. Fractions of a second are
    dropped. Raises ``TypeError`` for anything else.

    >>> format_timestamp(1359312200)
    'Sun, 27 Jan 2013 18:43:20 GMT'
    """
    if isinstance(ts, datetime.datetime):
        when = ts if ts.tzinfo is None else ts.astimezone(datetime.UTC)
    elif isinstance(ts, tuple):  # struct_time is one
        year, month, day, hours, minutes, seconds = ts[:6]
        # Added up, since a struct_time may hold a leap second.
        when = datetime.datetime(year, month, day) + datetime.timedelta(
            hours=hours, minutes=minutes, seconds=seconds
        )
    elif isinstance(ts, int | float):
        when = datetime.datetime.fromtimestamp(ts, datetime.UTC)
    else:
        raise TypeError(f"unknown timestamp type: {ts!r}")
    # Not strftime: its names follow the locale.
    return (
        f"{_DAYS[when.weekday()]}, {when.day:02} {_MONTHS[when.month - 1]} {when.year:04} "
        f"{when.hour:02}:{when.minute:02}:{when.second:02} GMT"
    )


_COOKIE_ESCAPE = re.compile(r"\\(?:([0-3][0-7][0-7])|(.))", re.DOTALL)


def parse_cookie(cookie: str) -> dict[str, str]:
    """Parse a ``Cookie`` header's value as browsers do: leniently, the last of equal names wins.

    A piece without ``=`` has the name ``""``. Double quotes around a value, and the escapes that
    Python's ``http.cookies`` writes inside them, are undone.
    """
    cookies = {}
    for piece in cookie.split(";"):
        name, equals, value = piece.partition("=")
        if not equals:
            name, value = "", name
        name, value = name.strip(), value.strip()
        if name or value:
            cookies[name] = _unquote_cookie(value)
    return cookies


def _unquote_cookie(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    return _COOKIE_ESCAPE.sub(
        lambda escape: chr(int(escape[1], 8)) if escape[1] else escape[2], value[1:-1]
    )


def encode_username_password(username: str | bytes, password: str | bytes) -> bytes:
    """Return ``username:password`` for Basic authentication (RFC 7617), not yet in base64.

    ``str`` is normalised to NFC and encoded as UTF-8; ``bytes`` are taken as they are.
    """
    return b":".join(
        utf8(unicodedata.normalize("NFC", part) if isinstance(part, str) else part)
        for part in (username, password)
    )


# --------------------------------------------------------------------------------------------
# Requests as a server sees them
# --------------------------------------------------------------------------------------------

# Host = uri-host [ ":" port ] (RFC 9110 section 7.2); it may be empty.
_HOST = re.compile(r"(?:\[[0-9A-Za-z:.%_~-]+\]|[0-9A-Za-z\-._~%!$&'()*+;=]*)(?::[0-9]*)?")


class HTTPServerRequest:
    """One request that a server has received.

    Raises :class:`HTTPInputError` for a ``Host`` that is missing (HTTP/1.1, RFC 9112 section
    3.2), repeated or malformed, for a request-target that is neither a path nor a well-formed URL
    of http or https (``*`` and CONNECT apart), and for a query of too many arguments.

    A form in the body is parsed when ``arguments``, ``body_arguments`` or ``files`` are first asked
    for, and they raise :class:`HTTPInputError` if :func:`parse_body_arguments` does.
    """

    method: str
    uri: str  #: the request-target as it came
    path: str  #: of ``uri``, up to the ``?``
    query: str  #: of ``uri``, after the ``?``
    version: str
    headers: HTTPHeaders
    body: bytes
    host: str  #: of ``uri``, else the ``Host`` field; ``"127.0.0.1"`` for HTTP/1.0 without either
    host_name: str  #: ``host`` in lower case, without the port
    remote_ip: str | None  #: the client's address, None if the connection does not tell
    protocol: str  #: ``"http"`` or ``"https"``
    query_arguments: dict[str, list[bytes]]  #: names are Latin-1
    connection: HTTPConnection | None
    server_connection: object | None

    def __init__(
        self,
        method: str | None = None,
        uri: str | None = None,
        version: str = "HTTP/1.0",
        headers: HTTPHeaders | None = None,
        body: bytes | None = None,
        host: str | None = None,
        files: dict[str, list[HTTPFile]] | None = None,
        connection: HTTPConnection | None = None,
        start_line: RequestStartLine | None = None,
        server_connection: object | None = None,
    ) -> None:
        if start_line is not None:
            method, uri, version = start_line
        self.method = method or "GET"
        self.uri = uri or "/"
        self.version = version
        self.headers = headers if headers is not None else HTTPHeaders()
        self.body = body or b""
        self.host = host or _host_of(self.headers, version)
        self._origin_form = self.uri
        if self.uri[0] != "/" and self.uri != "*" and self.method != "CONNECT":
            self.host, self._origin_form = _split_absolute(self.uri)
        host_name = self.host.lower()
        self.host_name = split_host_and_port(host_name)[0] if ":" in host_name else host_name
        self._files = files if files is not None else {}
        self.connection = connection
        self.server_connection = server_connection

        context = getattr(connection, "context", None)
        self.remote_ip = getattr(context, "remote_ip", None)
        self.protocol = getattr(context, "protocol", "http")

        self.path, _, self.query = self._origin_form.partition("?")
        self.query_arguments = {}
        if self.query:
            query = self.query.encode("latin-1", "replace")
            self.query_arguments = _parse_arguments(query, "query")
        self._start_time = time.monotonic()
        self._finish_time: float | None = None
        self._cookies: SimpleCookie | None = None

    # Not when the request arrives: the work is the client's to choose, and is done for those only
    # who want what comes of it.

    @cached_property
    def body_arguments(self) -> dict[str, list[bytes]]:
        """The arguments of the form in the body; names are Latin-1."""
        found: dict[str, list[bytes]] = {}
        if self.body:
            content_type = self.headers.get("Content-Type", "")
            try:
                parse_body_arguments(content_type, self.body, found, self._files, self.headers)
            except HTTPInputError as error:
                raise _FormError(str(error)) from error
        return found

    @cached_property
    def arguments(self) -> dict[str, list[bytes]]:
        """The arguments of query and form."""
        found = {name: values[:] for name, values in self.query_arguments.items()}
        for name, values in self.body_arguments.items():
            found.setdefault(name, []).extend(values)
        return found

    @cached_property
    def files(self) -> dict[str, list[HTTPFile]]:
        """The files of the form in the body."""
        _ = self.body_arguments  # which parses the form
        return self._files

    @property
    def cookies(self) -> SimpleCookie:
        """The request's cookies; those with names that ``http.cookies`` refuses are left out."""
        if self._cookies is None:
            from http.cookies import CookieError, SimpleCookie

            self._cookies = SimpleCookie()
            for name, value in parse_cookie(self.headers.get("Cookie", "")).items():
                try:
                    self._cookies[name] = value
                except CookieError:
                    pass
        return self._cookies

    def full_url(self) -> str:
        """Return the URL that the client asked for, rebuilt from the parts known here."""
        return f"{self.protocol}://{self.host}{self._origin_form}"

    def request_time(self) -> float:
        """Return the seconds from the request's arrival to its end, or to now."""
        end = time.monotonic() if self._finish_time is None else self._finish_time
        return end - self._start_time

    def __repr__(self) -> str:
        """Leave out headers and body: they hold secrets, and reprs end up in logs."""
        names = ("protocol", "host", "method", "uri", "version", "remote_ip")
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__name__}({fields})"


def _host_of(headers: HTTPHeaders, version: str) -> str:
    hosts = headers.get_list("Host")
    if not hosts:
        if version == "HTTP/1.0":
            return "127.0.0.1"
        raise HTTPInputError("missing Host header")
    if len(hosts) > 1 or "," in hosts[0]:
        raise HTTPInputError("multiple Host headers")
    if not _HOST.fullmatch(hosts[0]):
        raise HTTPInputError(f"invalid Host header {_abbreviate(hosts[0])}")
    return hosts[0]


_ABSOLUTE = re.compile(r"https?://([^/?#]+)([^#]*)", re.IGNORECASE)


def _split_absolute(target: str) -> tuple[str, str]:
    """Return host, and path with query, of a target in absolute-form (RFC 9112 section 3.2.2).

    Proxies send it; its host counts then, not the ``Host`` field.
    """
    match = _ABSOLUTE.fullmatch(target)
    # User information in it is refused (RFC 9110 section 4.2.4).
    if match is None or not _HOST.fullmatch(match[1]):
        raise HTTPInputError(f"invalid request target {_abbreviate(target)}")
    rest = match[2]
    return match[1], rest if rest.startswith("/") else f"/{rest}"


class HTTPFile(dict[str, Any]):
    """An uploaded file: a dict whose three items can be had as attributes as well."""

    filename: str
    body: bytes
    content_type: str

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            try:
                return self[name]
            except KeyError:
                raise AttributeError(name) from None

        def __setattr__(self, name: str, value: Any) -> None:
            self[name] = value


# --------------------------------------------------------------------------------------------
# Bodies of forms
# --------------------------------------------------------------------------------------------

_MAX_ARGUMENTS = 1000  # in one query or body
_MAX_FORM_SIZE = 10 * 1024 * 1024  # bytes of a urlencoded body, as in Go's net/http
_MAX_PARTS = 100  # in one multipart body
_MAX_PART_HEADER_SIZE = 10 * 1024  # bytes, for each part
_MAX_BOUNDARY = 70  # RFC 2046 section 5.1.1


def _parse_arguments(data: bytes, what: str) -> dict[str, list[bytes]]:
    """Parse ``a=1&b=2``, blank values included; names are read as Latin-1."""
    arguments: dict[str, list[bytes]] = {}
    if not data:
        return arguments
    if data.count(b"&") >= _MAX_ARGUMENTS:
        raise HTTPInputError(f"more than {_MAX_ARGUMENTS} arguments in the {what}")
    for pair in data.replace(b"+", b" ").split(b"&"):
        if pair:
            name, _, value = pair.partition(b"=")
            arguments.setdefault(_unquote(name).decode("latin-1"), []).append(_unquote(value))
    return arguments


# "%" that begins no escape stands for itself.
_BARE_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_BLOCK = 16 * 1024


def _unquote(data: bytes) -> bytes:
    """Undo percent-encoding.

    ``urllib.parse.unquote_to_bytes`` makes an object of each escape, which for megabytes of them
    takes seconds and gigabytes. Quoted-printable (RFC 2045 section 6.7) is the same but for its
    escape character, and decoded in C: its soft line breaks do not occur, since each ``=`` that it
    sees here stands before two hexadecimal digits.
    """
    if b"%" not in data:
        return data
    decoded = []
    position = 0
    while position < len(data):
        end = position + _BLOCK
        cut = data.find(b"%", end - 2, end)  # an escape that the block would end in
        if cut >= 0:
            end = cut
        block = _BARE_PERCENT.sub(b"%25", data[position:end])
        decoded.append(binascii.a2b_qp(block.replace(b"=", b"%3D").replace(b"%", b"=")))
        position = end
    return b"".join(decoded)


def parse_body_arguments(
    content_type: str,
    body: bytes,
    arguments: dict[str, list[bytes]],
    files: dict[str, list[HTTPFile]],
    headers: HTTPHeaders | None = None,
) -> None:
    """Parse a form's body into ``arguments`` and ``files``, which are added to.

    ``application/x-www-form-urlencoded`` and ``multipart/form-data`` are understood; a body of
    another type adds nothing. ``headers`` are the request's: a form that is still encoded
    (``Content-Encoding``) is refused.

    Raises :class:`HTTPInputError` for a malformed body, for one with more than 1,000 arguments,
    and for a urlencoded one of more than 10 MiB.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in ("application/x-www-form-urlencoded", "multipart/form-data"):
        return
    if headers is not None and (coding := headers.get("Content-Encoding")) is not None:
        raise HTTPInputError(f"unsupported Content-Encoding {_abbreviate(coding)} of a form")
    if media_type == "multipart/form-data":
        _, parameters = _parse_parameters(content_type)
        boundary = parameters.get("boundary", "")
        if not boundary:
            raise HTTPInputError("multipart/form-data without a boundary")
        parse_multipart_form_data(boundary.encode("latin-1", "replace"), body, arguments, files)
        return
    if len(body) > _MAX_FORM_SIZE:
        raise HTTPInputError(f"form of {len(body)} bytes, more than {_MAX_FORM_SIZE}")
    for name, values in _parse_arguments(body, "form").items():
        arguments.setdefault(name, []).extend(values)


def parse_multipart_form_data(
    boundary: bytes,
    data: bytes,
    arguments: dict[str, list[bytes]],
    files: dict[str, list[HTTPFile]],
) -> None:
    r"""Parse a ``multipart/form-data`` body (RFC 7578) into ``arguments`` and ``files``.

    Strict: lines end in ``\r\n``, the first delimiter stands at the start and the last one is
    present, and each part has a ``Content-Disposition`` of ``form-data`` with a name. Parts with
    a filename are files. At most 100 parts, with 10 KiB of headers each.

    Raises :class:`HTTPInputError` for everything else, then leaving both dicts unchanged.
    """
    if len(boundary) >= 2 and boundary.startswith(b'"') and boundary.endswith(b'"'):
        boundary = boundary[1:-1]
    if not 1 <= len(boundary) <= _MAX_BOUNDARY:
        raise HTTPInputError(f"multipart boundary of {len(boundary)} bytes, not 1 to 70")
    parts = [_parse_part(data, start, end) for start, end in _split_parts(boundary, data)]
    for name, value in parts:
        if isinstance(value, HTTPFile):
            files.setdefault(name, []).append(value)
        else:
            arguments.setdefault(name, []).append(value)


def _split_parts(boundary: bytes, data: bytes) -> list[tuple[int, int]]:
    """Return where the parts start and end, the delimiters excluded."""
    delimiter = b"\r\n--" + boundary
    if not data.startswith(delimiter[2:]):
        raise HTTPInputError("multipart body does not start with its boundary")
    position = len(delimiter) - 2
    parts: list[tuple[int, int]] = []
    while not data.startswith(b"--", position):
        # A line that merely begins with the boundary is a delimiter to some (RFC 2046 section
        # 5.1.1) and data to others, so it is refused.
        if not data.startswith(b"\r\n", position):
            raise HTTPInputError("multipart boundary is not followed by a line end")
        start = position + 2
        # From the line end on, since a part without any header has its delimiter there.
        end = data.find(delimiter, position)
        if end < 0:
            raise HTTPInputError("multipart body has no final boundary")
        if len(parts) == _MAX_PARTS:
            raise HTTPInputError(f"multipart body of more than {_MAX_PARTS} parts")
        parts.append((start, end))
        position = end + len(delimiter)
    return parts


def _parse_part(data: bytes, start: int, end: int) -> tuple[str, bytes | HTTPFile]:
    limit = min(end, start + _MAX_PART_HEADER_SIZE)
    head_end = data.find(b"\r\n\r\n", start, limit)
    if head_end < 0:
        size = f" within {_MAX_PART_HEADER_SIZE} bytes" if limit < end else ""
        raise HTTPInputError(f"headers of a multipart part do not end{size}")
    headers = HTTPHeaders.parse(data[start:head_end].decode("latin-1"))
    try:
        # Browsers send names in the form's encoding, in practice UTF-8 (RFC 7578 section 5.1).
        disposition = headers.get("Content-Disposition", "").encode("latin-1").decode("utf-8")
    except UnicodeDecodeError as error:
        raise HTTPInputError("Content-Disposition of a multipart part is not UTF-8") from error
    kind, parameters = _parse_parameters(disposition)
    if kind != "form-data":
        raise HTTPInputError("multipart part is not form-data")
    name = parameters.get("name")
    if not name:
        raise HTTPInputError("multipart part without a name")
    body = data[head_end + 4 : end]
    filename = _decode_extended(parameters["filename*"]) if "filename*" in parameters else None
    if filename is None:
        filename = parameters.get("filename")
    if not filename:
        return name, body
    content_type = headers.get("Content-Type", "application/unknown")
    return name, HTTPFile(filename=filename, body=body, content_type=content_type)


# parameter = ";" token "=" ( token / quoted-string ), RFC 9110 section 5.6.6, with what browsers
# send unquoted. The alternatives start with different characters: no backtracking.
_PARAMETER = re.compile(
    r"""[ \t]*;[ \t]*(?:([^\s;="]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*)))?"""
)
_QUOTED_PAIR = re.compile(r'\\(["\\])')


def _parse_parameters(value: str) -> tuple[str, dict[str, str]]:
    """Split ``kind; name=value; ...``; kind and names come back in lower case.

    Raises :class:`HTTPInputError` if that is not its form, or if a name comes twice.
    """
    kind, _, _ = value.partition(";")
    parameters: dict[str, str] = {}
    position = len(kind)
    end = len(value.rstrip(_OWS))
    while position < end:
        match = _PARAMETER.match(value, position, end)
        if match is None:
            raise HTTPInputError("malformed header parameter")
        position = match.end()
        name, quoted, token = match.groups()
        if name is None:  # a ";" with nothing behind it
            continue
        name = name.lower()
        if name in parameters:
            raise HTTPInputError(f"header parameter {_abbreviate(name)} comes twice")
        # Only these two escapes: browsers leave the backslashes of a Windows path as they are.
        parameters[name] = token if quoted is None else _QUOTED_PAIR.sub(r"\1", quoted)
    return kind.strip(_OWS).lower(), parameters


def _decode_extended(value: str) -> str:
    """Decode ``charset'language'percent-encoded`` (RFC 8187 section 3.2)."""
    charset, _, rest = value.partition("'")
    _, quote, encoded = rest.partition("'")
    if not quote or charset.lower() not in ("utf-8", "iso-8859-1"):
        raise HTTPInputError("malformed filename* parameter")
    try:
        return unquote(encoded, charset, "strict")
    except UnicodeDecodeError as error:
        raise HTTPInputError("malformed filename* parameter") from error


# --------------------------------------------------------------------------------------------
# Interfaces of HTTP connections
# --------------------------------------------------------------------------------------------


class HTTPServerConnectionDelegate:
    """Implement this to handle the requests of a server's connections."""

    def start_request(
        self, server_conn: object, request_conn: HTTPConnection
    ) -> HTTPMessageDelegate:
        """Return the delegate that takes one new request.

        ``server_conn`` stands for the connection, which may carry several requests;
        ``request_conn`` is where this request's response is written.
        """
        raise NotImplementedError

    def on_close(self, server_conn: object) -> None:
        """Called when a connection has been closed."""


class HTTPMessageDelegate:
    """Implement this to take one request or response, piece by piece.

    Where a method returns an awaitable, reading goes on when that is done.
    """

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """Called once the headers have been received and parsed."""
        return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Called with each piece of the body, in order."""
        return None

    def finish(self) -> None:
        """Called after the last piece of the body."""

    def on_connection_close(self) -> None:
        """Called, instead of :meth:`finish`, if the connection closes before the end."""


class HTTPConnection:
    """Interface by which an application writes a response (or a client a request)."""

    def write_headers(
        self,
        start_line: RequestStartLine | ResponseStartLine,
        headers: HTTPHeaders,
        chunk: bytes | None = None,
    ) -> Future[None]:
        """Write the header block, and ``chunk`` as the body's first piece.

        The future is done when the bytes have been handed on, for flow control.
        """
        raise NotImplementedError

    def write(self, chunk: bytes) -> Future[None]:
        """Write a piece of the body; the future is as for :meth:`write_headers`."""
        raise NotImplementedError

    def finish(self) -> None:
        """Tell that the last piece of the body has been written."""
        raise NotImplementedError
