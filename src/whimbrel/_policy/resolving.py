"""Where a host's connection goes: `hostname_mapping` and a custom `resolver`."""

from __future__ import annotations

import asyncio
import inspect
import ipaddress
import socket
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from whimbrel._policy.exchange import Exchange
from whimbrel._policy.urls import normalise_host


class Resolver(Protocol):
    """What `AsyncHTTPClient(resolver=…)` takes."""

    def resolve(self, host: str, port: int, family: int = socket.AF_UNSPEC) -> Any:
        """Return ``[(family, sockaddr), …]``, or an awaitable of it."""


def address_book(
    mapping: Mapping[Any, Any] | None, resolver: Resolver | None
) -> AddressBook | None:
    """What a client's `hostname_mapping` and `resolver` amount to, None for nothing.

    Raises ValueError naming the argument that cannot be used.
    """
    if mapping is not None and not isinstance(mapping, Mapping):
        raise ValueError(f"hostname_mapping must be a mapping, not {type(mapping).__name__}")
    for key, target in (mapping or {}).items():
        if not _is_key(key):
            raise ValueError(
                f"hostname_mapping has the key {key!r}: use a host, (host, port) or"
                " (host, port, use_ssl)"
            )
        _destination(key, target, 0)
    if resolver is not None and not callable(getattr(resolver, "resolve", None)):
        raise ValueError(
            "resolver must have a method resolve(host, port, family), which"
            f" {type(resolver).__name__} has not"
        )
    return AddressBook(mapping, resolver) if mapping or resolver is not None else None


def _is_key(key: Any) -> bool:
    if not isinstance(key, tuple):
        return isinstance(key, str)
    return len(key) in (2, 3) and all(map(isinstance, key, (str, int, bool)))


def _destination(key: Any, target: Any, port: int) -> tuple[str, int]:
    """Host and port of an entry of hostname_mapping, the URL's port where it has none."""
    field = f"hostname_mapping[{key!r}]"
    name = target
    if isinstance(target, tuple | list) and len(target) == 2:
        name, port = target
        if isinstance(port, bool) or not isinstance(port, int) or not 0 < port <= 65535:
            raise ValueError(f"{field} has the port {port!r}: use a number from 1 to 65535")
    if not isinstance(name, str):
        raise ValueError(f"{field} must be a host, or (host, port), not {target!r}")
    name = name.strip("[]")
    if ":" not in name:
        return normalise_host(name, field), port
    try:
        ipaddress.IPv6Address(name)
    except ValueError:
        raise ValueError(f"{field} has an invalid host {name!r}; a port goes into a pair") from None
    return name, port


class AddressBook:
    """Decides `Exchange.connect_to` from a mapping first, then from a resolver.

    Where a proxy resolves the name (all but socks4 and socks5), neither has a say.
    """

    def __init__(self, mapping: Mapping[Any, Any] | None, resolver: Resolver | None) -> None:
        self._mapping = mapping or {}
        self._resolver = resolver

    def look_up(
        self,
        loop: asyncio.AbstractEventLoop,
        exchange: Exchange,
        found: Callable[[Exchange, float], None],
        failed: Callable[[BaseException], None],
    ) -> Callable[[], None]:
        """Settle the address, then call found(exchange, seconds) or failed(error) from the loop.

        A look-up that outlives the time-outs fails with TimeoutError, one without an address
        with socket.gaierror. Returns a function that stops it.
        """
        url = exchange.url
        proxy = exchange.profile.proxy
        if proxy is not None and proxy.scheme not in ("socks4", "socks5"):
            return loop.call_soon(found, exchange, 0.0).cancel
        host, port = self._mapped(url.host, url.port, url.scheme == "https")
        if (host, port) != (url.host, url.port):
            exchange.connect_to = (host, port)
        if self._resolver is None:
            return loop.call_soon(found, exchange, 0.0).cancel
        began = loop.time()
        task = loop.create_task(self._resolve(exchange, host, port))
        limit = min(
            (t for t in (exchange.connect_timeout, exchange.request_timeout) if t), default=None
        )

        def done(task: asyncio.Task[None]) -> None:
            if alarm is not None:
                alarm.cancel()
            if task.cancelled():
                failed(asyncio.CancelledError("the resolver was cancelled"))
                return
            error = task.exception()
            if error is None:
                found(exchange, loop.time() - began)
            else:
                failed(error)

        def stop() -> None:
            # A resolver that will not be interrupted finishes for itself, unheard.
            if alarm is not None:
                alarm.cancel()
            task.remove_done_callback(done)
            task.add_done_callback(_hush)
            task.cancel()

        def expire() -> None:
            stop()
            failed(TimeoutError(f"the resolver took more than {limit} seconds"))

        alarm = None if limit is None else loop.call_later(limit, expire)
        task.add_done_callback(done)
        return stop

    def _mapped(self, host: str, port: int, secure: bool) -> tuple[str, int]:
        for key in ((host, port, secure), (host, port), host):
            if key in self._mapping:
                return _destination(key, self._mapping[key], port)
        return host, port

    async def _resolve(self, exchange: Exchange, host: str, port: int) -> None:
        assert self._resolver is not None
        family = socket.AF_UNSPEC if exchange.profile.allow_ipv6 else socket.AF_INET
        outcome = self._resolver.resolve(host, port, family)
        if inspect.isawaitable(outcome):
            outcome = await outcome
        usable = [
            address
            for found_family, address in outcome
            if exchange.profile.allow_ipv6 or found_family == socket.AF_INET
        ]
        if usable:
            # One port for all: a resolver that answers with several means the first.
            port = usable[0][1]
            exchange.connect_to = (host, port)
            exchange.addresses = tuple(address[0] for address in usable if address[1] == port)
            return
        raise socket.gaierror(socket.EAI_NONAME, f"the resolver has no address for {host}")


def _hush(task: asyncio.Task[None]) -> None:
    """Look at an outcome that nobody waits for, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()
