"""`busy_poll`: the loop does not sleep while an answer is due that has come fast before."""

from __future__ import annotations

import asyncio
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
POLLS = 50


class Sleeps(selectors.DefaultSelector):
    """Notes how often the loop slept since `watch`; `seen` once it did, or polled many times."""

    def __init__(self) -> None:
        super().__init__()
        self.sleeps = self.polls = 0
        self.seen = threading.Event()

    def watch(self) -> None:
        self.sleeps = self.polls = 0
        self.seen.clear()

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout > 0:
            self.sleeps += 1
            self.seen.set()
        else:
            self.polls += 1
            if self.polls >= POLLS:
                self.seen.set()
        return super().select(timeout)


@contextmanager
def _server(selector: Sleeps) -> Iterator[str]:
    """In a thread: it answers /slow when the loop has slept or polled, everything else at once."""

    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            while request := peer.recv(65536):
                if request.startswith(b"GET /slow"):
                    selector.seen.wait(10)
                peer.sendall(ANSWER)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10)


def _sleeps(client_class: type[Any], **options: Any) -> int:
    """How often the loop slept over a slow answer behind fast ones."""
    selector = Sleeps()

    async def main(base: str) -> int:
        async with client_class(force_instance=True, trust_env=False, **options) as client:
            for _ in range(3):
                await client.fetch(f"{base}/fast")
            selector.watch()
            response = await client.fetch(f"{base}/slow")
            assert response.body == b"ok"
            assert response.reused
            return selector.sleeps

    with (
        _server(selector) as base,
        asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner,
    ):
        return runner.run(main(base))


def test_the_loop_does_not_sleep_while_an_answer_is_due(client_class: type[Any]) -> None:
    assert _sleeps(client_class, busy_poll=1.0) == 0


def test_with_zero_it_does(client_class: type[Any]) -> None:
    assert _sleeps(client_class, busy_poll=0) > 0


def test_a_value_that_is_none(client_class: type[Any]) -> None:
    with pytest.raises(ValueError, match="busy_poll must be seconds"):
        client_class(force_instance=True, busy_poll=-1)
