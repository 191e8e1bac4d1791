"""The parameters of a request, with a client's defaults behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from whimbrel._policy.exchange import headers_without
from whimbrel.httputil import HTTPHeaders

_USER_AGENT = frozenset(("user-agent",))


def merge_options(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what holds for a request: what it gives, else the default. None is not given.

    The headers are a copy: the caller may change its own while a redirect is still to come.
    """
    mine = {name: value for name, value in given.items() if value is not None}
    options = {**defaults, **mine}
    # Two ways of naming a proxy: the request's wins whole over the other one in the defaults.
    if "proxy" in mine and "proxy_host" not in mine:
        for name in ("proxy_host", "proxy_port", "proxy_username", "proxy_password"):
            if name not in mine:
                options.pop(name, None)
    elif "proxy_host" in mine and "proxy" not in mine:
        options.pop("proxy", None)
    headers = options.get("headers")
    if headers:
        if "user_agent" in mine:
            # The request's own parameter wins over its header, a header over the defaults.
            options["headers"] = headers_without(headers, _USER_AGENT)
        elif isinstance(headers, HTTPHeaders):
            options["headers"] = headers.copy()
        elif isinstance(headers, Mapping):
            options["headers"] = dict(headers)
    return options
