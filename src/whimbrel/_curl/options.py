"""From a Profile to libcurl options: a table, and small functions for what is coupled.

`plan` is pure: no handle, no network. Units are converted only here, in the converters. Every
parameter of HTTPRequest stands in `FIELDS`, with the option it becomes or the reason why it
becomes none; a test holds the two together, and the page in docs is made from it.
"""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import pycurl

from whimbrel._curl import capabilities
from whimbrel._curl.tls import tls_options
from whimbrel._policy.exchange import Profile
from whimbrel._policy.fields import Fields, asks_to_close, names_in

Pair = tuple[int, Any]


class Plan:
    """What all requests of a profile share.

    What each of them looks at is taken out of the profile: a tuple's names are slow to read.

    Attributes:
        options: in the order in which they are set; `field_options` come on top.
        lasting: whether a handle with these options may serve another URL without a reset. Digest
            and Negotiate leave a state in the handle that belongs to one origin.
        tunnel: whether a proxy answers CONNECT before the request is sent.
    """

    __slots__ = ("lasting", "max_body_size", "options", "proxy_url", "stall_timeout", "tunnel")

    def __init__(self, profile: Profile, options: tuple[Pair, ...]) -> None:
        proxy, auth = profile.proxy, profile.auth
        multi_round = auth is not None or (proxy is not None and proxy.auth_mode != "basic")
        self.options = options
        self.lasting = not multi_round and profile.body != "stream"
        self.tunnel = proxy is not None and not proxy.is_socks and profile.scheme == "https"
        self.max_body_size = profile.max_body_size
        self.stall_timeout = profile.stall_timeout
        self.proxy_url = None if proxy is None else proxy.url

    def __repr__(self) -> str:
        return f"Plan({len(self.options)} options)"  # passwords among them


def milliseconds(seconds: float) -> int:
    """Whole milliseconds, rounded up: libcurl reads 0 as "no limit", so 0.0004 s must be 1.

    0 seconds, our "no limit", becomes the most libcurl takes: its own 0 means 300 s for
    CONNECTTIMEOUT_MS.
    """
    if not seconds:
        return 2**31 - 1
    return min(max(1, math.ceil(seconds * 1000)), 2**31 - 1)


BUFFER = 128 * 1024
"""What libcurl reads at once, in bytes."""

# What every transfer sets. FOLLOWLOCATION, NETRC and the cookie engine stay off.
BASE: tuple[Pair, ...] = (
    (pycurl.NOSIGNAL, 1),
    # Without it file:// is served; the bitmask, for pycurl has no PROTOCOLS_STR.
    (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
    (pycurl.REDIR_PROTOCOLS, 0),
    (pycurl.PATH_AS_IS, 1),
    # The environment is read by us; libcurl's NO_PROXY would overrule an explicit proxy.
    (pycurl.NOPROXY, ""),
    (pycurl.BUFFERSIZE, BUFFER),
)

_HTTP_VERSIONS = {
    "1.1": ("CURL_HTTP_VERSION_1_1", "7.9.1", None),
    "2": ("CURL_HTTP_VERSION_2TLS", "7.47.0", "VERSION_HTTP2"),
    "2-prior-knowledge": ("CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE", "7.49.0", "VERSION_HTTP2"),
    "3": ("CURL_HTTP_VERSION_3", "7.66.0", "VERSION_HTTP3"),
    "3-only": ("CURL_HTTP_VERSION_3ONLY", "7.88.0", "VERSION_HTTP3"),
}
_HTTPAUTH = {"digest": "HTTPAUTH_DIGEST", "negotiate": "HTTPAUTH_NEGOTIATE"}
_PROXYAUTH = {**_HTTPAUTH, "basic": "HTTPAUTH_BASIC"}


def http_version(value: str) -> int:
    name, since, feature = _HTTP_VERSIONS[value]
    if feature is not None and not capabilities.has_feature(feature):
        raise capabilities.lacking("HTTP_VERSION", since, feature=f"http_version {value!r}")
    return capabilities.option(name, since, feature=f"http_version {value!r}")


def interface(value: str) -> bytes:
    """An address or a name, marked as such: libcurl guesses wrong for IPv6 without the mark."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return f"if!{value}".encode()
    return f"host!{value}".encode()


class Simple(NamedTuple):
    """A parameter that becomes one option, where it is set."""

    option: str
    since: str
    convert: Callable[[Any], Any] = lambda value: value


SIMPLE: dict[str, Simple] = {
    "network_interface": Simple("INTERFACE", "7.24.0", interface),
    "http_version": Simple("HTTP_VERSION", "7.9.1", http_version),
    "unix_socket": Simple("UNIX_SOCKET_PATH", "7.40.0", os.fsencode),
    "allow_ipv6": Simple(
        "IPRESOLVE",
        "7.10.8",
        lambda allowed: pycurl.IPRESOLVE_WHATEVER if allowed else pycurl.IPRESOLVE_V4,
    ),
}


def method_and_body(profile: Profile) -> Iterator[Pair]:
    """HTTPGET, NOBODY, POST, UPLOAD and CUSTOMREQUEST exclude and override one another."""
    method = profile.method
    if profile.body == "bytes":
        # POSTFIELDS itself is set per request.
        yield pycurl.POST, 1
        if method != "POST":
            yield pycurl.CUSTOMREQUEST, method
    elif profile.body == "stream":
        yield pycurl.UPLOAD, 1
        if method != "PUT":
            yield pycurl.CUSTOMREQUEST, method
    elif method == "HEAD":
        yield pycurl.NOBODY, 1
    elif method != "GET":
        yield pycurl.CUSTOMREQUEST, method
    if profile.expect_100_continue:
        # No body before 100, however long that takes; request_timeout bounds it.
        yield pycurl.EXPECT_100_TIMEOUT_MS, 2**31 - 1


def field_options(profile: Profile, fields: Fields) -> list[Pair]:
    """What an exchange's header fields become: for a profile always the same options, so that each
    replaces all that was set for the exchange before."""
    names = names_in(fields)
    lines = [f"{name}: {value}" if value.strip(" \t") else f"{name};" for name, value in fields]
    # A name with nothing behind the colon takes libcurl's own field out.
    if ":accept:" not in names:
        lines.append("Accept:")
    if profile.body != "none":
        if ":content-type:" not in names:
            lines.append("Content-Type:")
        lines.append("Expect: 100-continue" if profile.expect_100_continue else "Expect:")
    proxy = profile.proxy
    if proxy is not None and profile.scheme == "http":
        lines.append("Proxy-Connection:")
    pairs: list[Pair] = [(pycurl.HTTPHEADER, [line.encode("latin-1") for line in lines])]
    if profile.unix_socket is None:
        # libcurl sends a caller's Connection field, and does not read it.
        pairs.append((pycurl.FORBID_REUSE, int(asks_to_close(fields, names))))
    if proxy is not None and not proxy.is_socks:
        # Of CONNECT, which would have pycurl's own.
        agents = [value for name, value in fields if name.lower() == "user-agent"]
        pairs.append((pycurl.USERAGENT, agents[0].encode("latin-1") if agents else b""))
    return pairs


def auth(profile: Profile) -> Iterator[Pair]:
    credentials = profile.auth
    if credentials is None:
        return
    yield pycurl.HTTPAUTH, capabilities.option(_HTTPAUTH[credentials.mode], "7.38.0")
    yield pycurl.USERNAME, credentials.username.encode()
    yield pycurl.PASSWORD, credentials.password.encode()


def proxy(profile: Profile) -> Iterator[Pair]:
    proxy = profile.proxy
    if proxy is None:
        yield pycurl.PROXY, ""  # None would let libcurl read the environment
        return
    if proxy.scheme == "https" and not capabilities.has_feature("VERSION_HTTPS_PROXY"):
        raise capabilities.lacking("PROXY", "7.52.0", feature="an https proxy")
    yield pycurl.PROXY, proxy.url
    if proxy.username is not None:
        yield pycurl.PROXYUSERNAME, proxy.username.encode()
        yield pycurl.PROXYPASSWORD, (proxy.password or "").encode()
    elif proxy.auth_mode == "negotiate":
        yield pycurl.PROXYUSERNAME, b""
        yield pycurl.PROXYPASSWORD, b""
    if not proxy.is_socks:
        yield pycurl.PROXYAUTH, capabilities.option(_PROXYAUTH[proxy.auth_mode], "7.38.0")
    if not proxy.is_socks:
        # Fields meant for the origin stay inside the tunnel; CONNECT gets no Proxy-Connection,
        # which was never a standard.
        yield pycurl.HEADEROPT, pycurl.HEADER_SEPARATE
        yield pycurl.PROXYHEADER, (b"Proxy-Connection:",)


def tls(profile: Profile) -> Iterator[Pair]:
    if profile.scheme == "https":
        yield from tls_options(profile.tls, "")
    if profile.proxy is not None and profile.proxy.scheme == "https":
        yield from tls_options(profile.proxy_tls, "PROXY_")


def reuse(profile: Profile) -> Iterator[Pair]:
    if profile.unix_socket is not None:
        # Its ends have no addresses, by which a connection that must not be used again is known.
        yield pycurl.FORBID_REUSE, 1
    if profile.http_version not in (None, "1.1"):
        # Wait for the first connection to tell whether it takes more streams.
        yield pycurl.PIPEWAIT, 1


GROUPS: tuple[Callable[[Profile], Iterator[Pair]], ...] = (
    method_and_body,
    auth,
    proxy,
    tls,
    reuse,
)


@lru_cache(maxsize=512)
def plan(profile: Profile) -> Plan:
    """Return the options of a profile.

    Raises CapabilityError for what this libcurl lacks, ValueError for what cannot be mapped.
    """
    pairs = list(BASE)
    for name, row in SIMPLE.items():
        value = getattr(profile, name)
        if value is not None and value is not True:
            pairs.append((capabilities.option(row.option, row.since), row.convert(value)))
    for group in GROUPS:
        pairs.extend(group(profile))
    return Plan(profile, tuple(pairs))


_PIPELINE = "decided by the pipeline, before a backend is asked"

FIELDS: dict[str, str] = {
    "url": "URL",
    "method": "HTTPGET, NOBODY, POST, UPLOAD, CUSTOMREQUEST",
    "headers": "HTTPHEADER",
    "body": "POSTFIELDS and POSTFIELDSIZE_LARGE; an iterable as body_producer",
    "auth_username": "HTTPHEADER (basic), USERNAME (digest, negotiate)",
    "auth_password": "HTTPHEADER (basic), PASSWORD (digest, negotiate)",
    "auth_mode": "HTTPAUTH; basic and bearer are an Authorization field",
    "connect_timeout": "CONNECTTIMEOUT_MS",
    "request_timeout": "TIMEOUT_MS",
    "if_modified_since": "HTTPHEADER: TIMECONDITION would drop the body of a 200",
    "follow_redirects": f"none: {_PIPELINE}; FOLLOWLOCATION stays off",
    "max_redirects": f"none: {_PIPELINE}",
    "user_agent": "HTTPHEADER",
    "use_gzip": "none: the old name of decompress_response",
    "network_interface": "INTERFACE",
    "streaming_callback": "WRITEFUNCTION",
    "header_callback": "HEADERFUNCTION",
    "prepare_curl_callback": "whatever it sets; the handle is thrown away afterwards",
    "proxy_host": "PROXY",
    "proxy_port": "PROXY",
    "proxy_username": "PROXYUSERNAME",
    "proxy_password": "PROXYPASSWORD",
    "proxy_auth_mode": "PROXYAUTH",
    "allow_nonstandard_methods": f"none: {_PIPELINE}",
    "validate_cert": "SSL_VERIFYPEER, SSL_VERIFYHOST",
    "ca_certs": "CAINFO (file), CAINFO_BLOB (bytes); PROXY_CAINFO, PROXY_CAINFO_BLOB",
    "allow_ipv6": "IPRESOLVE",
    "client_key": "SSLKEY",
    "client_cert": "SSLCERT",
    "body_producer": "UPLOAD, READFUNCTION, SEEKFUNCTION, INFILESIZE_LARGE",
    "expect_100_continue": "HTTPHEADER, EXPECT_100_TIMEOUT_MS",
    "decompress_response": "HTTPHEADER: bodies are decoded in Python, which sees a cut one",
    "ssl_options": "CAINFO_BLOB, SSL_VERIFYPEER, SSL_VERIFYHOST, SSLVERSION, SSL_CIPHER_LIST,"
    " TLS13_CIPHERS; of a dict CAINFO, SSLCERT, SSLKEY",
    "params": f"none: {_PIPELINE}, as part of URL",
    "json": "POSTFIELDS",
    "form": "POSTFIELDS",
    "proxy": "PROXY, PROXYUSERNAME, PROXYPASSWORD, PROXYAUTH, HEADEROPT, PROXYHEADER, USERAGENT",
    "proxy_ssl": "PROXY_CAINFO_BLOB, PROXY_SSL_VERIFYPEER, PROXY_SSL_VERIFYHOST, …",
    "auth_token": "HTTPHEADER",
    "http_version": "HTTP_VERSION, PIPEWAIT",
    "queue_timeout": f"none: {_PIPELINE}",
    "stall_timeout": "none: the transfer watches; LOW_SPEED_TIME counts in whole seconds",
    "max_body_size": "none: counted in WRITEFUNCTION, decoded",
    "unix_socket": "UNIX_SOCKET_PATH, FORBID_REUSE",
}
"""Every parameter of HTTPRequest, and the libcurl options it becomes."""
