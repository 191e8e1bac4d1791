"""The servers and files of the documentation's examples."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whimbrel.testing.examples import FILES, Ports, example_servers, write_files

FREE = Ports(0, 0, 0, 0)


async def test_the_servers(make_client: Callable[..., Any], tmp_path: Path) -> None:
    """They work with the files, and only with alice's password."""
    client = make_client()
    write_files(tmp_path)
    files = {name: str(tmp_path / name) for name in FILES}
    async with example_servers(FREE) as servers:
        for proxy in (False, servers.proxy, servers.socks):
            response = await client.fetch(
                servers.secure.url("/hello"),
                proxy=proxy and proxy.url_with_credentials,
                ca_certs=files["ca.pem"],
                client_cert=files["client.pem"],
                client_key=files["client.key"],
            )
            assert response.body == b"Hello from whimbrel\n"
        assert (await client.fetch(servers.origin.url("/hello"))).code == 200
        assert [servers.proxy.tunnel_count, servers.socks.tunnel_count] == [1, 1]
        assert "//alice:secret@" in servers.proxy.url_with_credentials
        assert "//alice:secret@" in servers.socks.url_with_credentials


@pytest.mark.parametrize("index", range(4))
async def test_a_port_that_is_taken(index: int) -> None:
    """It is named, and the servers that were started are stopped."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        wanted = [0, 0, 0, 0]
        wanted[index] = port
        with pytest.raises(OSError, match=rf"port {port} of 127\.0\.0\.1: Address already in use"):
            async with example_servers(Ports(*wanted)):
                pass


def test_the_files(tmp_path: Path) -> None:
    """Written where they are not, in a folder that is made; twice is no error."""
    folder = tmp_path / "a" / "b"
    for _ in range(2):
        write_files(folder)
        (folder / "ca.pem").unlink()
    write_files(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert len(FILES["upload.bin"]) == 256_000


@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_no_file_is_overwritten(tmp_path: Path, what: str) -> None:
    """The key of somebody's own may bear the name; then nothing is written at all."""
    key = tmp_path / "client.key"
    if what == "file":
        key.write_text("my own")
    elif what == "folder":
        key.mkdir()
    else:
        key.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError, match="another file of this name"):
        write_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["client.key"]
    assert what != "file" or key.read_text() == "my own"
