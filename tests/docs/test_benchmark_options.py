"""The page of the benchmarks names the options that clients are given beyond their defaults."""

from __future__ import annotations

import pytest
from pages import DOCS, ROOT

if not (ROOT / "benchmarks").is_dir():
    pytest.skip("these are the tests alone", allow_module_level=True)

CLIENTS = ROOT / "benchmarks" / "clients"
PAGE = DOCS / "benchmarks.md"

OPTIONS = {
    "whimbrel_client": ("max_body_size", "http_version"),
    "fetching": ("request_timeout",),
    "tornado_client": ("max_body_size", "max_buffer_size"),
    "curl_cffi_client": ("PIPEWAIT", "LONG_SECONDS"),
    "httpx_client": ("_TIMEOUT_SECONDS",),
    "pycurl_client": ("BUFFERSIZE", "UPLOAD_BUFFERSIZE", "Expect", "PIPEWAIT"),
    "wreq_client": ("http1_only", "http2_only"),
    "pyreqwest_client": ("http2_prior_knowledge",),
    "niquests_client": ("disable_http3", "trust_env"),
}
"""By module, what stands in its source."""
SAID = {
    "http_version": "the version of HTTP",
    "LONG_SECONDS": "the same hour",
    "_TIMEOUT_SECONDS": "120 s",
    "http2_prior_knowledge": "prior knowledge",
    "disable_http3": "no HTTP/3",
    "trust_env": "nothing from the environment",
}
"""How the page says it, where it has other words."""


@pytest.mark.parametrize("module", OPTIONS)
def test_changed_options_are_told(module: str) -> None:
    source = (CLIENTS / f"{module}.py").read_text(encoding="utf-8")
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    for option in OPTIONS[module]:
        assert option in source
        assert SAID.get(option, option) in page
    assert "all other options keep their defaults." not in page


def test_calls_in_vain_are_told() -> None:
    """Of libcurl, which the guard counts and lets pass."""
    for page in (PAGE, DOCS / "internals" / "speed.md"):
        words = " ".join(page.read_text(encoding="utf-8").split())
        assert "in vain" in words
        assert "libcurl tries to receive right after it has sent" in words
        assert "`busy_poll=0`" in words
