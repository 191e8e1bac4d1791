"""Matrix 54: the child of a fork says nothing on its parent's connections, and the parent goes on.

Each program runs in a process of its own, with the server here: what is written to a connection,
by whichever process, is seen.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from whimbrel.testing import localhost_context
from whimbrel.testing.scripted import Peer, ScriptedServer

from .support import complaints, run_with_stuck_dns, until

PROGRAM = """
import asyncio, gc, os, sys
from {module} import {name} as Client

url, how = sys.argv[1:]

async def main():
    client = Client(force_instance=True, trust_env=False)
    arguments = dict(validate_cert=False, request_timeout=20)
    assert (await client.fetch(url + "/one", **arguments)).body == b"/one"
    held = client.fetch(url + "/held", **arguments)
    idle = client.fetch(url + "/two", **arguments)
    assert (await idle).body == b"/two"
    print("ready", flush=True)
    sys.stdin.readline()
    child = os.fork()
    if child == 0:
        if how == "collect":
            del client, held, idle
            gc.collect()
        elif how == "close":
            client.close()
        elif how == "fetch":
            try:
                client.fetch(url + "/from-the-child", **arguments)
            except RuntimeError as error:
                assert "fork" in str(error), error
            else:
                os._exit(3)
        elif how == "own client":
            return "own client", held
        elif how == "exit":
            return "exit", held
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, status
    print("forked", flush=True)
    sys.stdin.readline()
    response = await client.fetch(url + "/three", **arguments)
    assert response.body == b"/three"
    assert response.reused
    print("reused", flush=True)
    sys.stdin.readline()
    assert (await held).body == b"/held"
    client.close()
    return "", None

loop = asyncio.new_event_loop()
outcome, held = loop.run_until_complete(main())

if outcome == "own client":
    # Another loop: the parent's is not the child's to run.
    async def own():
        async with Client(force_instance=True, trust_env=False) as client:
            return await client.fetch(url + "/own", validate_cert=False)

    asyncio.set_event_loop(None)
    assert asyncio.new_event_loop().run_until_complete(own()).body == b"/own"
if outcome:
    sys.exit(0)  # the interpreter takes down what it inherited
loop.close()
"""


def _program(client_class: type[Any]) -> str:
    program = textwrap.dedent(PROGRAM)
    return program.replace("{module}", client_class.__module__).replace(
        "{name}", client_class.__qualname__
    )


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("how", ["os._exit", "exit", "collect", "close", "fetch", "own client"])
async def test_matrix_54_fork(how: str, tls: bool, client_class: type[Any]) -> None:
    """Nothing of the child's reaches the parent's connections, no close_notify and no FIN."""
    release = asyncio.Event()

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.target == "/held":
                await release.wait()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request.target))
            await peer.send(request.target.encode())

    async with ScriptedServer(handler, localhost_context() if tls else None) as server:
        program = await asyncio.create_subprocess_exec(
            sys.executable,
            "-W",
            "error",
            "-W",
            "ignore::ResourceWarning",
            "-c",
            _program(client_class),
            server.url(""),
            how,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert program.stdin is not None
        assert program.stdout is not None
        try:
            assert await program.stdout.readline() == b"ready\n", await program.stderr.read()  # type: ignore[union-attr]
            received = [peer.bytes_received for peer in server.connections]
            program.stdin.write(b"\n")
            assert await program.stdout.readline() == b"forked\n", await program.stderr.read()  # type: ignore[union-attr]
            own = 1 if how == "own client" else 0
            assert len(server.connections) == len(received) + own
            for peer, before in zip(server.connections, received, strict=False):
                assert peer.bytes_received == before
                assert not peer.is_closed
            program.stdin.write(b"\n")
            assert await program.stdout.readline() == b"reused\n", await program.stderr.read()  # type: ignore[union-attr]
            release.set()
            output, errors = await program.communicate(b"\n")
            assert (program.returncode, output, complaints(errors)) == (0, b"", [])
        finally:
            if program.returncode is None:
                program.kill()
                await program.communicate()
        # The child let go of its copies, else these would have stayed open beyond the parent.
        for peer in server.connections:
            await peer.closed()


async def test_matrix_54_parents_close_reaches_the_peer(client_class: type[Any]) -> None:
    """While a child lives on, what its parent closes is closed: the child holds no copies."""
    program = f"""
        import asyncio, os, sys
        from {client_class.__module__} import {client_class.__qualname__} as Client

        async def main():
            client = Client(force_instance=True, trust_env=False)
            await client.fetch(sys.argv[1])
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(write)
                os.read(read, 1)
                os._exit(0)
            client.close()
            print("closed", flush=True)
            sys.stdin.readline()
            os.close(write)
            os.waitpid(child, 0)

        asyncio.run(main())
    """

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        await peer.closed()

    async with ScriptedServer(handler) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            textwrap.dedent(program),
            server.url(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            assert await process.stdout.readline() == b"closed\n"
            async with asyncio.timeout(5):
                await server.connections[0].closed()
        finally:
            await process.communicate(b"\n")
        assert process.returncode == 0


async def test_matrix_54_numbers_that_are_others_by_now(client_class: type[Any]) -> None:
    """A descriptor that took the number of a closed connection is left alone in the child."""
    program = f"""
        import asyncio, os, sys
        from {client_class.__module__} import {client_class.__qualname__} as Client

        async def main():
            client = Client(force_instance=True, trust_env=False)
            await asyncio.gather(*(client.fetch(sys.argv[1]) for _ in range(3)))
            pipes = [os.pipe() for _ in range(6)]
            child = os.fork()
            if child == 0:
                for read, write in pipes:
                    os.write(write, b"x")
                    assert os.read(read, 1) == b"x"
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            client.close()

        asyncio.run(main())
    """

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

    async with ScriptedServer(handler) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", textwrap.dedent(program), server.url(), stderr=subprocess.PIPE
        )
        _, errors = await process.communicate()
        assert (process.returncode, complaints(errors)) == (0, [])


MULTIPROCESSING = """
import asyncio, multiprocessing, sys
from {module} import {name} as Client

async def fetch(url):
    async with Client(force_instance=True, trust_env=False) as client:
        return (await client.fetch(url)).body

def work(url, answers):
    answers.put(asyncio.run(fetch(url)))

async def main(url, method):
    context = multiprocessing.get_context(method)
    client = Client(force_instance=True, trust_env=False)
    assert (await client.fetch(url + "/parent")).body == b"/parent"
    answers = context.SimpleQueue()
    workers = [context.Process(target=work, args=(url + "/child", answers)) for _ in range(2)]
    for worker in workers:
        worker.start()
    loop = asyncio.get_running_loop()
    for worker in workers:
        assert await loop.run_in_executor(None, answers.get) == b"/child"
        await loop.run_in_executor(None, worker.join)
        assert worker.exitcode == 0, worker.exitcode
    response = await client.fetch(url + "/parent")
    assert response.body == b"/parent" and response.reused
    client.close()

if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
async def test_matrix_54_multiprocessing(
    method: str, client_class: type[Any], tmp_path: Path
) -> None:
    """Children of every start method fetch with clients of their own, beside the parent's."""
    script = tmp_path / "program.py"
    script.write_text(
        MULTIPROCESSING.replace("{module}", client_class.__module__).replace(
            "{name}", client_class.__qualname__
        )
    )

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            body = request.target.encode()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with ScriptedServer(handler) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-W",
            "error",
            str(script),
            server.url(""),
            method,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()
        assert (process.returncode, output, complaints(errors)) == (0, b"", [])
        await until(lambda: all(peer.is_closed for peer in server.connections))
        assert len(server.connections) == 3


def test_matrix_54_a_child_ends_while_names_are_looked_up(
    client_class: type[Any], tmp_path: Path
) -> None:
    """libcurl's resolver threads are the parent's: the child's interpreter must not wait there."""
    program = f"""
        import asyncio, os, sys, time
        from {client_class.__module__} import {client_class.__qualname__} as Client

        async def begin():
            client = Client(force_instance=True, trust_env=False)
            fetches = [client.fetch(f"http://name{{n}}.example/") for n in range(5)]
            await asyncio.sleep(0.1)
            return client, fetches

        loop = asyncio.new_event_loop()
        client, fetches = loop.run_until_complete(begin())
        child = os.fork()
        if child == 0:
            sys.exit(7)
        deadline = time.monotonic() + 10
        while True:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                break
            if time.monotonic() > deadline:
                os.kill(child, 9)
                os.waitpid(child, 0)
                sys.exit("the child hangs at its exit")
            time.sleep(0.01)
        assert os.waitstatus_to_exitcode(status) == 7, status
        client.close()
        loop.run_until_complete(asyncio.wait(fetches))
        for fetch in fetches:
            fetch.exception()
        loop.close()
    """
    done = run_with_stuck_dns(program, tmp_path)
    # A child that leaves by sys.exit() warns of what it inherited and did not close.
    said = [line for line in complaints(done.stderr) if "ResourceWarning" not in line]
    assert (done.returncode, said) == (0, [])
