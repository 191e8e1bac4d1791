"""The answers that one exchange gives to challenges: Digest, to an origin and to a proxy."""

from __future__ import annotations

from whimbrel._http1.protocol import Head
from whimbrel._policy.exchange import Exchange
from whimbrel._simple.digest import MAX_ANSWERS, DigestState
from whimbrel._simple.plan import Plan
from whimbrel.httpclient import HTTPError, HTTPProtocolError, HTTPProxyError
from whimbrel.httputil import HTTPHeaders


class Challenges:
    """Credentials that wait for a challenge (RFC 9110 section 11), and how often they were given.

    The proxy is one that the request itself is for; a tunnel has its own (`tunnel`).
    """

    __slots__ = ("_body", "_exchange", "_states", "rounds")

    def __init__(self, plan: Plan, exchange: Exchange) -> None:
        self._exchange = exchange
        # None where it is streamed: nobody can sign it then.
        self._body = None if plan.profile.body == "stream" else exchange.body
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
        """Requests of this exchange that were not the last: challenged ones, and probes."""

    @property
    def complete(self) -> bool:
        """Whether everyone who is to get credentials has asked for them."""
        return all(state.is_challenged for state, _, _ in self._states.values())

    def field_lines(self, *, probing: bool) -> str:
        """The answers, as field lines; "" before any challenge.

        A request that is `probing` has an empty body.
        """
        exchange = self._exchange
        url = exchange.url
        body = b"" if probing else self._body
        lines = ""
        for status, (state, _, name) in self._states.items():
            # The origin sees the target in its own form, whatever the proxy was given.
            target = url.href if status == 407 else url.target
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
        values = HTTPHeaders.from_lines(head.lines[1:]).get_list(name)
        usable = state.challenge(values, self._body)
        if state.exhausted or (usable and self.rounds >= MAX_ANSWERS):
            raise self._too_many(head.code)
        return usable

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
