"""The backend in pure Python: HTTP/1.1 on non-blocking sockets that the loop watches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from whimbrel import _loops
from whimbrel._deadlines import Deadlines
from whimbrel._http1.grammar import LIMITS
from whimbrel._http1.protocol import Head
from whimbrel._known_heads import KnownHeads
from whimbrel._policy.exchange import Exchange, Profile, takes_shared
from whimbrel._readiness import watcher_of
from whimbrel._simple.errors import CapabilityError
from whimbrel._simple.plan import Plan, Ready
from whimbrel._simple.pool import Pool
from whimbrel._simple.resolve import Resolver
from whimbrel._simple.transfer import Transfer
from whimbrel._simple.turns import Turns
from whimbrel.httpclient import (
    AsyncHTTPClient,
    HTTPResponse,
    HTTPStreamClosedError,
    HTTPTimeoutError,
)

__all__ = [
    "CapabilityError",
    "HTTPStreamClosedError",
    "HTTPTimeoutError",
    "SimpleAsyncHTTPClient",
]

# Profiles whose plans are remembered.
_PLANS = 512
# Seconds for which the timer of the deadlines outlives the last request: one made anew for each
# would cost more than a request's other bookkeeping.
_LINGER = 1.0

_KNOWN_HEADS = 256


class SimpleAsyncHTTPClient(AsyncHTTPClient):
    """An :class:`~whimbrel.httpclient.AsyncHTTPClient` without libcurl.

    Takes the arguments of its base. It does what the curl backend does as far as HTTP/1.1 allows;
    HTTP/2, HTTP/3 and negotiate raise :class:`CapabilityError`, which names the backend that has
    them. `max_header_size` None is 64 KiB.
    """

    def open_on(self, loop: asyncio.AbstractEventLoop) -> None:
        self._transfer_loop = loop
        self._limits = LIMITS
        if self.max_header_size is not None:
            self._limits = LIMITS._replace(
                header_block=self.max_header_size,
                start_line=min(LIMITS.start_line, self.max_header_size),
            )
        assert self._wakeups is not None
        self._watcher = watcher_of(loop, self.busy_poll, self._wakeups)
        self._pool = Pool(loop, max(100, 2 * self.max_clients))
        self._deadlines = Deadlines(loop, Transfer.expired, linger=_LINGER)
        self._known_heads = KnownHeads[Head](_KNOWN_HEADS)
        self._resolver = Resolver()
        self._turns = Turns(loop)
        self._plans: dict[Profile, Plan] = {}
        self._last_plan: Plan | None = None

    @takes_shared
    def fetch_impl(
        self, request: Exchange, callback: Callable[[HTTPResponse], None]
    ) -> Callable[[], None]:
        if request.prepare_curl_callback is not None:
            raise CapabilityError(
                "prepare_curl_callback needs libcurl: use"
                " whimbrel.curl_httpclient.CurlAsyncHTTPClient (AsyncHTTPClient.configure)"
            )
        ready: Ready | None = request.memo
        if ready is None or not ready.bucket.is_known:
            plan = self._last_plan
            if plan is None or plan.profile is not request.profile:
                plan = self._last_plan = self._plan_of(request.profile)
            ready = plan.ready(self._pool, request)
        transfer = Transfer(self, request, ready, callback)
        try:
            transfer.begin()
        except BaseException:
            transfer.abort()
            raise
        return transfer.abort

    def _plan_of(self, profile: Profile) -> Plan:
        plan = self._plans.get(profile)
        if plan is None:
            if len(self._plans) >= _PLANS:
                self._plans.clear()
            plan = self._plans[profile] = Plan(profile)
        return plan

    def close(self) -> None:
        if self._closed:
            return
        super().close()
        self._free()

    def _free(self) -> None:
        if self._loop is None:
            return
        self._deadlines.close()
        self._pool.close()
        self._resolver.close()
        if self._watcher is not None:
            self._watcher.close()

    def __del__(self) -> None:
        super().__del__()
        if not getattr(self, "_closed", True) and self._born == _loops.forks:
            self._free()
