"""A program on libcurl in C, built where a compiler and libcurl's headers are found."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.clients.session import Options

_SOURCE: Final = Path(__file__).with_suffix(".c")


def missing() -> list[str]:
    """What is needed to build it and is not installed."""
    needed = {
        "cc": "a C compiler",
        "curl-config": "libcurl's headers (libcurl4-openssl-dev)",
    }
    return [words for program, words in needed.items() if shutil.which(program) is None]


def versions() -> dict[str, str]:
    """The libcurl that it is built with, which is not pycurl's."""
    return {"libcurl in C": _ask("curl-config", "--version").removeprefix("libcurl ")}


class Load(NamedTuple):
    """What the program is to do: GETs of one URL, so many in flight.

    Attributes:
        url: which.
        options: as of a session.
        seconds: of the measurement.
        warm_up: seconds before it.
        core: to which the program pins itself; None leaves that to the system.
        body: of every response.
    """

    url: str
    options: Options
    seconds: float
    warm_up: float
    core: int | None
    body: str


def command(load: Load) -> list[str]:
    """Build the program if that has not been done; the arguments to run it with.

    It prints one line of JSON, ``{"requests": …, "seconds": …, "cpu_seconds": …}``, and ends with
    another code than 0, and a word on stderr, where a response is not as it should be.

    Raises:
        RuntimeError: the compiler refuses.
    """
    options = load.options
    arguments = [
        load.url,
        options.in_flight,
        load.seconds,
        load.warm_up,
        -1 if load.core is None else load.core,
        load.body,
        2 if options.http2 else 1,
        options.proxy or "",
        options.ca_file or "",
    ]
    return [str(_build()), *map(str, arguments)]


def _build() -> Path:
    version = _ask("curl-config", "--version")
    flags = _ask("curl-config", "--cflags", "--libs")
    made_of = f"{_SOURCE.read_text()}\0{version}\0{flags}"
    name = hashlib.sha256(made_of.encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    program = folder / "whimbrel-benchmarks" / f"libcurl_in_c-{name}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=program.parent) as scratch:
            built = Path(scratch) / program.name
            _ask("cc", "-O2", "-Wall", "-o", str(built), str(_SOURCE), *shlex.split(flags))
            built.replace(program)
    return program


def _ask(*argv: str) -> str:
    found = subprocess.run(argv, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f"{shlex.join(argv)} failed:\n{found.stderr}")
    return found.stdout.strip()
