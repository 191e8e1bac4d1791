"""CONNECT: an http or https proxy is asked for a tunnel to the origin (RFC 9110 section 9.3.6)."""

from __future__ import annotations

from typing import Final, NamedTuple

from whimbrel._http1.errors import ProtocolError
from whimbrel._http1.framing import CLOSE, NONE
from whimbrel._http1.grammar import encode_fields, encode_request_line
from whimbrel._http1.protocol import Event, Head, Protocol, Role
from whimbrel._policy.exchange import Exchange
from whimbrel._policy.fields import basic_authorization
from whimbrel._policy.proxies import Proxy
from whimbrel._simple.digest import MAX_ANSWERS, DigestState
from whimbrel._simple.route import Progress, Route
from whimbrel.httpclient import HTTPProxyError
from whimbrel.httputil import HTTPHeaders
from whimbrel.iostream import IOStream, StreamClosedError

MAX_REFUSAL: Final = 64 * 1024
"""Bytes of a 407's body that are read to keep the connection; past it a new one costs less."""

_READ: Final = 64 * 1024


class TunnelReply(NamedTuple):
    """What the proxy said when it made the tunnel."""

    code: int
    lines: list[bytes]
    """The raw lines of the reply, status line first."""


class Reconnect(Exception):
    """The proxy's challenge can be answered, but not on this connection any more.

    Call `open_tunnel` with `digest` again, on a new one.
    """

    def __init__(self, digest: DigestState) -> None:
        super().__init__("the next answer needs a new connection to the proxy")
        self.digest = digest


async def open_tunnel(
    stream: IOStream,
    route: Route,
    exchange: Exchange,
    progress: Progress,
    digest: DigestState | None = None,
) -> TunnelReply:
    """Ask the proxy at the other end of `stream` for a tunnel to the origin of `route`.

    When it returns, the next byte on `stream` is the origin's.

    :param digest: of `proxy_digest` in the first call for an exchange, then what
        :class:`Reconnect` carried; None is the former.
    :raises Reconnect: go on with a new connection. The digest bounds how often that may be.
    :raises HTTPProxyError: there is no tunnel. The connection is of no more use.
    """
    proxy = route.proxy
    assert proxy is not None
    if digest is None:
        digest = proxy_digest(proxy)
    progress.stage = "tunnel"
    protocol = Protocol(Role.CLIENT)
    rounds = 0
    while True:
        try:
            await stream.write(_request(route, exchange, proxy, digest))
            protocol.start_request("CONNECT", NONE)
            head = await _final_head(stream, protocol)
        except StreamClosedError:
            if rounds and digest is not None and not protocol.buffered:
                # It closed what it had promised to keep (RFC 9112 section 9.3.1).
                raise Reconnect(digest) from None
            raise _failure(
                proxy, f"proxy {proxy.url} broke the connection while it was to make a tunnel"
            ) from None
        except ProtocolError as error:
            raise _failure(
                proxy, f"proxy {proxy.url} sent a malformed answer to CONNECT: {error}"
            ) from None
        progress.proxy_code = head.code
        if head.code // 100 == 2:
            if protocol.buffered:
                # The origin has not been spoken to yet: nobody who means well sends these.
                raise _failure(
                    proxy, f"proxy {proxy.url} sent bytes behind its answer to CONNECT", head.code
                )
            return TunnelReply(head.code, head.lines)
        if head.code != 407:
            raise _failure(
                proxy,
                f"proxy {proxy.url} answered CONNECT {exchange.url.netloc} with {head.code}",
                head.code,
                retryable=head.code >= 500,
            )
        fields = HTTPHeaders.from_lines(head.lines[1:])
        if digest is None or not digest.challenge(fields.get_list("Proxy-Authenticate")):
            raise _refused(proxy, digest)
        if not await _finish(stream, protocol, head):
            raise Reconnect(digest)
        protocol.next_message()
        rounds += 1


def proxy_digest(proxy: Proxy) -> DigestState | None:
    """The state of Digest with `proxy`, for one exchange; None where that is not used."""
    if proxy.auth_mode != "digest" or proxy.username is None:
        return None
    return DigestState(proxy.username, proxy.password or "")


def _refused(proxy: Proxy, digest: DigestState | None) -> HTTPProxyError:
    """The error of a 407 that is not answered."""
    if digest is not None and digest.exhausted:
        text = f"proxy {proxy.url} asked for credentials {MAX_ANSWERS + 1} times (407)"
    else:
        text = f"proxy {proxy.url} wants other credentials (407)"
    error = _failure(proxy, text, 407, retryable=False)
    error.stage = "proxy-auth"
    return error


def _request(route: Route, exchange: Exchange, proxy: Proxy, digest: DigestState | None) -> bytes:
    """The head of CONNECT; fields meant for the origin stay inside the tunnel."""
    host = f"[{route.host}]" if ":" in route.host else route.host
    target = f"{host}:{route.port}"
    fields = [("Host", target)]
    authorization = None
    if digest is not None:
        authorization = digest.authorization("CONNECT", target, b"")
    elif proxy.username is not None:
        authorization = basic_authorization(proxy.username, proxy.password or "")
    if authorization is not None:
        fields.append(("Proxy-Authorization", authorization))
    for name, value in exchange.fields:
        if name.lower() == "user-agent":
            fields.append(("User-Agent", value))
            break
    return encode_request_line("CONNECT", target) + encode_fields(fields) + b"\r\n"


async def _final_head(stream: IOStream, protocol: Protocol) -> Head:
    """Read up to the answer; interim ones are skipped, in the number that _http1 allows."""
    while True:
        event = protocol.next_event()
        if isinstance(event, Head):
            if event.code >= 200:
                return event
        else:
            protocol.receive(await stream.read_bytes(_READ, partial=True))


async def _finish(stream: IOStream, protocol: Protocol, head: Head) -> bool:
    """Read a refusal to its end; return whether the connection can be asked again."""
    if not head.keep_alive or head.framing is CLOSE:
        return False
    left = MAX_REFUSAL
    try:
        while left > 0:
            event = protocol.next_event()
            if event is Event.END:
                return not protocol.buffered
            if isinstance(event, bytes):
                left -= len(event)
            elif event is None:
                protocol.receive(await stream.read_bytes(_READ, partial=True))
    except (StreamClosedError, ProtocolError):
        pass
    return False


def _failure(
    proxy: Proxy, text: str, code: int | None = None, *, retryable: bool = True
) -> HTTPProxyError:
    """Nothing has reached the origin, so that most of it may be tried again."""
    error = HTTPProxyError(text, stage="tunnel", retryable=retryable)
    error.proxy = proxy.url
    error.proxy_code = code
    return error
