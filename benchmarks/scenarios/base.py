"""What a scenario is, and the kind of most: one piece of work for every client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from benchmarks.clients import CLIENTS, Feature
from benchmarks.clients.each_proxy import CLIENTS as EACH_PROXY
from benchmarks.results import RATE, Metric
from benchmarks.servers import Servers
from benchmarks.work import Sample, Task
from benchmarks.worker import run

WARM_UP: Final = 0.3
"""Of the seconds of a measurement, spent before it begins."""

_SPARE_FILES: Final = 200
"""Descriptors that a process needs besides its connections."""


class Setting(NamedTuple):
    """Under what a measurement is made.

    Attributes:
        seconds: of one measurement.
        core: for the client; None is wherever the system likes.
        server_core: for the server of a scenario that has one of its own.
        servers: what runs; None where no scenario of the run needs them.
        files: how many a process may have open.
    """

    seconds: float
    core: int | None
    server_core: int | None
    servers: Servers | None
    files: int


class Scenario(Protocol):
    """Something that is measured for several entrants, most of them clients."""

    @property
    def name(self) -> str:
        """On the command line and in JSON."""

    @property
    def title(self) -> str:
        """For people."""

    @property
    def metric(self) -> Metric:
        """What ``value`` is in its samples."""

    @property
    def axis(self) -> str | None:
        """What the points count; None where there are none."""

    @property
    def points(self) -> tuple[int | None, ...]:
        """Where it is measured; None alone where there is no axis."""

    @property
    def quick(self) -> tuple[int | None, ...]:
        """Where ``--quick`` measures it; nowhere if empty."""

    @property
    def rounds(self) -> int | None:
        """The most that make sense; None is any number."""

    @property
    def needs_servers(self) -> bool:
        """Whether `Setting.servers` has to be there."""

    @property
    def entrants(self) -> tuple[str, ...]:
        """Who takes part."""

    def cannot(self, entrant: str) -> str | None:
        """Why one cannot, in a few words; None if it can."""

    def impossible(self, point: int | None, setting: Setting) -> str | None:
        """Why it cannot be measured there and then; None if it can."""

    def measure(self, entrant: str, point: int | None, setting: Setting) -> Sample:
        """One measurement.

        Raises:
            Failed: the entrant did not do the work.
        """


def per_second(sample: Sample, task: Task) -> float:
    """Requests a second."""
    return float(sample["requests"] / sample["seconds"])


def megabytes_per_second(sample: Sample, task: Task) -> float:
    """Of bodies of ``size``."""
    return float(sample["requests"] * task["size"] / sample["seconds"] / 1e6)


@dataclass(frozen=True)
class ClientScenario:
    """One kind of work of `benchmarks.work`, done by clients in processes of their own.

    Attributes:
        work: its name.
        role: of the server; see `benchmarks.servers`.
        path: of the URL there.
        in_flight: at a time.
        features: what a client must have for it.
        proxy: the role of the proxy through which it goes; None is straight.
        http2: whether it is to be spoken.
        parameters: more for the task.
        value: the `metric` of a sample.
        at: changes the task for a point.
        entrants: who takes part.
        patience: seconds that the slowest of clients gets over and above the measurement.
    """

    name: str
    title: str
    work: str = "get"
    role: str = "plain"
    path: str = "/"
    in_flight: int = 100
    features: frozenset[Feature] = frozenset()
    proxy: str | None = None
    http2: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    metric: Metric = RATE
    value: Callable[[Sample, Task], float] = per_second
    axis: str | None = None
    points: tuple[int | None, ...] = (None,)
    quick: tuple[int | None, ...] = (None,)
    at: Callable[[Task, int, Servers], Task] | None = None
    rounds: int | None = None
    entrants: tuple[str, ...] = tuple(CLIENTS)
    patience: float = 60.0
    needs_servers: bool = True

    def cannot(self, entrant: str) -> str | None:
        client = CLIENTS[entrant]
        if client.command is not None and (self.work != "get" or self.axis):
            return "it is a program for small GETs of one URL"
        if self.axis == "proxies" and entrant not in EACH_PROXY:
            return "it has no proxy for each request"
        lacks = sorted(self.features - client.features)
        return f"no {', '.join(lacks)}" if lacks else None

    def impossible(self, point: int | None, setting: Setting) -> str | None:
        servers = setting.servers
        assert servers is not None
        for role in filter(None, (self.role, self.proxy)):
            if role not in servers.urls:
                return f"the server has no {role}; nginx has"
        task = self.task(self.entrants[0], point, setting)
        needed = task["options"]["in_flight"] + _SPARE_FILES
        if needed > setting.files:
            return f"it needs {needed:,} open files, the limit is {setting.files:,} (ulimit -n)"
        return None

    def task(self, entrant: str, point: int | None, setting: Setting) -> Task:
        """What `benchmarks.worker` is given."""
        servers = setting.servers
        assert servers is not None
        task: Task = {
            "client": entrant,
            "work": self.work,
            "urls": [servers.urls[self.role] + self.path],
            "in_flight": self.in_flight,
            "options": {
                "in_flight": self.in_flight,
                "http2": self.http2,
                "proxy": servers.urls[self.proxy] if self.proxy else None,
                "ca_file": servers.ca_file,
            },
            "seconds": setting.seconds,
            "warm_up": setting.seconds * WARM_UP,
            "core": setting.core,
            **self.parameters,
        }
        if self.at is not None:
            assert point is not None
            task = self.at(task, point, servers)
        return task

    def measure(self, entrant: str, point: int | None, setting: Setting) -> Sample:
        task = self.task(entrant, point, setting)
        sample = run(task, setting.seconds * 10 + self.patience)
        return {**sample, "value": self.value(sample, task)}
