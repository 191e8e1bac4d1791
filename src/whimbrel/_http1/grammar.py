"""The lines of a message: patterns and limits to read them by, and functions that write them.

A server is strict. A client takes two things more, which RFC 9112 allows a recipient: a bare LF as
a line end of the header block (section 2.2), and a status line without the space behind the code.

Every pattern is possessive where it repeats, so that a mismatch costs no more than a match.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from whimbrel._http1.errors import LocalProtocolError, ProtocolError


class Limits(NamedTuple):
    """How much of each part is taken from a peer; bytes, unless it says otherwise."""

    start_line: int = 16 * 1024
    """RFC 9112 section 3 asks for 8,000 at least; signed URLs are longer than that."""
    header_block: int = 64 * 1024
    """Start line included."""
    header_count: int = 2000
    """Field lines of a header block, or of the trailers."""
    chunk_extension: int = 4 * 1024
    """Of one chunk. RFC 9112 section 7.1.1 wants a limit; nobody uses extensions."""
    trailers: int = 16 * 1024
    interim: int = 10
    """Interim (1xx) responses to one request."""
    blank_lines: int = 4
    """CRLFs before a request line, which section 2.2 has a server skip."""


LIMITS = Limits()

# RFC 9110 section 5.6.2.
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
# RFC 9110 section 5.5: VCHAR, obs-text, SP and HTAB. No bare CR, no NUL (section 5.5 again).
_TEXT = rb"[\t\x20-\x7e\x80-\xff]"

# RFC 9112 section 4: status-line = HTTP-version SP status-code SP [ reason-phrase ].
STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: (" + _TEXT + rb"*+))?\r?\n")
# RFC 9112 section 3: request-line = method SP request-target SP HTTP-version. No fragment in the
# target (RFC 3986 section 3.5: it is the client's own), and no "\", which some take for "/", in
# its path. What browsers leave raw otherwise, such as "|" or a "\" in a query, passes.
_TARGET = rb"[\x21-\x22\x24-\x3e\x40-\x5b\x5d-\x7e]*+(?:\?[\x21-\x22\x24-\x7e]*+)?+"
REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb"++) (" + _TARGET + rb") HTTP/1\.([01])\r\n")
METHOD_END = re.compile(rb"[^" + _TOKEN[1:])

# RFC 9112 section 5: field-line = field-name ":" OWS field-value OWS. No white space before the
# colon (5.1), no obs-fold (5.2), for either role.
_FIELD = _TOKEN + rb"++:" + _TEXT + rb"*+"
CLIENT_FIELDS = re.compile(rb"(?:" + _FIELD + rb"\r?\n)*+\r?\n")
SERVER_FIELDS = re.compile(rb"(?:" + _FIELD + rb"\r\n)*+\r\n")
_FIELD_LINE = re.compile(_FIELD + rb"\r?")
BARE_LF = re.compile(rb"\n(?<!\r\n)")

# Of a lower-case block: the fields that decide framing, persistence and what follows.
SPECIAL_FIELD = re.compile(
    rb"\n(connection|content-encoding|content-length|expect|host|transfer-encoding):"
    rb"[ \t]*+([^\r\n]*+)"
)

# RFC 9112 section 7.1: chunk-size [ chunk-ext ] CRLF; never a bare LF, which is how requests are
# smuggled. 16 digits are more bytes than there are.
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16}+)(?:[ \t]*+;" + _TEXT + rb"*+)?\r\n")
CHUNK_SIZE_BEGUN = re.compile(rb"([0-9A-Fa-f]{1,16}+)(?:\r|[ \t]*+(?:;" + _TEXT + rb"*+\r?)?)")
MAX_LENGTH = 2**63 - 1

# RFC 9110 section 7.2: uri-host [ ":" port ]; empty where the target has no authority.
HOST = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+(?:%25[0-9A-Za-z._~\-]+)?\]"
    rb"|(?:[0-9A-Za-z\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})*)(?::[0-9]{0,5})?"
)
# RFC 9112 section 3.2: origin-form, absolute-form, authority-form (CONNECT), "*" (OPTIONS).
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*:.")
_AUTHORITY = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z\-._~!$&'()*+,;=%]+):[0-9]{1,5}")


def target_fits(method: bytes, target: bytes) -> bool:
    """Whether a request target has the form that its method asks for (RFC 9112 section 3.2)."""
    if target[:1] == b"/":
        return method != b"CONNECT"
    if method == b"CONNECT":
        return _AUTHORITY.fullmatch(target) is not None
    if target == b"*":
        return method == b"OPTIONS"
    return _ABSOLUTE.match(target) is not None


def shown(data: bytes, most: int = 60) -> str:
    """A peer's bytes as they may stand in a message."""
    text = repr(bytes(data[:most]))[1:]
    return f"{text}..." if len(data) > most else text


def field_error(block: bytes) -> ProtocolError:
    """Say what is wrong with a block of field lines that does not match."""
    for line in block.split(b"\n"):
        text = line.removesuffix(b"\r")
        if not _FIELD_LINE.fullmatch(line) and text:
            if text[:1] in (b" ", b"\t"):
                return ProtocolError("a folded header line")  # RFC 9112 section 5.2
            name, colon, _ = text.partition(b":")
            if not colon:
                return ProtocolError(f"a header line without a colon: {shown(text)}")
            if not re.fullmatch(_TOKEN + rb"+", name):
                return ProtocolError(f"a malformed header name: {shown(name)}")
            # The value is not shown: it may be a secret.
            return ProtocolError(f"a control character in header {shown(name)}")
    return ProtocolError("a header line that does not end in CRLF")


# Writing. What a caller hands in is checked here, once, so that no byte of it can end a line.

_NAME_OUT = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++")
_TEXT_OUT = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_TARGET_OUT = re.compile(r"[\x21-\x22\x24-\x7e]+")


def encode_fields(fields: Sequence[tuple[str, str]]) -> bytes:
    """Field lines for (name, value) pairs, without the blank line.

    Raises LocalProtocolError for a name that is no token, or a value that holds a control
    character or is not Latin-1.
    """
    names = tuple([name for name, _ in fields])
    # White space at its ends is not part of a value (RFC 9110 section 5.5).
    values = tuple([value.strip(" \t") for _, value in fields])
    template = _templates.get(names)
    if template is None:
        template = _template(fields, names)
    text = "".join(values)
    if not ((text.isascii() and text.isprintable()) or _TEXT_OUT.fullmatch(text)):
        raise _field_fault(fields)
    lines = template % values
    if "" in values:
        lines = lines.replace(": \r\n", ":\r\n")
    return lines.encode("latin-1")


# Field lines without their values, by their names, which have been checked: most messages of a
# program have the same. Bounded in number and in length.
_templates: dict[tuple[str, ...], str] = {}
_TEMPLATES = 256
_LONGEST_TEMPLATE = 1024


def _template(fields: Sequence[tuple[str, str]], names: tuple[str, ...]) -> str:
    if not all(map(_NAME_OUT.fullmatch, names)):
        raise _field_fault(fields)
    template = "".join([f"{name.replace('%', '%%')}: %s\r\n" for name in names])
    if len(template) <= _LONGEST_TEMPLATE:
        if len(_templates) >= _TEMPLATES:
            _templates.clear()
        _templates[names] = template
    return template


def _field_fault(fields: Sequence[tuple[str, str]]) -> LocalProtocolError:
    """Say what is wrong with fields that cannot be sent."""
    for name, value in fields:
        if not _NAME_OUT.fullmatch(name):
            return LocalProtocolError(f"{name!r} cannot be a header name")
        if not _TEXT_OUT.fullmatch(value):
            break
    return LocalProtocolError(
        f"header {name} holds a character that HTTP does not allow in a value"
    )


def encode_request_line(method: str, target: str) -> bytes:
    """``method target HTTP/1.1``; raises LocalProtocolError for what cannot stand there."""
    if not _NAME_OUT.fullmatch(method):
        raise LocalProtocolError(f"{method!r} cannot be a method")
    if not _TARGET_OUT.fullmatch(target):
        raise LocalProtocolError(
            "the request target holds a space, a fragment or an illegal character"
        )
    return f"{method} {target} HTTP/1.1\r\n".encode("latin-1")


def encode_status_line(code: int, reason: str) -> bytes:
    """``HTTP/1.1 code reason``; raises LocalProtocolError for what cannot stand there."""
    if not 100 <= code <= 999:
        raise LocalProtocolError(f"{code} cannot be a status code")
    if not _TEXT_OUT.fullmatch(reason):
        raise LocalProtocolError("the reason phrase holds an illegal character")
    return f"HTTP/1.1 {code} {reason}\r\n".encode("latin-1")


def encode_chunk(data: bytes) -> bytes:
    """One chunk (RFC 9112 section 7.1); `data` must not be empty, which would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
