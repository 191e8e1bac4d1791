"""The answers that one exchange gives to challenges: Digest, to an origin and to a proxy."""

from __future__ import annotations

from whimbrel._http1.protocol import Head
from whimbrel._policy.exchange import Exchange
from whimbrel._simple.digest import DigestState
from whimbrel._simple.plan import Plan
from whimbrel.httpclient import HTTPError, HTTPProtocolError, HTTPProxyError
from whimbrel.httputil import HTTPHeaders


class Challenges:
    """Credentials that wait for a challenge (RFC 9110 section 11), and how often they were given.

    The proxy is one that the request itself is for; a tunnel has its own (`tunnel`).
    """

    __slots__ = ("_exchange", "_plan", "_states", "rounds")

    def __init__(self, plan: Plan, exchange: Exchange) -> None:
        self._plan = plan
        self._exchange = exchange
        # By the status of a challenge, with the names of the fields in which it and the answer are.
        self._states: dict[int, tuple[DigestState, str, str]] = {}
        auth, proxy = plan.profile.auth, plan.profile.proxy
        if plan.proxy_digest and proxy is not None:
            state = DigestState(proxy.username or "", proxy.password or "")
            self._states[407] = state, "Proxy-Authenticate", "Proxy-Authorization"
        if auth is not None:
            state = DigestState(auth.username, auth.password)
            self._states[401] = state, "WWW-Authenticate", "Authorization"
        self.rounds = 0
        """Requests that were challenged so far."""

    def field_lines(self) -> str:
        """The answers, as field lines; "" before any challenge."""
        exchange = self._exchange
        url = exchange.url
        body = None if exchange.producer is not None else exchange.body
        target = url.href if self._plan.absolute else url.target
        lines = ""
        for state, _, name in self._states.values():
            value = state.authorization(exchange.profile.method, target, body)
            if value is not None:
                lines += f"{name}: {value}\r\n"
        return lines

    def can_answer(self, head: Head) -> bool:
        """Whether a response is a challenge to which there is an answer.

        Raises HTTPProtocolError, or HTTPProxyError, for one that comes again and again.
        """
        found = self._states.get(head.code)
        if found is None:
            return False
        state, name, _ = found
        if state.challenge(HTTPHeaders.from_lines(head.lines[1:]).get_list(name)):
            return True
        if state.exhausted:
            raise self._too_many(head.code)
        return False

    def _too_many(self, status: int) -> HTTPError:
        proxy = self._exchange.profile.proxy
        times = self.rounds + 1
        if status == 407 and proxy is not None:
            error: HTTPError = HTTPProxyError(
                f"proxy {proxy.url} asked for credentials {times} times (407)", stage="proxy-auth"
            )
            error.proxy_code = 407
            return error
        return HTTPProtocolError(
            f"{self._exchange.url.netloc} asked for credentials {times} times", stage="response"
        )
