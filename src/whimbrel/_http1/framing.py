"""Where a message's body ends: RFC 9112 section 6.3, as tables."""

from __future__ import annotations

import re
from typing import Final

from whimbrel._http1.errors import ProtocolError
from whimbrel._http1.grammar import MAX_LENGTH, shown

NONE: Final = "none"
LENGTH: Final = "length"
CHUNKED: Final = "chunked"
CLOSE: Final = "close"
REFUSED: Final = "refused"

# By (Transfer-Encoding is there, Content-Length is there).
RESPONSE: Final[dict[tuple[bool, bool], str]] = {
    (True, True): REFUSED,  # 6.3 rule 3: it might be an attempt at response splitting
    (True, False): CHUNKED,  # rule 4
    (False, True): LENGTH,  # rule 6
    (False, False): CLOSE,  # rule 8
}
REQUEST: Final[dict[tuple[bool, bool], str]] = {
    **RESPONSE,
    (False, False): NONE,  # rule 7
}

_DIGITS = re.compile(rb"[0-9]{1,19}")


def response_has_no_body(method: str, code: int) -> bool:
    """6.3 rules 1 and 2: HEAD, 1xx, 204, 304; and CONNECT, whose 2xx begins a tunnel."""
    if code == 204 or code == 304 or code < 200:
        return True
    return method == "HEAD" or (method == "CONNECT" and code < 300)


def transfer_encoding(values: list[bytes]) -> None:
    """Accept ``chunked``, alone and once (6.1); raise ProtocolError for all else."""
    if len(values) != 1 or values[0].lower() != b"chunked":
        raise ProtocolError(f"Transfer-Encoding {shown(b', '.join(values))}, not just chunked")


def content_length(values: list[bytes], *, repeated: bool) -> int:
    """The number of bytes that Content-Length gives.

    `repeated` accepts a list whose members are all the same number (6.3 rule 5). Raises
    ProtocolError for anything that is not one number of decimal digits.
    """
    if len(values) == 1 and values[0].isdigit() and len(values[0]) < 19:
        return int(values[0])
    members = [member.strip(b" \t") for value in values for member in value.split(b",")]
    if len(members) > 1 and (not repeated or any(m != members[0] for m in members)):
        raise ProtocolError(f"unclear Content-Length {shown(b', '.join(values))}")
    if not _DIGITS.fullmatch(members[0]):
        raise ProtocolError(f"Content-Length {shown(values[0])} is not a number")
    length = int(members[0])
    if length > MAX_LENGTH:
        raise ProtocolError(f"Content-Length {length} is more than there can be")
    return length
