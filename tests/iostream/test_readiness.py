"""Descriptors in an epoll of their own, by the rules at the top of readiness.py."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import tempfile
from collections.abc import Iterator

import pytest

from conftest import StrayLogs
from whimbrel import _readiness as module
from whimbrel._readiness import Readiness

from .support import until

pytestmark = [
    pytest.mark.skipif(not hasattr(select, "epoll"), reason="this platform has no epoll"),
    pytest.mark.parametrize("watcher", ["loop"], indirect=True),  # there are no streams here
]


@pytest.fixture
async def readiness() -> Readiness:
    return Readiness(asyncio.get_running_loop())


@contextlib.contextmanager
def pairs(readiness: Readiness, count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Non-blocking sockets and their peers; at the end everything is closed."""
    made = [socket.socketpair() for _ in range(count)]
    try:
        for ours, _ in made:
            ours.setblocking(False)
        yield made
    finally:
        readiness.close()
        for pair in made:
            for sock in pair:
                sock.close()


@pytest.mark.parametrize("share", ["SHARE", "SHARE_SECONDS"])
async def test_rule_1_a_turn_has_its_share(
    readiness: Readiness, monkeypatch: pytest.MonkeyPatch, share: str
) -> None:
    """What is more waits for the next turns, before what becomes ready later."""
    expected = {"SHARE": 2, "SHARE_SECONDS": 1}[share]
    monkeypatch.setattr(module, share, {"SHARE": 2, "SHARE_SECONDS": 0.0}[share])
    served: list[int] = []
    turns: list[int] = []

    with pairs(readiness, 6) as made:

        def read(number: int) -> None:
            made[number][0].recv(1)
            served.append(number)
            made[number][1].send(b"x")  # and it is ready again

        for number, (ours, theirs) in enumerate(made):
            readiness.add_reader(ours.fileno(), read, number)
            theirs.send(b"x")
        while len(served) < 12:
            before = len(served)
            await asyncio.sleep(0)
            turns.append(len(served) - before)
    assert max(turns) == expected
    assert sorted(served[:6]) == sorted(served[6:12]) == list(range(6))


async def test_rule_2_who_was_taken_out_is_not_called(readiness: Readiness) -> None:
    """Not even if it was found ready before, and its number is another descriptor's by now."""
    called: list[str] = []
    with pairs(readiness, 2) as made, contextlib.ExitStack() as stack:

        def first_of_all(number: int) -> None:
            called.append("first")
            victim = made[1 - number][0]
            old = victim.fileno()
            readiness.remove_reader(old)
            readiness.remove_reader(made[number][0].fileno())
            victim.close()
            new, peer = map(stack.enter_context, socket.socketpair())
            assert old in (new.fileno(), peer.fileno())
            readiness.add_reader(old, called.append, "the number alone")

        for number, (ours, theirs) in enumerate(made):
            readiness.add_reader(ours.fileno(), first_of_all, number)
            theirs.send(b"x")
        for _ in range(5):
            await asyncio.sleep(0)
    assert called == ["first"]


async def test_rule_3_after_the_end(readiness: Readiness) -> None:
    with pairs(readiness, 1) as ((ours, theirs),):
        readiness.add_reader(ours.fileno(), pytest.fail, "it is closed")
        theirs.send(b"x")
        readiness.close()
        readiness.close()
        assert not readiness.remove_reader(ours.fileno())
        assert not readiness.remove_writer(ours.fileno())
        with pytest.raises(OSError, match="Bad file descriptor"):
            readiness.add_reader(ours.fileno(), pytest.fail, "it is closed")
        for _ in range(3):
            await asyncio.sleep(0)


def test_rule_3_after_the_end_of_the_loop() -> None:
    async def begin() -> Readiness:
        readiness = Readiness(asyncio.get_running_loop())
        readiness.add_reader(ours.fileno(), pytest.fail, "the loop is closed")
        return readiness

    ours, theirs = socket.socketpair()
    with ours, theirs:
        readiness = asyncio.run(begin())
        assert readiness.remove_reader(ours.fileno())
        readiness.close()


async def test_rule_3_a_closed_descriptor_may_be_taken_out(readiness: Readiness) -> None:
    with pairs(readiness, 2) as ((ours, theirs), (other, _)):
        for fd in (ours.fileno(), theirs.fileno()):
            readiness.add_reader(fd, pytest.fail, "nothing comes")
        readiness.add_writer(ours.fileno(), pytest.fail, "it is closed")
        fds = ours.fileno(), theirs.fileno()
        ours.close()
        theirs.close()
        assert readiness.remove_writer(fds[0])
        assert [readiness.remove_reader(fd) for fd in fds] == [True, True]
        called: list[str] = []
        readiness.add_writer(other.fileno(), called.append, "write")
        await until(lambda: called)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
async def test_rule_4_a_child_takes_nothing_from_its_parent(readiness: Readiness) -> None:
    called: list[str] = []
    with pairs(readiness, 1) as ((ours, theirs),):
        readiness.add_reader(ours.fileno(), called.append, "read")
        child = os.fork()
        if child == 0:
            status = 1
            try:
                readiness.remove_reader(ours.fileno())
                readiness.close()
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)  # noqa: ASYNC222 (it is about to end)
        assert os.waitstatus_to_exitcode(status) == 0
        theirs.send(b"x")
        await until(lambda: called)


async def test_reading_and_writing(readiness: Readiness) -> None:
    """Both can be watched for, one after the other and at once, and taken out in any order."""
    called: list[str] = []
    with pairs(readiness, 1) as ((ours, theirs),):
        fd = ours.fileno()
        readiness.add_writer(fd, called.append, "write")
        await until(lambda: "write" in called)
        readiness.add_reader(fd, called.append, "read")
        readiness.add_reader(fd, called.append, "read instead")
        theirs.send(b"x")
        await until(lambda: "read instead" in called)
        assert "read" not in called
        assert readiness.remove_writer(fd)
        assert not readiness.remove_writer(fd)
        called.clear()
        await until(lambda: called)
        assert set(called) == {"read instead"}
        readiness.add_writer(fd, called.append, "write")
        assert readiness.remove_reader(fd)
        called.clear()
        await until(lambda: called)
        assert set(called) == {"write"}


async def test_an_end_is_for_both_to_find(readiness: Readiness) -> None:
    called: set[str] = set()
    with pairs(readiness, 1) as ((ours, theirs),):
        while True:
            try:
                ours.send(bytes(65536))
            except BlockingIOError:
                break
        readiness.add_reader(ours.fileno(), called.add, "read")
        readiness.add_writer(ours.fileno(), called.add, "write")
        for _ in range(3):
            await asyncio.sleep(0)
        assert not called
        theirs.close()
        await until(lambda: called == {"read", "write"})


async def test_a_callback_that_fails(readiness: Readiness, stray_logs: StrayLogs) -> None:
    """It goes to the loop's exception handler; the others are served."""
    called: list[int] = []

    with pairs(readiness, 3) as made:

        def fail(number: int) -> None:
            made[number][0].recv(1)
            called.append(number)
            raise ZeroDivisionError

        for number, (ours, theirs) in enumerate(made):
            readiness.add_reader(ours.fileno(), fail, number)
            theirs.send(b"x")
        await until(lambda: len(called) == 3)
    stray_logs.expect("asyncio", "a callback of a descriptor failed")


async def test_what_cannot_be_watched(readiness: Readiness) -> None:
    """An epoll takes no plain files; the next descriptor is none the worse for it."""
    called: list[str] = []
    with pairs(readiness, 1) as ((ours, _),), tempfile.TemporaryFile() as file:
        with pytest.raises(PermissionError):
            readiness.add_reader(file.fileno(), pytest.fail, "it cannot be watched")
        assert not readiness.remove_reader(file.fileno())
        readiness.add_writer(ours.fileno(), called.append, "write")
        await until(lambda: called)


async def test_no_descriptor_for_the_epoll(
    readiness: Readiness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is the failure of who came first; later there may be one."""
    loop = asyncio.get_running_loop()
    called: list[str] = []
    with pairs(readiness, 1) as ((ours, _),):
        with monkeypatch.context() as patch:

            def add_reader(*arguments: object) -> None:
                raise OSError(28, "No space left on device")

            patch.setattr(loop, "add_reader", add_reader, raising=False)
            with pytest.raises(OSError, match="No space"):
                readiness.add_writer(ours.fileno(), pytest.fail, "it is not watched")
        readiness.add_writer(ours.fileno(), called.append, "write")
        await until(lambda: called)
