"""Plain requests: what `prepare` made of one holds for the next, but for what differs.

Most requests of most programs are no more than a URL, a method, header fields, a body of bytes and
perhaps a proxy, on top of the defaults. Only those parts are looked at again.
"""

from __future__ import annotations

import re
from typing import Any

from whimbrel._policy.exchange import ADDS_FIELDS, Exchange, lacks_address
from whimbrel._policy.fields import Fields, caller_fields, complete_fields, names_in
from whimbrel._policy.urls import URL, parse_url

MOST = 4096
"""Plain requests that are remembered, of all methods and proxies."""

# Of sets of names; and of the names of one, in characters.
_MOST_ADDED = 256
_LONGEST = 512

_PLAIN = str.__str__  # of an Enum's member its text; a TypeError for what is no str

Added = dict[tuple[str, ...], Fields]
"""The names of a caller's fields that have been looked at, and what is added to those fields."""

Found = tuple[Exchange, float]
"""Of a request that is known: its Exchange, and its queue time-out."""

# Fields that decide more than themselves; `prepare` knows what. Whatever they decided is in its
# Profile, and holds for that request alone.
_SPECIAL = re.compile(":(?:content-length|expect|host|proxy-authorization|transfer-encoding):")


class PlainRequests:
    """What a client knows of the plain requests that it made.

    It holds under the defaults that they had, and those of a client may change at any time.

    Attributes:
        defaults: a copy of those.
        shares: see `__init__`.
    """

    __slots__ = ("_added", "_count", "_kinds", "_learns", "_urls", "defaults", "shares")

    def __init__(self, *, shares: bool, learns: bool) -> None:
        """`shares`: whether the backend takes one Exchange for several fetches. `learns` False:
        each request has to be looked at for itself."""
        self.shares = shares
        self._learns = learns
        self._kinds: dict[tuple[str, str | None, bool], Plain] = {}
        self._urls: dict[str, Found] = {}  # those of GETs without a proxy, where they are shared
        self._added: tuple[Added, Added] = ({}, {})  # of all kinds; without a form, and with one
        self._count = 0
        self.defaults: dict[str, Any] = {}

    def find_url(self, defaults: dict[str, Any], url: str) -> Found | None:
        """For a GET of a URL and nothing else; None as in `find`."""
        found = self._urls.get(url)
        if found is not None and self.defaults == defaults:
            return found
        return self.find(defaults, "GET", url, None, None, None)

    def find(
        self,
        defaults: dict[str, Any],
        method: str,
        url: str,
        proxy: str | None,
        headers: Any,
        body: bytes | None,
    ) -> Found | None:
        """What nothing but these amounts to; None to go the long way, which says what is wrong."""
        plain = self._kinds.get((method, proxy, body is not None))
        if plain is None or self.defaults != defaults:
            return None
        if headers or body is not None:
            return plain.vary(url, headers, body)
        found = plain.urls.get(url)
        if found is None:
            found = plain.learn(url)
            if found is None:
                return None
            self._count_one()
        if not self.shares:
            exchange, queue_timeout = found
            return exchange.to(exchange.url), queue_timeout
        return found

    def remember(
        self,
        exchange: Exchange,
        queue_timeout: float,
        options: dict[str, Any],
        given: dict[str, Any],
        defaults: dict[str, Any],
    ) -> None:
        """Learn from a plain request, which gave those parameters on top of the defaults."""
        has_body = given.get("body") is not None
        if (
            self._learns
            and exchange.profile.body == ("bytes" if has_body else "none")
            and exchange.url.username is None
            and exchange.on_head is None
            and exchange.prepare_curl_callback is None
            and not any(name in defaults for name in ("params", "unix_socket"))
            # A container or an SSLContext may change behind an equality that still holds.
            and all(isinstance(value, str | int | float) for value in defaults.values())
            and not _is_special(options.get("headers"))
        ):
            if self.defaults != defaults:
                self._clear()
                self.defaults = dict(defaults)
            key = exchange.profile.method, given.get("proxy"), has_body
            if key not in self._kinds:
                self._count_one()  # a template takes as much room
                varies = ADDS_FIELDS.isdisjoint(options)
                user_agent = options["user_agent"] if varies else None
                plain = Plain(queue_timeout, user_agent, self._added)
                self._kinds[key] = plain
                if self.shares and key == ("GET", None, False):
                    self._urls = plain.urls
            self._kinds[key].add(exchange, given.get("headers"))

    def _count_one(self) -> None:
        """One more is remembered, perhaps of a proxy or a URL that never comes again."""
        self._count += 1
        if self._count > MOST:
            self._clear()

    def _clear(self) -> None:
        self._kinds.clear()
        self._urls = {}
        self._added = ({}, {})
        self._count = 0


def _is_special(headers: Any) -> bool:
    """Whether other requests cannot learn from one with these headers, which are well-formed."""
    return bool(headers) and _SPECIAL.search(names_in(caller_fields(headers))) is not None


def _is_form(exchange: Exchange) -> bool:
    """Whether a body of which nothing is said is taken for a form."""
    profile = exchange.profile
    return profile.method == "POST" and profile.body != "none"


class Plain:
    """What plain requests of one method, through one proxy, with a body or without, amount to.

    Attributes:
        urls: what requests without header fields and body amount to, by their URLs.
    """

    __slots__ = ("_added", "_queue_timeout", "_templates", "_user_agent", "urls")

    def __init__(
        self, queue_timeout: float, user_agent: str | bytes | None, added: tuple[Added, Added]
    ) -> None:
        """`user_agent` None: credentials or the like are among the fields of all these requests."""
        self._templates: dict[str, Exchange] = {}  # by scheme, without fields of the caller's
        self._user_agent = user_agent
        self._added = added
        self._queue_timeout = queue_timeout
        self.urls: dict[str, Found] = {}

    def add(self, exchange: Exchange, headers: Any) -> None:
        """Make others like `exchange`, which goes on to change, and had those `headers`."""
        template = exchange.to(exchange.url)
        if headers:
            if self._user_agent is None:
                return
            template.fields = self._complete([], ":", self._user_agent, exchange)
        self._templates[exchange.profile.scheme] = template

    def learn(self, url: str) -> Found | None:
        """What a URL amounts to that is new here; None for one that needs a closer look."""
        found = self._find(url)
        if found is None:
            return None
        template, parsed = found
        exchange = template.to(parsed)
        exchange.shared = True
        known = self.urls[url] = exchange, self._queue_timeout
        return known

    def vary(self, url: str, headers: Any, body: bytes | None) -> Found | None:
        """The same with header fields or a body of its own, which is not remembered."""
        found = self._find(url)
        if found is None:
            return None
        template, parsed = found
        exchange = template.to(parsed)
        if headers:
            fields = self._fields_of(headers, template)
            if fields is None:
                return None
            exchange.fields = fields
        if body is not None:
            exchange.body = body
        return exchange, self._queue_timeout

    def _fields_of(self, headers: Any, exchange: Exchange) -> Fields | None:
        """All header fields of a request like `exchange`, with the caller's `headers`."""
        if self._user_agent is None:
            return None
        known = self._added[_is_form(exchange)]
        names: tuple[str, ...] = ()
        if type(headers) is dict:
            try:
                names = tuple(map(_PLAIN, headers))
                added = known.get(names)
                if added is not None:
                    values = tuple(map(_PLAIN, headers.values()))
                    text = "".join(values)
                    if text.isascii() and text.isprintable():
                        return (*zip(names, values, strict=True), *added)
            except TypeError:
                pass  # bytes, which may be in order
        try:
            fields = caller_fields(headers)
        except ValueError:
            return None
        own = len(fields)
        lower = names_in(fields)
        if _SPECIAL.search(lower):
            return None
        complete = self._complete(fields, lower, self._user_agent, exchange)
        if names and len(lower) <= _LONGEST:
            if len(known) >= _MOST_ADDED:
                known.clear()
            known[names] = complete[own:]
        return complete

    def _complete(
        self, fields: list[tuple[str, str]], names: str, user_agent: str | bytes, exchange: Exchange
    ) -> Fields:
        return complete_fields(
            fields,
            names,
            user_agent,
            exchange.profile.decompress,
            is_form=_is_form(exchange),
        )

    def _find(self, url: str) -> tuple[Exchange, URL] | None:
        try:
            parsed = parse_url(url)
        except ValueError:
            return None
        template = self._templates.get(parsed.scheme)
        if template is None or parsed.username is not None:
            return None
        if lacks_address(template.profile, parsed):
            return None
        return template, parsed
