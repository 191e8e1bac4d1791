"""The backends under test, and where they are allowed to differ.

A backend joins the conformance suite by a line in `BACKENDS`. A test that a backend cannot pass
for a reason that is accepted carries ``@pytest.mark.known_difference(NAME)``, and the reason stands
in `KNOWN_DIFFERENCES`; the test is then expected to fail on that backend, and its passing is an
error. Nothing else may differ.
"""

from __future__ import annotations

from typing import NamedTuple

BACKENDS: dict[str, str] = {
    "curl": "whimbrel.curl_httpclient.CurlAsyncHTTPClient",
    "simple": "whimbrel.simple_httpclient.SimpleAsyncHTTPClient",
}


class KnownDifference(NamedTuple):
    """One accepted difference: the documentation's table is to say the same."""

    name: str
    backend: str
    reason: str
    raises: type[Exception] | None = None
    """What the backend raises for a thing that it does not have; None where it behaves in another
    way. A test that fails in any other manner fails."""


KNOWN_DIFFERENCES: tuple[KnownDifference, ...] = (
    KnownDifference(
        "417-body",
        "curl",
        "the body of a 417 to Expect: 100-continue is empty: libcurl throws it away, to send the"
        " request again without Expect, which whimbrel stops",
    ),
    KnownDifference(
        "early-chunked-response",
        "curl",
        "a chunked 2xx that comes instead of 100 Continue ends at the deadline: libcurl waits on"
        " for the 100, and only Content-Length tells whimbrel where the response ends",
    ),
    KnownDifference(
        "partial-status-line",
        "curl",
        "on a reused connection that closes within the status line, a GET is sent once more:"
        " libcurl counts a response from its first whole line on",
    ),
    KnownDifference(
        "http-2-and-3",
        "simple",
        'every `http_version` but None and "1.1" raises `CapabilityError`: the backend is an'
        " implementation of HTTP/1.1",
        NotImplementedError,
    ),
    KnownDifference(
        "negotiate",
        "simple",
        '`auth_mode` and `proxy_auth_mode` "negotiate" raise `CapabilityError`: Python has no'
        " Kerberos of its own",
        NotImplementedError,
    ),
    KnownDifference(
        "prepare_curl_callback",
        "simple",
        "it raises `CapabilityError`: there is no libcurl handle to prepare",
        NotImplementedError,
    ),
)


def known_difference(name: str, backend: str) -> KnownDifference | None:
    """Return the entry called `name` for `backend`; raises KeyError for a name in no entry."""
    entries = [entry for entry in KNOWN_DIFFERENCES if entry.name == name]
    if not entries:
        raise KeyError(name)
    return next((entry for entry in entries if entry.backend == backend), None)


# A base class that every failure of a backend has besides the common ones; simple has none.
ERROR_BASES: dict[str, str] = {
    "curl": "whimbrel.curl_httpclient.CurlError",
}
