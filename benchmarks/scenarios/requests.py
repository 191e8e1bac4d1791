"""Small GETs: over kept connections, over new ones, through proxies; and the loop meanwhile."""

from __future__ import annotations

from typing import Final

from benchmarks.results import Metric
from benchmarks.scenarios.base import ClientScenario
from benchmarks.work import Sample, Task


def _milliseconds(sample: Sample, task: Task) -> float:
    return float(sample["stall"] * 1000)


def _get(in_flight: int) -> ClientScenario:
    return ClientScenario(
        f"get-{in_flight}", f"small GET, keep-alive, {in_flight:,} in flight", in_flight=in_flight
    )


REQUESTS: Final = (
    _get(1),
    _get(10),
    _get(100),
    _get(1000),
    ClientScenario(
        "get-100-varied",
        "small GET, keep-alive, 100 in flight, each with a URL and a header of its own",
        work="varied",
        path="/varied/",
    ),
    ClientScenario(
        "https",
        "small GET, HTTPS keep-alive, 100 in flight",
        role="tls",
        features=frozenset({"tls"}),
    ),
    ClientScenario(
        "http2",
        "small GET, HTTP/2 over TLS, 100 streams",
        role="http2",
        http2=True,
        features=frozenset({"tls", "http2"}),
    ),
    ClientScenario(
        "connect-http",
        "small GET, a new connection for each, 10 in flight",
        role="closing",
        in_flight=10,
    ),
    ClientScenario(
        "connect-https",
        "small GET, a new connection with TLS for each, 10 in flight",
        role="closing_tls",
        in_flight=10,
        features=frozenset({"tls"}),
    ),
    ClientScenario(
        "proxy",
        "small GET through an HTTP proxy, 100 in flight",
        proxy="proxy",
        features=frozenset({"proxy"}),
    ),
    ClientScenario(
        "tunnel",
        "small GET, HTTPS through CONNECT, 100 in flight",
        role="tunneled",
        proxy="tunnel",
        features=frozenset({"tls", "connect"}),
    ),
    ClientScenario(
        "stall",
        "longest stall of the loop, small GETs, 1,000 in flight",
        work="stall",
        in_flight=1000,
        metric=Metric("ms", False, ",.1f"),
        value=_milliseconds,
    ),
)
