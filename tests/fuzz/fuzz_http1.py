"""Fuzz the HTTP/1.1 core with coverage as the guide (needs ``pip install atheris``).

    python tests/fuzz/fuzz_http1.py -max_total_time=3600
    python tests/fuzz/fuzz_http1.py crash-…         # run one input again

It starts from the messages of ``tests/http1``; the property is `check` in its ``support``. The
arguments are libFuzzer's: a folder among them keeps what was found to be new.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(include=["whimbrel._http1"]):
    from http1.messages import REQUESTS, RESPONSES
    from http1.support import CLIENT, SERVER, check

METHODS = ["GET", "HEAD", "CONNECT"]


def one_input(raw: bytes) -> None:
    """The choices come from the end of `raw`, the peer's bytes from its start."""
    given = atheris.FuzzedDataProvider(raw)
    role = CLIENT if given.ConsumeBool() else SERVER
    method = METHODS[given.ConsumeIntInRange(0, 2)]
    upgrade = given.ConsumeBool()
    tight = given.ConsumeBool()
    cuts = [given.ConsumeIntInRange(0, 1000) for _ in range(given.ConsumeIntInRange(0, 8))]
    check(role, given.ConsumeBytes(given.remaining_bytes()), cuts, method, upgrade, tight)


def seed(folder: Path) -> None:
    """Write the messages of the tests, each with choices that suit it."""
    for number, (role, message) in enumerate(
        [
            *((CLIENT, message) for message in RESPONSES.values()),
            *((SERVER, message) for message in REQUESTS.values()),
        ]
    ):
        method = METHODS.index(message.method)
        for tight in (0, 1):
            choices = bytes([7, 20, 0, 3, 0, 2, tight, 0, method, role is CLIENT])
            (folder / f"{number}-{tight}").write_bytes(message.wire + choices)


def main() -> None:
    if any(Path(argument).exists() for argument in sys.argv[1:]):
        atheris.Setup(sys.argv, one_input)
        atheris.Fuzz()  # does not return, so whoever has to tidy up is another process
    with tempfile.TemporaryDirectory() as folder:
        seed(Path(folder))
        sys.exit(subprocess.call([sys.executable, *sys.argv, folder]))


if __name__ == "__main__":
    main()
