"""The lane's own machinery: a server that cannot start says why, and none outlives its block."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .servers import process

_LISTEN = """\
import socket, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print("helper", child.pid, flush=True)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    listener.accept()[0].close()
"""
_DEAF_TO_SIGTERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


@pytest.mark.parametrize("prologue", ["", _DEAF_TO_SIGTERM], ids=["polite", "deaf to SIGTERM"])
def test_whole_group_is_gone_after_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prologue: str
) -> None:
    monkeypatch.setattr(process, "_STOP_TIMEOUT", 1.0)
    (port,) = process.free_ports(1)
    argv = [sys.executable, "-c", prologue + _LISTEN, str(port)]
    with process.running(argv, folder=tmp_path, ports=[port]) as server:
        assert process.accepts_connections(port)
        members = _group(server.pid)
        assert len(members) == 2
    assert not process.accepts_connections(port)
    assert _group(server.pid) == []
    expected = signal.SIGKILL if prologue else signal.SIGTERM
    assert server.returncode == -expected


def test_early_end_is_reported_with_the_log(tmp_path: Path) -> None:
    (port,) = process.free_ports(1)
    argv = [sys.executable, "-c", "raise SystemExit('bad config, line 7')"]
    with (
        pytest.raises(process.ServerStartError, match=r"status 1\n(.*\n)*bad config, line 7"),
        process.running(argv, folder=tmp_path, ports=[port]),
    ):
        pytest.fail("the block must not be entered")


def test_never_ready_is_reported_and_stopped(tmp_path: Path) -> None:
    (port,) = process.free_ports(1)
    argv = [
        sys.executable,
        "-c",
        "import os, signal; print(os.getpid(), flush=True); signal.pause()",
    ]
    with (
        pytest.raises(process.ServerStartError, match=rf"not listening on \[{port}\] after 0.5 s"),
        process.running(argv, folder=tmp_path, ports=[port], timeout=0.5),
    ):
        pytest.fail("the block must not be entered")
    pid = int((tmp_path / "output.log").read_text())
    assert _group(pid) == []


_KILLED_OUTRIGHT = """\
import os, signal, sys
from pathlib import Path
from real.servers import process
folder, server = Path(sys.argv[1]), sys.argv[2]
(port,) = process.free_ports(1)
argv = [sys.executable, "-c", server, str(port)]
with process.guarded(folder), process.running(argv, folder=folder, ports=[port]) as started:
    print(started.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_servers_do_not_outlive_a_kill_of_the_tests(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED_OUTRIGHT, str(folder), _DEAF_TO_SIGTERM + _LISTEN],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    group = int(killed.stdout)
    assert process.wait_until(lambda: not _group(group) and not folder.exists(), timeout=10)


def test_missing_program_skips_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "missing", {})
    monkeypatch.delenv(process.REQUIRE_REAL, raising=False)
    with pytest.raises(
        pytest.skip.Exception, match=r"no-such-server.*apt-get install some-package"
    ):
        process.require_program("no-such-server", "some-package")
    assert process.missing == {"no-such-server": "apt-get install some-package"}

    monkeypatch.setenv(process.REQUIRE_REAL, "1")
    with pytest.raises(pytest.fail.Exception, match="no-such-server"):
        process.require_program("no-such-server", "some-package")
    with pytest.raises(pytest.fail.Exception, match="no_such_module"):
        process.require_module("no_such_module", "some-distribution")
    with pytest.raises(pytest.fail.Exception, match="no-such-file"):
        process.require_file("/no-such-file", "its name", "some-package")


def _group(group: int) -> list[str]:
    """The living processes of a group; the dead wait for init and do not count."""
    listing = subprocess.run(
        ["ps", "-e", "-o", "pgid=,stat=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = (line.split(maxsplit=2) for line in listing.splitlines())
    return [row[2] for row in rows if int(row[0]) == group and not row[1].startswith("Z")]
