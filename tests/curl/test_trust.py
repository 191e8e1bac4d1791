"""Whose certificates are trusted where the caller says nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, ssl, sys
import certifi
from whimbrel._curl import capabilities, options
from whimbrel._policy.exchange import prepare
import pycurl

request = {"url": "https://localhost/", "user_agent": "x", "max_body_size": 0}
plan = options.plan(prepare(request).profile)
print(dict(plan.options).get(pycurl.CAINFO) == certifi.where())
"""


def _run(*prefix: str) -> str:
    done = subprocess.run(
        [*prefix, sys.executable, "-W", "error", "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_libcurls_own_bundle_is_kept_where_it_loads() -> None:
    """No CAINFO is set while libcurl's built-in bundle can be loaded."""
    if not os.path.exists("/etc/ssl/certs/ca-certificates.crt"):
        pytest.skip("SKIPPED LOUDLY: this machine has no system bundle to keep")
    assert _run() == "False"


def test_certifi_where_libcurls_bundle_is_missing(tmp_path: Path) -> None:
    """Item 7: with the system's certificates hidden, certifi's bundle is set."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("SKIPPED LOUDLY: hiding /etc/ssl/certs needs root and unshare")
    script = tmp_path / "hidden.sh"
    empty = tmp_path / "empty"
    empty.mkdir()
    script.write_text(f'mount --bind "{empty}" /etc/ssl/certs && exec "$@"\n')
    assert _run("unshare", "-m", "sh", str(script)) == "True"
