"""An easy handle that remembers its options.

``reset()`` and thirty ``setopt`` cost 5 to 8 us. Where the next exchange has the same plan, only
the fields, the URL, the deadlines and the body are set, as far as they differ. Any other plan:
everything anew. Never a difference by guesswork: secrets live there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pycurl

from whimbrel._curl import capabilities
from whimbrel._curl.options import BUFFER, Plan, field_options, milliseconds, plan
from whimbrel._policy.exchange import Exchange, Profile
from whimbrel._policy.fields import Fields
from whimbrel._upload import HIGH_WATER

SMALL_BODY = 64 * 1024
"""Of a request, in bytes: what an idle handle may keep, and one send takes."""
_UPLOAD_BUFFER = 2 * 1024 * 1024  # for a larger one, of which this much is sent at a wake-up
_ITERATED_BUFFER = 1024 * 1024  # where it comes from an iterable, and may be larger than that
_DELIVERED_BUFFER = 512 * 1024  # libcurl's, for large bodies that are delivered as they come


class Callbacks(NamedTuple):
    """What libcurl calls, by the names of its options."""

    write: Callable[[bytes], int | None]
    header: Callable[[bytes], int | None]
    """Every line, in C."""
    watched_header: Callable[[bytes], int | None]
    """The same where somebody has to look at them as they come."""
    prereq: Callable[..., int]
    sockopt: Callable[[int, int], int]
    read: Callable[[int], bytes | int]
    seek: Callable[[int, int], int]


class Handle:
    """An easy handle, and what is set on it.

    Attributes:
        applied: the exchange that all of it is set for, if it may come again as it is.
        dirty: nothing is known of the options, and all of them are to be set anew. For whoever
            sets one by himself.
        limits: the deadlines in seconds that are set: of the whole transfer, of connecting.
        plan: the one that is set.
        watching: whether HEADERFUNCTION is the `watched_header`.
    """

    __slots__ = (
        "_fields",
        "_href",
        "_profile",
        "applied",
        "dirty",
        "easy",
        "limits",
        "plan",
        "watching",
    )

    def __init__(self) -> None:
        self.easy = pycurl.Curl()
        self._profile: Profile | None = None
        self._fields: Fields | None = None
        self._href: str | None = None
        self.plan: Plan | None = None
        self.limits: tuple[float, float] | None = None
        self.watching = False
        self.dirty = True
        self.applied: Exchange | None = None

    def apply(
        self, exchange: Exchange, is_watched: bool, callbacks: Callable[[], Callbacks]
    ) -> Plan:
        """Set the options of `exchange`; return the plan that they come from.

        `callbacks` are asked for, and held by libcurl's handle alone: whoever has them as methods
        would be part of a cycle that outlives the handle's end.

        Raises pycurl.error, and CapabilityError for what this libcurl lacks. Then the handle must
        not be used again.
        """
        self.applied = None  # until every option is set
        setopt = self.easy.setopt
        profile = exchange.profile
        wanted = self.plan if profile is self._profile else plan(profile)
        assert wanted is not None
        # The rounds of a login at a proxy, which come without PREREQFUNCTION, have to be counted.
        has_rounds = wanted.tunnel and (
            not wanted.lasting or exchange.prepare_curl_callback is not None
        )
        watching = is_watched or has_rounds or profile.expect_100_continue
        # The same object: plan() remembers what it made of a profile.
        if self.dirty or wanted is not self.plan or watching is not self.watching:
            self._set_all(wanted, watching, callbacks())
        self._profile = profile
        if exchange.fields is not self._fields:
            for option, value in field_options(profile, exchange.fields):
                setopt(option, value)
            self._fields = exchange.fields
        url = exchange.url
        if url.href is not self._href:
            setopt(pycurl.URL, url.href)
            self._href = url.href
        if "%" in url.target and profile.auth is None:
            # libcurl rewrites escapes (%2f, %2e); a target is sent as it was given. Not with
            # digest, which signs what libcurl made of it.
            self.dirty = True
            absolute = profile.proxy is not None and not profile.proxy.is_socks
            absolute = absolute and url.scheme == "http"
            option = capabilities.option("REQUEST_TARGET", "7.55.0")
            setopt(option, url.href if absolute else url.target)
        limits = (exchange.request_timeout, exchange.connect_timeout)
        if limits != self.limits:
            setopt(pycurl.TIMEOUT_MS, milliseconds(limits[0]))
            setopt(pycurl.CONNECTTIMEOUT_MS, milliseconds(limits[1]))
            self.limits = limits
        if profile.body != "none":
            self._set_body(exchange, callbacks)
        if exchange.connect_to is not None:
            self._set_connect_to(exchange, exchange.connect_to)
        if exchange.shared and not self.dirty:
            self.applied = exchange  # nothing in it will change
        return wanted

    def _set_all(self, wanted: Plan, watching: bool, callbacks: Callbacks) -> None:
        easy = self.easy
        setopt = easy.setopt
        easy.reset()
        self._href = self.limits = self._fields = None
        self.dirty = True  # until every option is set
        setopt(pycurl.WRITEFUNCTION, callbacks.write)
        setopt(pycurl.PREREQFUNCTION, callbacks.prereq)
        setopt(pycurl.SOCKOPTFUNCTION, callbacks.sockopt)
        header = callbacks.watched_header if watching else callbacks.header
        setopt(pycurl.HEADERFUNCTION, header)
        for option, value in wanted.options:
            try:
                setopt(option, value)
            except pycurl.error as error:
                if error.args[0] in (pycurl.E_UNKNOWN_OPTION, pycurl.E_NOT_BUILT_IN):
                    raise capabilities.lacking(_name(option), "8") from error
                raise
        self.plan = wanted
        self.watching = watching
        self.dirty = not wanted.lasting

    def _set_body(self, exchange: Exchange, callbacks: Callable[[], Callbacks]) -> None:
        setopt, body = self.easy.setopt, exchange.body
        if exchange.profile.body == "bytes":
            setopt(pycurl.POSTFIELDSIZE_LARGE, len(body))
            setopt(pycurl.POSTFIELDS, body)
            if len(body) > SMALL_BODY:
                setopt(pycurl.UPLOAD_BUFFERSIZE, _UPLOAD_BUFFER)
            return
        length = exchange.content_length
        called = callbacks()
        setopt(pycurl.READFUNCTION, called.read)
        setopt(
            pycurl.UPLOAD_BUFFERSIZE, HIGH_WATER if exchange.pieces is None else _ITERATED_BUFFER
        )
        setopt(pycurl.SEEKFUNCTION, called.seek)
        setopt(pycurl.INFILESIZE_LARGE, -1 if length is None else length)

    def _set_connect_to(self, exchange: Exchange, connect_to: tuple[str, int]) -> None:
        self.dirty = True
        host, port = connect_to
        setopt = self.easy.setopt
        setopt(capabilities.option("CONNECT_TO", "7.49.0"), [f"::{_bracketed(host)}:{port}"])
        if exchange.addresses:
            addresses = ",".join(map(_bracketed, exchange.addresses))
            setopt(capabilities.option("RESOLVE", "7.59.0"), [f"{host}:{port}:{addresses}"])

    def take_off(self, spent: float) -> None:
        """Of the time for the whole transfer, `spent` seconds are gone before it begins again."""
        assert self.limits is not None
        self.limits = max(self.limits[0] - spent, 0.001), self.limits[1]
        self.easy.setopt(pycurl.TIMEOUT_MS, milliseconds(self.limits[0]))

    def give_body_to(self, write: Callable[[bytes], int | None]) -> None:
        """Let `write` be WRITEFUNCTION, until `restore`."""
        self.easy.setopt(pycurl.WRITEFUNCTION, write)

    def read_more_at_once(self) -> None:
        """Let libcurl's buffer be that for large bodies which are delivered, until `restore`."""
        try:
            self.easy.setopt(pycurl.BUFFERSIZE, _DELIVERED_BUFFER)
        except pycurl.error:
            pass  # before libcurl 8.7 a handle in use refuses it

    def restore(self, write: Callable[[bytes], int | None]) -> None:
        """Undo `give_body_to` and `read_more_at_once`. The idle handle must not hold on to what
        took the body."""
        self.easy.setopt(pycurl.WRITEFUNCTION, write)
        self.easy.setopt(pycurl.BUFFERSIZE, BUFFER)

    def forget(self) -> None:
        """Hold on to nothing of the exchange before: its body may be large."""
        self.easy.reset()
        self.dirty = True


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _name(option: int) -> str:
    """pycurl's name for an option number, for messages."""
    for name in dir(pycurl):
        if name.isupper() and getattr(pycurl, name) == option:
            return name
    return str(option)
