"""Large bodies, one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from benchmarks.clients import Feature
from benchmarks.results import BYTES
from benchmarks.scenarios.base import ClientScenario, megabytes_per_second
from benchmarks.servers.content import GB, MB

_AT_LEAST: Final = 3
"""Bodies of 100 MB that are timed, however short the measurement: one alone is no measure."""
CHUNK: Final = 62_500
"""Bytes of a piece of an upload: about 64 KiB, and a divisor of its size."""


def _transfer(
    name: str,
    title: str,
    work: str,
    role: str,
    path: str,
    feature: Feature | None,
    parameters: Mapping[str, Any],
) -> ClientScenario:
    return ClientScenario(
        name,
        title,
        work=work,
        role=role,
        path=path,
        in_flight=1,
        features=frozenset({feature}) if feature else frozenset(),
        parameters=parameters,
        metric=BYTES,
        value=megabytes_per_second,
    )


BODIES: Final = (
    _transfer(
        "download-stream",
        "1 GB download, streamed",
        "stream",
        "plain",
        f"/zeros/{GB}",
        "stream",
        {"size": GB, "at_least": 1},
    ),
    _transfer(
        "download-memory",
        "100 MB download, in memory",
        "read",
        "plain",
        f"/zeros/{100 * MB}",
        None,
        {"size": 100 * MB, "at_least": _AT_LEAST},
    ),
    _transfer(
        "upload-memory",
        "100 MB upload, from memory",
        "upload",
        "raw",
        "/swallow",
        "upload",
        {"size": 100 * MB, "at_least": _AT_LEAST},
    ),
    _transfer(
        "upload-stream",
        "100 MB upload, streamed",
        "upload_stream",
        "raw",
        "/swallow",
        "upload-stream",
        {"size": 100 * MB, "at_least": _AT_LEAST, "chunk": CHUNK},
    ),
)
