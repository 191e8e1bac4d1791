"""From a profile to libcurl's options: the table, its units, and what a lesser libcurl lacks."""

from __future__ import annotations

import inspect
import logging
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pycurl
import pytest
import trustme

from conftest import Certificates, StrayLogs
from whimbrel._curl import capabilities
from whimbrel._curl.capabilities import CapabilityError
from whimbrel._curl.options import (
    BASE,
    FIELDS,
    GROUPS,
    SIMPLE,
    Plan,
    field_options,
    milliseconds,
    plan,
)
from whimbrel._policy.exchange import Exchange, Profile, prepare
from whimbrel.curl_httpclient import CurlAsyncHTTPClient
from whimbrel.httpclient import HTTPRequest

HTTP = "http://example.com/"
HTTPS = "https://example.com/"
UA = "agent"


def exchange(url: str = HTTP, **options: Any) -> Exchange:
    return prepare({"user_agent": UA, "max_body_size": 0, "url": url, **options})


def profile(url: str = HTTP, **options: Any) -> Profile:
    return exchange(url, **options).profile


def planned(url: str = HTTP, **options: Any) -> Plan:
    """All that is set for a request, made anew: for tests that take something away from pycurl."""
    it = exchange(url, **options)
    found = plan.__wrapped__(it.profile)
    found.options = (*found.options, *field_options(it.profile, it.fields))
    return found


def value_of(found: Plan, option: int) -> Any:
    values = [value for number, value in found.options if number == option]
    assert len(values) == 1, f"option {option} is set {len(values)} times"
    return values[0]


def lines(found: Plan) -> set[bytes]:
    return set(value_of(found, pycurl.HTTPHEADER))


@pytest.fixture(scope="module")
def ca_pem() -> bytes:
    pem: bytes = trustme.CA().cert_pem.bytes()
    return pem


# -- the whole


def test_a_profile_is_planned_once() -> None:
    plan.cache_clear()
    first = plan(profile())
    assert plan(profile()) is first  # equal profiles, not one object
    assert plan.cache_info().hits == 1
    assert plan(profile(method="HEAD")) is not first


def test_the_cache_is_bounded() -> None:
    assert plan.cache_info().maxsize


def test_a_plan_makes_no_handle_and_asks_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("plan() is to be pure")

    monkeypatch.setattr(pycurl, "Curl", forbidden)
    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    first = planned(HTTPS, ca_certs=b"pem", proxy="https://p.example", auth_username="u")
    second = planned(HTTPS, ca_certs=b"pem", proxy="https://p.example", auth_username="u")
    assert first.options == second.options


def test_a_plan_shows_no_password() -> None:
    found = planned(HTTPS, ca_certs=b"x", proxy="http://u:hunter2@p.example", auth_token="hunter3")
    assert "hunter" not in repr(found)
    assert "hunter" not in repr(profile(HTTP, proxy="http://u:hunter2@p.example"))


def test_every_parameter_of_a_request_has_a_row() -> None:
    parameters = inspect.signature(HTTPRequest.__init__).parameters.keys() - {"self"}
    assert parameters == FIELDS.keys()


@pytest.mark.parametrize("parameter", sorted(FIELDS))
def test_rows_name_options_that_exist(parameter: str) -> None:
    text = FIELDS[parameter]
    if text.startswith("none:"):
        return
    for name in re.findall(r"\b[A-Z][A-Z0-9_]{2,}\b", text):
        assert isinstance(getattr(pycurl, name), int), name


def test_no_option_is_set_twice_by_different_rows() -> None:
    """What a later row sets would overrule an earlier one, by accident of order."""
    everything = planned(
        HTTPS,
        method="POST",
        body=b"x",
        expect_100_continue=True,
        auth_username="u",
        auth_mode="digest",
        proxy="https://u:p@p.example",
        proxy_auth_mode="digest",
        network_interface="lo",
        allow_ipv6=False,
        http_version="2",
        ca_certs=b"pem",
    )
    numbers = [number for number, _ in everything.options]
    assert len(numbers) == len(set(numbers))
    assert len(GROUPS) == 5
    assert numbers[: len(BASE)] == [number for number, _ in BASE]


# -- units


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0001, 1),
        (1e-12, 1),
        (0.001, 1),
        (0.0011, 2),
        (1, 1000),
        (20.0, 20_000),
        (0, 2**31 - 1),  # no limit; libcurl's 0 is 300 s for a connect
        (0.0, 2**31 - 1),
        (1e9, 2**31 - 1),  # a long has 32 bits somewhere
        (1e300, 2**31 - 1),
    ],
)
def test_seconds_never_become_0(seconds: float, expected: int) -> None:
    assert milliseconds(seconds) == expected


def test_libcurl_takes_the_largest() -> None:
    easy = pycurl.Curl()
    try:
        for option in (pycurl.TIMEOUT_MS, pycurl.CONNECTTIMEOUT_MS):
            easy.setopt(option, milliseconds(0))
    finally:
        easy.close()


# -- what every transfer sets


def test_only_http_is_spoken() -> None:
    found = planned()
    assert value_of(found, pycurl.PROTOCOLS) == pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS == 3
    assert value_of(found, pycurl.REDIR_PROTOCOLS) == 0


@pytest.mark.parametrize("proxy", [None, False, "http://p.example"])
def test_libcurl_never_reads_the_proxy_variables(proxy: Any) -> None:
    found = planned(proxy=proxy)
    assert value_of(found, pycurl.NOPROXY) == ""
    assert value_of(found, pycurl.PROXY) == ("http://p.example:80" if proxy else "")


@pytest.mark.parametrize("name", ["FOLLOWLOCATION", "NETRC", "COOKIEFILE", "COOKIEJAR", "COOKIE"])
def test_what_stays_off(name: str) -> None:
    assert getattr(pycurl, name) not in dict(planned().options)


def test_signals_are_not_used() -> None:
    assert value_of(planned(), pycurl.NOSIGNAL) == 1
    assert value_of(planned(), pycurl.PATH_AS_IS) == 1


# -- each parameter

Expected = dict[str, Any]
ABSENT = object()


def agent(*more: bytes) -> list[bytes]:
    encoding = next(
        f"Accept-Encoding: {value}".encode()
        for name, value in exchange().fields
        if name == "Accept-Encoding"
    )
    return [b"User-Agent: agent", encoding, *more]


CASES: list[tuple[str, dict[str, Any], Expected]] = [
    ("method", {"method": "GET"}, {"CUSTOMREQUEST": ABSENT, "NOBODY": ABSENT, "POST": ABSENT}),
    ("method", {"method": "HEAD"}, {"NOBODY": 1, "CUSTOMREQUEST": ABSENT}),
    ("method", {"method": "DELETE"}, {"CUSTOMREQUEST": "DELETE", "NOBODY": ABSENT}),
    ("method", {"method": "POST", "body": b"x"}, {"POST": 1, "CUSTOMREQUEST": ABSENT}),
    ("method", {"method": "PUT", "body": b"x"}, {"POST": 1, "CUSTOMREQUEST": "PUT"}),
    ("method", {"method": "PATCH", "body": b"x"}, {"POST": 1, "CUSTOMREQUEST": "PATCH"}),
    ("headers", {"headers": {"A": "b"}}, {"HTTPHEADER": [b"A: b", *agent(b"Accept:")]}),
    ("headers", {"headers": {"A": ""}}, {"HTTPHEADER": [b"A;", *agent(b"Accept:")]}),
    ("headers", {"headers": {"Accept": "x"}}, {"HTTPHEADER": [b"Accept: x", *agent()]}),
    ("headers", {"headers": {"A": "\xe9"}}, {"HTTPHEADER": [b"A: \xe9", *agent(b"Accept:")]}),
    ("body", {"method": "POST", "body": ["x"]}, {"UPLOAD": 1, "POST": ABSENT}),
    (
        "body",
        {"method": "POST", "body": b""},
        {
            "POST": 1,
            "HTTPHEADER": (
                *agent(b"Content-Type: application/x-www-form-urlencoded"),
                b"Accept:",
                b"Expect:",
            ),
        },
    ),
    ("json", {"method": "POST", "json": 1}, {"POST": 1, "UPLOAD": ABSENT}),
    ("form", {"method": "POST", "form": {"a": 1}}, {"POST": 1, "UPLOAD": ABSENT}),
    (
        "auth_username",
        {"auth_username": "u", "auth_password": "p"},
        {
            "HTTPHEADER": (*agent(), b"Accept:"),
            "HTTPAUTH": ABSENT,
            "USERNAME": ABSENT,
        },
    ),
    (
        "auth_password",
        {"auth_username": "é", "auth_password": "ö", "auth_mode": "digest"},
        {
            "HTTPAUTH": pycurl.HTTPAUTH_DIGEST,
            "USERNAME": "é".encode(),
            "PASSWORD": "ö".encode(),
        },
    ),
    (
        "auth_mode",
        {"auth_mode": "negotiate"},
        {"HTTPAUTH": pycurl.HTTPAUTH_NEGOTIATE, "USERNAME": b"", "PASSWORD": b""},
    ),
    (
        "auth_token",
        {"auth_token": "t"},
        {
            "HTTPAUTH": ABSENT,
            "HTTPHEADER": (*agent(), b"Accept:"),
        },
    ),
    (
        "if_modified_since",
        {"if_modified_since": 0},
        {
            "HTTPHEADER": (
                b"If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT",
                *agent(b"Accept:"),
            ),
            "TIMECONDITION": ABSENT,
        },
    ),
    (
        "user_agent",
        {"user_agent": "mine"},
        {"HTTPHEADER": (b"User-Agent: mine", agent()[1], b"Accept:"), "USERAGENT": ABSENT},
    ),
    ("network_interface", {"network_interface": "lo"}, {"INTERFACE": b"if!lo"}),
    ("network_interface", {"network_interface": "127.0.0.1"}, {"INTERFACE": b"host!127.0.0.1"}),
    ("network_interface", {"network_interface": "::1"}, {"INTERFACE": b"host!::1"}),
    (
        "proxy_host",
        {"proxy_host": "p.example", "proxy_port": 3128},
        {"PROXY": "http://p.example:3128"},
    ),
    ("proxy_port", {"proxy_host": "::1", "proxy_port": 9}, {"PROXY": "http://[::1]:9"}),
    (
        "proxy_username",
        {"proxy_host": "p", "proxy_port": 9, "proxy_username": "ü"},
        {"PROXYUSERNAME": "ü".encode(), "PROXYPASSWORD": b""},
    ),
    (
        "proxy_password",
        {"proxy": "http://p", "proxy_username": "u", "proxy_password": "s:x"},
        {"PROXYUSERNAME": b"u", "PROXYPASSWORD": b"s:x"},
    ),
    (
        "proxy_auth_mode",
        {"proxy": "http://u:p@p", "proxy_auth_mode": "digest"},
        {"PROXYAUTH": pycurl.HTTPAUTH_DIGEST},
    ),
    (
        "proxy_auth_mode",
        {"proxy": "http://p", "proxy_auth_mode": "negotiate"},
        {"PROXYAUTH": pycurl.HTTPAUTH_NEGOTIATE, "PROXYUSERNAME": b"", "PROXYPASSWORD": b""},
    ),
    (
        "proxy",
        {"proxy": "http://u:p@p"},
        {
            "PROXY": "http://p:80",
            "PROXYUSERNAME": b"u",
            "PROXYPASSWORD": b"p",
            "PROXYAUTH": pycurl.HTTPAUTH_BASIC,
            "HEADEROPT": pycurl.HEADER_SEPARATE,
            "PROXYHEADER": (b"Proxy-Connection:",),
            "USERAGENT": b"agent",
            "HTTPHEADER": (*agent(b"Accept:"), b"Proxy-Connection:"),
        },
    ),
    (
        "proxy",
        {"proxy": "socks5h://u:p@p"},
        {
            "PROXY": "socks5h://p:1080",
            "PROXYUSERNAME": b"u",
            "PROXYAUTH": ABSENT,
            "PROXYHEADER": ABSENT,
        },
    ),
    ("allow_ipv6", {"allow_ipv6": False}, {"IPRESOLVE": pycurl.IPRESOLVE_V4}),
    ("allow_ipv6", {"allow_ipv6": True}, {"IPRESOLVE": ABSENT}),
    (
        "expect_100_continue",
        {"method": "PUT", "body": b"x", "expect_100_continue": True},
        {
            "EXPECT_100_TIMEOUT_MS": 2**31 - 1,
            "HTTPHEADER": (*agent(b"Accept:"), b"Content-Type:", b"Expect: 100-continue"),
        },
    ),
    (
        "expect_100_continue",
        {"method": "PUT", "body": b"x"},
        {
            "EXPECT_100_TIMEOUT_MS": ABSENT,
            "HTTPHEADER": (*agent(b"Accept:"), b"Content-Type:", b"Expect:"),
        },
    ),
    (
        "body_producer",
        {"method": "PUT", "body_producer": print},
        {"UPLOAD": 1, "CUSTOMREQUEST": ABSENT, "POST": ABSENT},
    ),
    (
        "body_producer",
        {"method": "POST", "body_producer": print},
        {"UPLOAD": 1, "CUSTOMREQUEST": "POST"},
    ),
    (
        "decompress_response",
        {"decompress_response": False},
        {"HTTPHEADER": (b"User-Agent: agent", b"Accept:"), "ACCEPT_ENCODING": ABSENT},
    ),
    (
        "http_version",
        {"http_version": "1.1"},
        {"HTTP_VERSION": pycurl.CURL_HTTP_VERSION_1_1, "PIPEWAIT": ABSENT},
    ),
    (
        "http_version",
        {"http_version": "2"},
        {"HTTP_VERSION": pycurl.CURL_HTTP_VERSION_2TLS, "PIPEWAIT": 1},
    ),
    (
        "http_version",
        {"http_version": "2-prior-knowledge"},
        {"HTTP_VERSION": pycurl.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE, "PIPEWAIT": 1},
    ),
    ("http_version", {"http_version": "3"}, {"HTTP_VERSION": pycurl.CURL_HTTP_VERSION_3}),
    (
        "http_version",
        {"url": HTTPS, "ca_certs": b"x", "http_version": "3-only"},
        {"HTTP_VERSION": pycurl.CURL_HTTP_VERSION_3ONLY},
    ),
    ("unix_socket", {"unix_socket": "/run/é"}, {"UNIX_SOCKET_PATH": "/run/é".encode()}),
    ("unix_socket", {"unix_socket": "/run/x"}, {"FORBID_REUSE": 1}),
    (
        "ca_certs",
        {"url": HTTPS, "ca_certs": b"pem"},
        {"CAINFO_BLOB": b"pem", "CAINFO": ABSENT, "SSL_VERIFYPEER": 1, "SSL_VERIFYHOST": 2},
    ),
    (
        "ca_certs",
        {"url": HTTPS, "ca_certs": b"pem", "proxy": "https://p"},
        {"CAINFO_BLOB": b"pem", "PROXY_CAINFO_BLOB": b"pem", "PROXY_SSL_VERIFYPEER": 1},
    ),
    (
        "validate_cert",
        {"url": HTTPS, "validate_cert": False},
        {"SSL_VERIFYPEER": 0, "SSL_VERIFYHOST": 0, "CAINFO": ABSENT},
    ),
    (
        # The hop to the proxy is another matter.
        "validate_cert",
        {"url": HTTPS, "validate_cert": False, "ca_certs": b"x", "proxy": "https://p"},
        {
            "SSL_VERIFYPEER": 0,
            "PROXY_SSL_VERIFYPEER": 1,
            "PROXY_SSL_VERIFYHOST": 2,
        },
    ),
    (
        "ssl_options",
        {"url": HTTPS, "ssl_options": {"cert_reqs": ssl.CERT_NONE, "ciphers": "AES128-SHA"}},
        {"SSL_VERIFYPEER": 0, "SSL_VERIFYHOST": 0, "SSL_CIPHER_LIST": "AES128-SHA"},
    ),
    (
        "proxy_ssl",
        {
            "url": HTTPS,
            "ca_certs": b"x",
            "proxy": "https://p",
            "proxy_ssl": {"cert_reqs": ssl.CERT_NONE, "ciphers": "AES128-SHA"},
        },
        {
            "SSL_VERIFYPEER": 1,
            "SSL_CIPHER_LIST": ABSENT,
            "PROXY_SSL_VERIFYPEER": 0,
            "PROXY_SSL_VERIFYHOST": 0,
            "PROXY_SSL_CIPHER_LIST": "AES128-SHA",
        },
    ),
    ("proxy_ssl", {"proxy_ssl": {"ciphers": "x"}}, {"PROXY_SSL_CIPHER_LIST": ABSENT}),
]

# Tested below, or set by the transfer with the exchange at hand (the wire tells in conformance).
ELSEWHERE = {
    "client_cert",
    "client_key",
    "connect_timeout",
    "header_callback",
    "prepare_curl_callback",
    "request_timeout",
    "streaming_callback",
    "url",
}


@pytest.mark.parametrize(
    ("parameter", "options", "expected"),
    CASES,
    ids=[f"{index}-{case[0]}" for index, case in enumerate(CASES)],
)
def test_each_parameter_sets_its_option(
    parameter: str, options: dict[str, Any], expected: Expected
) -> None:
    found = planned(**options)
    numbers = dict(found.options)
    for name, value in expected.items():
        number = getattr(pycurl, name)
        if value is ABSENT:
            assert number not in numbers, name
        elif name == "HTTPHEADER":
            missing = set(value) - lines(found)
            assert not missing
            surplus = lines(found) - set(value)
            # Only what the parameter itself becomes: Authorization, whose value has its own test.
            assert all(line.startswith(b"Authorization: ") for line in surplus)
        else:
            assert value_of(found, number) == value, name


def test_no_parameter_is_left_out_of_the_table() -> None:
    with_options = {name for name, text in FIELDS.items() if not text.startswith("none:")}
    tested = {parameter for parameter, _, _ in CASES}
    assert with_options <= tested | ELSEWHERE
    assert not tested & ELSEWHERE


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"auth_username": "Aladdin", "auth_password": "open sesame"},
            b"Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
        ),
        ({"auth_token": "abc"}, b"Authorization: Bearer abc"),
        ({"auth_token": "abc", "auth_mode": "bearer"}, b"Authorization: Bearer abc"),
    ],
)
def test_basic_and_bearer_are_header_fields(options: dict[str, Any], line: bytes) -> None:
    assert line in lines(planned(**options))


def test_file_names(certificates: Certificates) -> None:
    found = planned(
        HTTPS,
        ca_certs=certificates.ca_file,
        client_cert=certificates.client_cert_file,
        client_key=certificates.client_key_file,
    )
    assert value_of(found, pycurl.CAINFO) == certificates.ca_file
    assert value_of(found, pycurl.SSLCERT) == certificates.client_cert_file
    assert value_of(found, pycurl.SSLKEY) == certificates.client_key_file


def test_a_dict_as_ssl_options(certificates: Certificates) -> None:
    found = planned(
        HTTPS,
        ssl_options={
            "ca_certs": certificates.ca_file,
            "certfile": certificates.client_cert_file,
            "keyfile": certificates.client_key_file,
        },
    )
    assert value_of(found, pycurl.CAINFO) == certificates.ca_file
    assert value_of(found, pycurl.SSLCERT) == certificates.client_cert_file
    assert value_of(found, pycurl.SSLKEY) == certificates.client_key_file
    assert value_of(found, pycurl.SSL_VERIFYPEER) == 1


def client_context(ca_pem: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca_pem.decode())
    return context


def test_a_context_as_ssl_options(ca_pem: bytes) -> None:
    context = client_context(ca_pem)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    found = planned(HTTPS, ssl_options=context)
    trusted = value_of(found, pycurl.CAINFO_BLOB)
    assert b"".join(trusted.split()) == b"".join(ca_pem.split())
    assert value_of(found, pycurl.SSL_VERIFYPEER) == 1
    assert value_of(found, pycurl.SSL_VERIFYHOST) == 0
    assert (
        value_of(found, pycurl.SSLVERSION)
        == pycurl.SSLVERSION_TLSv1_2 | pycurl.SSLVERSION_MAX_TLSv1_2
    )
    assert "ECDHE-RSA-AES128-GCM-SHA256" in value_of(found, pycurl.SSL_CIPHER_LIST)


def test_a_context_that_changed_is_planned_anew(ca_pem: bytes) -> None:
    context = client_context(ca_pem)
    before = plan(profile(HTTPS, ssl_options=context))
    context.check_hostname = False
    after = plan(profile(HTTPS, ssl_options=context))
    assert value_of(before, pycurl.SSL_VERIFYHOST) == 2
    assert value_of(after, pycurl.SSL_VERIFYHOST) == 0


def server_side(context: ssl.SSLContext, certificates: Certificates) -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def with_certificate(context: ssl.SSLContext, certificates: Certificates) -> ssl.SSLContext:
    context.load_cert_chain(certificates.client_cert_file, certificates.client_key_file)
    return context


def with_post_handshake_auth(context: ssl.SSLContext, _: Certificates) -> ssl.SSLContext:
    context.post_handshake_auth = True
    return context


def with_crl_check(context: ssl.SSLContext, _: Certificates) -> ssl.SSLContext:
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def with_legacy_option(context: ssl.SSLContext, _: Certificates) -> ssl.SSLContext:
    context.options |= 0x4  # SSL_OP_LEGACY_SERVER_CONNECT
    return context


def with_a_gap(context: ssl.SSLContext, _: Certificates) -> ssl.SSLContext:
    context.options |= ssl.OP_NO_TLSv1_2
    context.options &= ~ssl.OP_NO_TLSv1_1
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    return context


@pytest.mark.filterwarnings("ignore:ssl.OP_NO_:DeprecationWarning")
@pytest.mark.parametrize("field", ["ssl_options", "proxy_ssl"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (server_side, "PROTOCOL_TLS_CLIENT"),
        (with_certificate, "client_cert"),
        (with_post_handshake_auth, "post_handshake_auth"),
        (with_crl_check, "verify_flags"),
        (with_legacy_option, "options"),
        (with_a_gap, "minimum_version"),
    ],
)
def test_what_cannot_be_mapped_is_refused(
    change: Callable[[ssl.SSLContext, Certificates], ssl.SSLContext],
    words: str,
    field: str,
    ca_pem: bytes,
    certificates: Certificates,
) -> None:
    context = change(client_context(ca_pem), certificates)
    proxy = {"proxy": "https://p"} if field == "proxy_ssl" else {}
    with pytest.raises(ValueError, match=field) as caught:
        planned(HTTPS, ca_certs=b"pem", **{field: context}, **proxy)
    assert words in str(caught.value)


def test_a_keylog_is_refused(ca_pem: bytes, tmp_path: Path) -> None:
    context = client_context(ca_pem)
    context.keylog_filename = str(tmp_path / "keys")
    with pytest.raises(ValueError, match="SSLKEYLOGFILE"):
        planned(HTTPS, ssl_options=context)


@pytest.mark.parametrize(
    ("options", "lasting"),
    [
        ({}, True),
        ({"auth_username": "u"}, True),
        ({"proxy": "http://u:p@p"}, True),
        ({"auth_username": "u", "auth_mode": "digest"}, False),
        ({"auth_mode": "negotiate"}, False),
        ({"proxy": "http://u:p@p", "proxy_auth_mode": "digest"}, False),
        ({"method": "PUT", "body_producer": print}, False),
    ],
)
def test_what_leaves_a_state_in_the_handle_does_not_last(
    options: dict[str, Any], lasting: bool
) -> None:
    assert planned(**options).lasting is lasting


@pytest.mark.parametrize(
    ("url", "proxy", "tunnel"),
    [
        (HTTP, "http://p", False),
        (HTTPS, "http://p", True),
        (HTTPS, "https://p", True),
        (HTTPS, "socks5://p", False),
        (HTTPS, None, False),
    ],
)
def test_a_tunnel_is_an_https_origin_behind_an_http_proxy(
    url: str, proxy: str | None, tunnel: bool
) -> None:
    assert planned(url, ca_certs=b"pem", proxy=proxy).tunnel is tunnel


# -- what a libcurl may lack


@pytest.mark.parametrize(
    ("constant", "options", "named", "since"),
    [
        ("UNIX_SOCKET_PATH", {"unix_socket": "/x"}, "CURLOPT_UNIX_SOCKET_PATH", "7.40.0"),
        ("INTERFACE", {"network_interface": "lo"}, "CURLOPT_INTERFACE", "7.24.0"),
        (
            "CURL_HTTP_VERSION_3ONLY",
            {"url": HTTPS, "ca_certs": b"x", "http_version": "3-only"},
            "http_version '3-only'",
            "7.88.0",
        ),
        ("CURL_HTTP_VERSION_3", {"http_version": "3"}, "http_version '3'", "7.66.0"),
        ("CURL_HTTP_VERSION_2TLS", {"http_version": "2"}, "http_version '2'", "7.47.0"),
        ("CAINFO_BLOB", {"url": HTTPS, "ca_certs": b"x"}, "CURLOPT_CAINFO_BLOB", "7.77.0"),
        (
            "PROXY_CAINFO_BLOB",
            {"proxy": "https://p", "ca_certs": b"x"},
            "CURLOPT_PROXY_CAINFO_BLOB",
            "7.77.0",
        ),
        (
            "PROXY_SSL_VERIFYPEER",
            {"proxy": "https://p", "ca_certs": b"x"},
            "CURLOPT_PROXY_SSL_VERIFYPEER",
            "7.52.0",
        ),
        (
            "HTTPAUTH_NEGOTIATE",
            {"auth_mode": "negotiate"},
            "HTTPAUTH_NEGOTIATE",
            "7.38.0",
        ),
    ],
)
def test_a_lacking_option_is_named(
    monkeypatch: pytest.MonkeyPatch,
    constant: str,
    options: dict[str, Any],
    named: str,
    since: str,
) -> None:
    planned(**options)  # it is there
    monkeypatch.delattr(pycurl, constant)
    with pytest.raises(CapabilityError) as caught:
        planned(**options)
    text = str(caught.value)
    assert named in text
    assert capabilities.describe() in text
    assert since in text
    assert isinstance(caught.value, NotImplementedError)


@pytest.mark.parametrize(
    ("bit", "options", "named"),
    [
        ("VERSION_HTTP2", {"http_version": "2"}, "http_version '2'"),
        ("VERSION_HTTP2", {"http_version": "2-prior-knowledge"}, "'2-prior-knowledge'"),
        ("VERSION_HTTP3", {"http_version": "3"}, "http_version '3'"),
        (
            "VERSION_HTTP3",
            {"url": HTTPS, "ca_certs": b"x", "http_version": "3-only"},
            "http_version '3-only'",
        ),
        ("VERSION_HTTPS_PROXY", {"proxy": "https://p", "ca_certs": b"x"}, "an https proxy"),
    ],
)
def test_a_lacking_feature_is_named(
    monkeypatch: pytest.MonkeyPatch, bit: str, options: dict[str, Any], named: str
) -> None:
    planned(**options)
    real = pycurl.version_info()
    features = real[4] & ~getattr(pycurl, bit)
    monkeypatch.setattr(pycurl, "version_info", lambda: (*real[:4], features, *real[5:]))
    with pytest.raises(CapabilityError, match=re.escape(named)) as caught:
        planned(**options)
    assert capabilities.describe() in str(caught.value)


def test_what_needs_nothing_special_works_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lacking option is only missed by who asks for it."""
    for row in SIMPLE.values():
        monkeypatch.delattr(pycurl, row.option)
    assert planned().options


# -- an old libcurl


@pytest.fixture
def libcurl_version(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int, int], None]]:
    real = pycurl.version_info()

    def set_version(major: int, minor: int, patch: int) -> None:
        number = major << 16 | minor << 8 | patch
        monkeypatch.setattr(pycurl, "version_info", lambda: (*real[:2], number, *real[3:]))

    capabilities.check.cache_clear()
    yield set_version
    capabilities.check.cache_clear()


Set = Callable[[int, int, int], None]


def test_too_old(libcurl_version: Set) -> None:
    libcurl_version(7, 67, 255)
    for _ in range(2):  # every time: nothing of it is remembered
        with pytest.raises(CapabilityError, match=r"needs libcurl 7\.68\.0 or newer"):
            capabilities.check()


async def test_too_old_for_a_client(libcurl_version: Set) -> None:
    libcurl_version(7, 67, 0)
    async with CurlAsyncHTTPClient(force_instance=True, trust_env=False) as client:
        with pytest.raises(CapabilityError, match=r"needs libcurl 7\.68\.0"):
            client.fetch("http://127.0.0.1/")


@pytest.mark.parametrize("version", [(7, 68, 0), (8, 20, 255)])
def test_old_is_logged_once(
    libcurl_version: Set, stray_logs: StrayLogs, version: tuple[int, int, int]
) -> None:
    libcurl_version(*version)
    for _ in range(3):
        capabilities.check()
    assert len(stray_logs.records) == 1
    assert stray_logs.records[0].levelno == logging.WARNING
    stray_logs.expect("whimbrel", r"CVE-2026-3784.*8\.21\.0")


@pytest.mark.parametrize("version", [(8, 21, 0), (9, 0, 0)])
def test_recent_is_fine(
    libcurl_version: Set, stray_logs: StrayLogs, version: tuple[int, int, int]
) -> None:
    libcurl_version(*version)
    capabilities.check()
    assert not stray_logs.records


@pytest.mark.parametrize("url", [HTTP, HTTPS])
@pytest.mark.parametrize("proxy", [None, "http://p.example", "socks5://p.example"])
def test_fields_always_set_the_same_options(url: str, proxy: str | None) -> None:
    """Or those of an exchange would hold for the next one on the handle."""
    found = [
        [number for number, _ in field_options(it.profile, it.fields)]
        for headers in ({}, {"Connection": "close"}, {"User-Agent": "", "Accept": "a"})
        for it in [exchange(url, proxy=proxy, headers=headers)]
    ]
    assert found[0] == found[1] == found[2]
