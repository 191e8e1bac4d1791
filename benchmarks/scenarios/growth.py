"""How the cost grows with the work: requests in flight, bytes, hosts, proxies.

A few clients are enough here; others have to be named.
"""

from __future__ import annotations

from typing import Final

from benchmarks.clients import FEW
from benchmarks.clients.each_proxy import CLIENTS as EACH_PROXY
from benchmarks.results import BYTES
from benchmarks.scenarios.base import ClientScenario, megabytes_per_second
from benchmarks.servers import Servers
from benchmarks.servers.content import SIZES
from benchmarks.work import Task

IN_FLIGHT: Final = (1, 10, 100, 1000, 5000, 10_000)
HOSTS: Final = (1, 10, 100, 1000)
PROXIES: Final = (1, 10, 50, 200)


def _limited(task: Task, connections: int, changes: Task) -> Task:
    """The task with `changes`, and with a client that may have so many connections."""
    most = max(task["in_flight"], connections)
    return {**task, **changes, "options": {**task["options"], "in_flight": most}}


def _in_flight(task: Task, point: int, servers: Servers) -> Task:
    # In a second there would be but one or two for each of thousands.
    return _limited(task, point, {"in_flight": point, "at_least": 5})


def _size(task: Task, point: int, servers: Servers) -> Task:
    return {
        **task,
        "urls": [f"{servers.urls['plain']}/zeros/{point}"],
        "size": point,
        "at_least": 1,
    }


def _hosts(task: Task, point: int, servers: Servers) -> Task:
    urls = [f"{url}/" for url in addresses(servers.urls["hosts"], point)]
    return _limited(task, point, {"urls": urls})


def _proxies(task: Task, point: int, servers: Servers) -> Task:
    return _limited(task, point, {"proxies": addresses(servers.urls["proxy"], point)})


def addresses(url: str, count: int) -> list[str]:
    """`url`, which names 127.0.0.1, at so many addresses of loopback."""
    # 127.0.1.1 and on: no address ends in 0 or 255.
    return [
        url.replace("127.0.0.1", f"127.0.{1 + number // 250}.{1 + number % 250}")
        for number in range(count)
    ]


GROWTH: Final = (
    ClientScenario(
        "growth-in-flight",
        "small GET, keep-alive, as more are in flight",
        axis="in flight",
        points=IN_FLIGHT,
        quick=(1, 100, 5000),
        at=_in_flight,
        entrants=FEW,
        patience=120.0,
    ),
    ClientScenario(
        "growth-size",
        "download, streamed, as it gets larger",
        work="stream",
        in_flight=1,
        features=frozenset({"stream"}),
        metric=BYTES,
        value=megabytes_per_second,
        axis="bytes",
        points=SIZES,
        quick=(),
        at=_size,
        entrants=FEW,
    ),
    ClientScenario(
        "growth-hosts",
        "small GET, keep-alive, 100 in flight, as the hosts get more",
        role="hosts",
        axis="hosts",
        points=HOSTS,
        quick=(),
        at=_hosts,
        entrants=FEW,
    ),
    ClientScenario(
        "growth-proxies",
        "small GET, keep-alive, 100 in flight, as the proxies get more",
        # At an address of 127.0.0.0/8, proxies at every address of which only nginx has.
        role="hosts",
        features=frozenset({"proxy"}),
        axis="proxies",
        points=PROXIES,
        quick=(),
        at=_proxies,
        entrants=EACH_PROXY,
    ),
)
