"""What is measured: `SCENARIOS`, by name."""

from __future__ import annotations

from typing import Final

from benchmarks.scenarios.base import Scenario
from benchmarks.scenarios.bodies import BODIES
from benchmarks.scenarios.growth import GROWTH
from benchmarks.scenarios.hello import HelloScenario
from benchmarks.scenarios.imports import ImportScenario
from benchmarks.scenarios.memory import MEMORY
from benchmarks.scenarios.requests import REQUESTS

_ALL: Final[tuple[Scenario, ...]] = (
    *REQUESTS,
    *BODIES,
    *MEMORY,
    ImportScenario(),
    *GROWTH,
    HelloScenario(),
)

SCENARIOS: Final[dict[str, Scenario]] = {scenario.name: scenario for scenario in _ALL}
