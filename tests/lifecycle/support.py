"""What several files of the suite need: waiting, programs in processes of their own, HTTP/2."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from whimbrel.testing.scripted import Peer


async def until(condition: Callable[[], object]) -> None:
    """Wait until `condition()` holds, where nothing tells of it; the test's limit bounds it."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.002)


def run_program(
    program: str, *arguments: str, options: tuple[str, ...] = ("-X", "dev", "-W", "error")
) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own, and wait for its end."""
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


def complaints(stderr: str | bytes) -> list[str]:
    """What a program wrote to stderr, line by line, without debug mode's notes of slow steps.

    Those tell of the machine, not of the code.
    """
    text = stderr.decode() if isinstance(stderr, bytes) else stderr
    return [line for line in text.splitlines() if not line.startswith("Executing <")]


def run_with_stuck_dns(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program where every name look-up hangs for seconds, in namespaces of its own.

    The program binds UDP port 53 of loopback and says nothing there. Skips where that takes
    rights or tools that are not to be had.
    """
    if os.getuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("SKIPPED LOUDLY: stuck DNS needs root, unshare and ip")
    resolv = folder / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.1\noptions timeout:2 attempts:1\n")
    script = folder / "program.py"
    script.write_text(STUCK_DNS + textwrap.dedent(program))
    shell = f"ip link set lo up && mount --bind {resolv} /etc/resolv.conf && exec {sys.executable}"
    done = subprocess.run(
        ["unshare", "-mn", "sh", "-c", f"{shell} -X dev {script}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "unshare failed" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"SKIPPED LOUDLY: no namespaces for stuck DNS: {done.stderr.strip()}")
    return done


STUCK_DNS = """
import atexit, socket
_silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
_silent.bind(("127.0.0.1", 53))
atexit.register(_silent.close)
"""


# -- just enough HTTP/2 (RFC 9113) to see streams come and go

DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
ACK = END_STREAM = 1
END_HEADERS = 4


class HTTP2Peer:
    """The server's end of an HTTP/2 connection with prior knowledge.

    Attributes:
        opened: streams that brought a request, in order.
        reset: streams that the client reset.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.opened: list[int] = []
        self.reset: list[int] = []
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Read frames until the client leaves (`PeerLeft`)."""
        await self._peer.read_exactly(len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
        await self._send(SETTINGS, 0, 0)
        while True:
            head = await self._peer.read_exactly(9)
            payload = await self._peer.read_exactly(int.from_bytes(head[:3], "big"))
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            if kind == SETTINGS and not flags & ACK:
                await self._send(SETTINGS, ACK, 0)
            elif kind == PING and not flags & ACK:
                await self._send(PING, ACK, 0, payload)
            elif kind == HEADERS:
                self.opened.append(stream)
            elif kind == RST_STREAM:
                self.reset.append(stream)
            self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def answer(self, stream: int, body: bytes, *, end: bool = True) -> None:
        """Send a 200 with `body`; unless `end`, more of it is to be expected."""
        await self._send(HEADERS, END_HEADERS, stream, b"\x88")  # static table: ":status: 200"
        await self._send(DATA, END_STREAM if end else 0, stream, body)

    async def _send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
        await self._peer.send(head + payload)
