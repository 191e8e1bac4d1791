"""Plain requests: what `prepare` made of one holds for the next, but for what differs.

Most requests of most programs are no more than a URL, a method, header fields, a body of bytes and
perhaps a proxy, on top of the defaults. Only those parts are looked at again.
"""

from __future__ import annotations

import re
from typing import Any

from whimbrel._policy.exchange import Exchange
from whimbrel._policy.fields import Fields, caller_fields, complete_fields, names_in
from whimbrel._policy.urls import URL, parse_url

# Fields that decide more than themselves; `prepare` knows what. Whatever they decided is in its
# Profile, and holds for that request alone.
_SPECIAL = re.compile(":(?:content-length|expect|host|proxy-authorization|transfer-encoding):")


def is_special(headers: Any) -> bool:
    """Whether other requests cannot learn from one with these headers, which are well-formed."""
    return bool(headers) and _SPECIAL.search(names_in(caller_fields(headers))) is not None


class Plain:
    """What plain requests of one method, through one proxy, with a body or without, amount to.

    Attributes:
        exchanges: of requests without header fields and body, by their URLs.
        queue_timeout: see `HTTPRequest`.
    """

    __slots__ = ("_templates", "_user_agent", "exchanges", "queue_timeout")

    def __init__(self, queue_timeout: float, user_agent: str | bytes | None) -> None:
        """`user_agent` None: credentials or the like are among the fields of all these requests."""
        self._templates: dict[str, Exchange] = {}  # by scheme, without fields of the caller's
        self._user_agent = user_agent
        self.exchanges: dict[str, Exchange] = {}
        self.queue_timeout = queue_timeout

    def add(self, exchange: Exchange, headers: Any) -> None:
        """Make others like `exchange`, which goes on to change, and had those `headers`."""
        template = exchange.to(exchange.url)
        if headers:
            if self._user_agent is None:
                return
            template.fields = self._complete([], ":", self._user_agent, exchange)
        self._templates[exchange.profile.scheme] = template

    def learn(self, url: str) -> Exchange | None:
        """The Exchange for a URL that is new here; None for one that needs a closer look."""
        found = self._find(url)
        if found is None:
            return None
        template, parsed = found
        exchange = self.exchanges[url] = template.to(parsed)
        exchange.shared = True
        return exchange

    def vary(self, url: str, headers: Any, body: bytes | None) -> Exchange | None:
        """An Exchange with header fields or a body of its own; None as above."""
        found = self._find(url)
        if found is None:
            return None
        template, parsed = found
        exchange = template.to(parsed)
        if headers:
            if self._user_agent is None:
                return None
            try:
                fields = caller_fields(headers)
            except ValueError:
                return None
            names = names_in(fields)
            if _SPECIAL.search(names):
                return None
            exchange.fields = self._complete(fields, names, self._user_agent, template)
        if body is not None:
            exchange.body = body
        return exchange

    def _complete(
        self, fields: list[tuple[str, str]], names: str, user_agent: str | bytes, exchange: Exchange
    ) -> Fields:
        profile = exchange.profile
        is_form = profile.method == "POST" and profile.body != "none"
        return complete_fields(fields, names, user_agent, profile.decompress, is_form=is_form)

    def _find(self, url: str) -> tuple[Exchange, URL] | None:
        try:
            parsed = parse_url(url)
        except ValueError:
            return None
        template = self._templates.get(parsed.scheme)
        if template is None or parsed.username is not None:
            return None
        return template, parsed
