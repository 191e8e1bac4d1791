"""What all requests of one `Profile` share: how their heads are made, and where they connect."""

from __future__ import annotations

import re
from typing import NamedTuple

from whimbrel._http1.grammar import encode_fields
from whimbrel._policy.exchange import Exchange, Profile
from whimbrel._policy.fields import Fields, asks_to_close, basic_authorization, names_in
from whimbrel._simple.errors import CapabilityError
from whimbrel._simple.pool import Bucket, Pool
from whimbrel._simple.route import route_of

_USE_CURL = (
    "use whimbrel.curl_httpclient.CurlAsyncHTTPClient (AsyncHTTPClient.configure; it needs pycurl)"
)
_ZONE = re.compile(r"%25[^\]]*")
# Hosts whose bucket a plan remembers.
_HOSTS = 1024


class Ready:
    """What is known of an exchange that is fetched again and again (`Exchange.memo`).

    Attributes:
        head: of a request that is no more than a head; any other's is made when it is sent.
        keep_alive: whether the connection may be used again: False once a caller's Connection
            field says "close" (RFC 9112 9.6).
    """

    __slots__ = ("bucket", "head", "keep_alive", "plan")

    def __init__(self, plan: Plan, bucket: Bucket, head: bytes, *, keep_alive: bool) -> None:
        self.plan = plan
        self.bucket = bucket
        self.head = head
        self.keep_alive = keep_alive

    def __repr__(self) -> str:
        return f"Ready({self.plan.profile!r})"  # credentials are in the head


class Lines(NamedTuple):
    """Field lines of requests."""

    text: str
    has_host: bool
    keep_alive: bool
    """See `Ready`."""

    def __repr__(self) -> str:
        return f"Lines({len(self.text)} bytes)"  # credentials among them


class Plan:
    """The request heads of one profile, and the buckets of its connections.

    Attributes:
        absolute: whether the request target is the whole URL, for a proxy (RFC 9112 3.2.2).
        has_digest: whether credentials wait for a challenge, from the origin or from a proxy that
            the request itself is for; the latter alone is `proxy_digest`.
        is_plain: whether a request is the head alone, and no more depends on the exchange.

    What each request looks at is taken out of the profile: a tuple's names are slow to read.
    """

    __slots__ = (
        "_buckets",
        "_fields",
        "_lines",
        "_proxy_line",
        "absolute",
        "decompress",
        "has_digest",
        "is_plain",
        "max_body_size",
        "method",
        "profile",
        "proxy_digest",
        "proxy_url",
        "stall_timeout",
    )

    def __init__(self, profile: Profile) -> None:
        """Raises CapabilityError for what only libcurl can do."""
        refuse(profile)
        self.profile = profile
        proxy = profile.proxy
        self.absolute = proxy is not None and not proxy.is_socks and profile.scheme == "http"
        self.proxy_digest = (
            self.absolute
            and proxy is not None
            and proxy.auth_mode == "digest"
            and proxy.username is not None
        )
        self.has_digest = self.proxy_digest or profile.auth is not None
        self.is_plain = profile.body == "none" and not self.has_digest
        self._proxy_line = ""
        if (
            self.absolute
            and proxy is not None
            and proxy.auth_mode == "basic"
            and proxy.username is not None
        ):
            value = basic_authorization(proxy.username, proxy.password or "")
            line = encode_fields([("Proxy-Authorization", value)])
            self._proxy_line = line.decode("latin-1")
        self.method = profile.method
        self.max_body_size = profile.max_body_size
        self.decompress = profile.decompress
        self.stall_timeout = profile.stall_timeout
        self.proxy_url = None if proxy is None else proxy.url
        self._fields: Fields | None = None  # whose lines are remembered
        self._lines: Lines
        self._buckets: dict[str, Bucket] = {}

    def lines(self, fields: Fields) -> Lines:
        """Of an exchange's fields. The last ones are remembered: most requests have the same."""
        if fields is not self._fields:
            names = names_in(fields)
            self._lines = Lines(
                encode_fields(fields).decode("latin-1") + self._proxy_line,
                ":host:" in names,
                not asks_to_close(fields, names),
            )
            self._fields = fields
        return self._lines

    def head(self, exchange: Exchange, more: str = "") -> bytes:
        """Start line and header block of a request; `more` is further field lines."""
        url = exchange.url
        target = url.href if self.absolute else url.target
        netloc = url.netloc
        if "%" in netloc:
            # RFC 6874 section 4: a zone is this machine's own affair.
            netloc = _ZONE.sub("", netloc)
        lines = self.lines(exchange.fields)
        host = "" if lines.has_host else f"Host: {netloc}\r\n"
        text = f"{self.method} {target} HTTP/1.1\r\n{host}{lines.text}{more}\r\n"
        return text.encode("latin-1")

    def ready(self, pool: Pool, exchange: Exchange) -> Ready:
        """All that is known before it is sent. A shared exchange remembers it."""
        head = self.head(exchange) if self.is_plain else b""
        keep_alive = self.lines(exchange.fields).keep_alive
        found = Ready(self, self.bucket(pool, exchange), head, keep_alive=keep_alive)
        if exchange.shared:
            exchange.memo = found
        return found

    def bucket(self, pool: Pool, exchange: Exchange) -> Bucket:
        """Where connections that can carry `exchange` idle."""
        if exchange.connect_to is not None:
            return pool.bucket(route_of(exchange))
        netloc = exchange.url.netloc
        found = self._buckets.get(netloc)
        if found is None or not found.is_known:
            if len(self._buckets) >= _HOSTS:
                self._buckets.clear()
            found = self._buckets[netloc] = pool.bucket(route_of(exchange))
        return found


def refuse(profile: Profile) -> None:
    """Raise CapabilityError for what HTTP/1.1 in pure Python cannot do."""
    if profile.http_version not in (None, "1.1"):
        raise CapabilityError(
            f"http_version {profile.http_version!r}: the simple backend speaks HTTP/1.1 only;"
            f" {_USE_CURL}"
        )
    if profile.auth is not None and profile.auth.mode == "negotiate":
        raise CapabilityError(
            f"auth_mode 'negotiate': the simple backend knows no Kerberos; {_USE_CURL}"
        )
    if profile.proxy is not None and profile.proxy.auth_mode == "negotiate":
        raise CapabilityError(
            f"proxy_auth_mode 'negotiate': the simple backend knows no Kerberos; {_USE_CURL}"
        )
