"""Redirects: what a response makes of the request that was sent (RFC 9110 section 15.4)."""

from __future__ import annotations

from typing import Any

import pytest

from whimbrel._policy.exchange import Exchange, prepare
from whimbrel._policy.redirects import REDIRECT_CODES, follow_up, is_redirect
from whimbrel.httputil import HTTPHeaders

ORIGIN = "http://a.example/start"
Options = dict[str, Any]


def request(**given: Any) -> Options:
    return {"url": ORIGIN, "user_agent": "agent", "max_body_size": 0, **given}


def follow(options: Options, code: int = 302, location: str = "/next") -> Options:
    return follow_up(options, prepare(options), code, location)


def sent(options: Options) -> Exchange:
    """What the next request is; everything that comes out must be taken in again."""
    return prepare(options)


def names(exchange: Exchange) -> set[str]:
    return {name.lower() for name, _ in exchange.fields}


@pytest.mark.parametrize("code", range(300, 310))
def test_which_codes(code: int) -> None:
    assert is_redirect(code, "/x") is (code in (301, 302, 303, 307, 308))
    assert not is_redirect(code, None)
    assert not is_redirect(code, "")
    assert {301, 302, 303, 307, 308} == REDIRECT_CODES


METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")
# Only what changes: everything else keeps method and body.
BECOMES_GET = {
    (301, "POST"),
    (302, "POST"),
    *((303, method) for method in METHODS if method != "HEAD"),
}


@pytest.mark.parametrize("code", sorted(REDIRECT_CODES))
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["body", "json", "form", "list", "producer"])
def test_method_and_body(code: int, method: str, how: str) -> None:
    async def produce(write: Any) -> None:
        await write(b"x")

    bodies: dict[str, Options] = {
        "body": {"body": b"x"},
        "json": {"json": {"a": 1}},
        "form": {"form": {"a": 1}},
        "list": {"body": [b"x"]},
        "producer": {"body_producer": produce},
    }
    has_body = method in ("POST", "PUT", "PATCH")
    if not has_body and how != "body":
        return
    given: Options = {"method": method, "headers": {"X-Kept": "1"}}
    if has_body:
        given |= bodies[how]
        given["headers"] = {
            "X-Kept": "1",
            "Content-Language": "en",
            "Content-Encoding": "identity",
            **({"Content-Type": "text/x"} if how in ("body", "list", "producer") else {}),
        }
        given["expect_100_continue"] = True
    options = request(**given)
    before = sent(options)
    after = sent(follow(options, code))
    assert "x-kept" in names(after)
    if (code, method) in BECOMES_GET:
        assert after.profile.method == "GET"
        assert after.profile.body == "none"
        assert after.body == b""
        assert after.producer is None
        assert not after.profile.expect_100_continue
        assert not names(after) & {"content-type", "content-language", "content-encoding"}
    else:
        assert after.profile.method == method
        assert after.profile.body == before.profile.body
        assert after.body == before.body
        assert (after.producer is None) is (before.producer is None)
        assert after.profile.expect_100_continue is before.profile.expect_100_continue
        assert sorted(after.fields) == sorted(before.fields)


def test_a_json_body_is_the_one_that_was_sent() -> None:
    value = {"a": 1}
    options = request(method="PUT", json=value)
    exchange = prepare(options)
    value["a"] = 2
    following = follow_up(options, exchange, 307, "/next")
    assert sent(following).body == b'{"a":1}'
    assert "json" not in following


@pytest.mark.parametrize("code", sorted(REDIRECT_CODES))
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_body_that_ran_out(code: int, method: str) -> None:
    async def pieces() -> Any:
        yield b"x"

    for body in (iter([b"x"]), pieces()):
        options = request(method=method, body=body)
        if (code, method) in BECOMES_GET:
            assert sent(follow(options, code)).producer is None
        else:
            with pytest.raises(ValueError, match="ran out") as caught:
                follow(options, code)
            assert str(code) in str(caught.value)


def test_what_came_in_is_left_alone() -> None:
    headers = HTTPHeaders({"Authorization": "x", "Content-Type": "y", "A": "b"})
    options = request(method="POST", body=b"x", headers=headers, auth_token="t")
    copy = dict(options)
    follow(options, 303, "http://other.example/")
    assert options == copy
    assert list(headers.get_all()) == [("Authorization", "x"), ("Content-Type", "y"), ("A", "b")]


# -- secrets

SAME = ["/next", "?q", "next", "http://a.example/next", "http://A.EXAMPLE:80/", "//a.example/x"]
OTHER = [
    "http://b.example/",
    "//b.example/",
    "https://a.example/",  # another scheme
    "http://a.example:81/",  # another port
    "http://sub.a.example/",
    "http://example/",
    "http://a.example./",
    "http://a.example:user:pw@b.example/",
    "http://user:pw@b.example/",
    "https://a.example:80/",
    "http://127.1/",
]
SECRETS = {
    "Authorization": "Basic abc",
    "Cookie": "a=b",
    "Cookie2": "$Version=1",
    "Host": "virtual.example",
}


@pytest.mark.parametrize("code", sorted(REDIRECT_CODES))
@pytest.mark.parametrize("location", OTHER)
@pytest.mark.parametrize("kind", [dict, HTTPHeaders])
def test_another_origin_sees_no_secret(code: int, location: str, kind: Any) -> None:
    options = request(headers=kind({**SECRETS, "X-Kept": "1"}))
    after = sent(follow(options, code, location))
    found = {name.lower(): value for name, value in after.fields}
    # Its own credentials it may have.
    own = found.pop("authorization", None)
    assert own is None or "user:pw" in location
    assert own != "Basic abc"
    assert not found.keys() & {name.lower() for name in SECRETS}
    assert found["x-kept"] == "1"


@pytest.mark.parametrize("location", SAME)
def test_the_same_origin_sees_all(location: str) -> None:
    after = sent(follow(request(headers=SECRETS), 302, location))
    assert set(SECRETS.items()) <= set(after.fields)


@pytest.mark.parametrize("case", [str.lower, str.upper, str.title])
def test_names_have_no_case(case: Any) -> None:
    headers = {case(name): value for name, value in SECRETS.items()}
    after = sent(follow(request(headers=headers), 302, OTHER[0]))
    assert names(after) == {"user-agent", "accept-encoding"}


AUTH: list[Options] = [
    {"auth_username": "u", "auth_password": "p"},
    {"auth_username": "u", "auth_password": "p", "auth_mode": "digest"},
    {"auth_mode": "negotiate"},
    {"auth_token": "t"},
    {"auth_token": "t", "auth_mode": "bearer"},
]


@pytest.mark.parametrize("auth", AUTH)
@pytest.mark.parametrize("location", OTHER)
def test_credentials_stay_with_their_origin(auth: Options, location: str) -> None:
    following = follow(request(**auth), 302, location)
    assert not following.keys() & {"auth_username", "auth_password", "auth_mode", "auth_token"}
    after = sent(following)
    assert after.profile.auth is None
    if "user:pw" not in location:
        assert "authorization" not in names(after)


@pytest.mark.parametrize("auth", AUTH)
@pytest.mark.parametrize("location", SAME)
def test_credentials_go_along_to_the_same_origin(auth: Options, location: str) -> None:
    options = request(**auth)
    before, after = sent(options), sent(follow(options, 302, location))
    assert after.profile.auth == before.profile.auth
    assert set(after.fields) == set(before.fields)


def test_user_information_holds_for_its_origin() -> None:
    options = request(url="http://u:p@a.example/")
    along = follow(options, 302, "/next")
    assert (along["auth_username"], along["auth_password"]) == ("u", "p")
    assert "authorization" in names(sent(along))
    assert "authorization" not in names(sent(follow(options, 302, "http://b.example/")))


@pytest.mark.parametrize("auth", [*AUTH, {"headers": SECRETS}, {"url": "http://u:p@a.example/"}])
def test_there_and_back_again(auth: Options) -> None:
    """A -> B -> A: what B was not to see is gone for good."""
    options = request(**auth)
    at_b = follow(options, 302, "http://b.example/")
    back = follow(at_b, 302, "http://a.example/")
    assert sent(back).profile.auth is None
    assert not names(sent(back)) & {name.lower() for name in SECRETS}


def test_a_socket_is_for_its_origin() -> None:
    options = request(unix_socket="/run/x")
    assert follow(options, 302, "/next")["unix_socket"] == "/run/x"
    for location in OTHER:
        assert "unix_socket" not in follow(options, 302, location)


def test_the_proxy_and_the_rest_go_along() -> None:
    rest: Options = {
        "proxy": "http://u:p@proxy.example",
        "network_interface": "lo",
        "stall_timeout": 3,
        "http_version": "1.1",
        "decompress_response": False,
    }
    before = sent(request(**rest)).profile
    after = sent(follow(request(**rest), 302, "http://b.example/")).profile
    assert after == before


# -- Location


@pytest.mark.parametrize(
    ("location", "href"),
    [
        ("/next", "http://a.example/next"),
        ("next", "http://a.example/dir/next"),
        ("../next", "http://a.example/next"),
        ("?q=1", "http://a.example/dir/start?q=1"),
        ("//b.example/x", "http://b.example/x"),
        (" /next\t", "http://a.example/next"),
        ("/next#fragment", "http://a.example/next"),
        ("/a b", "http://a.example/a%20b"),
        ("/%2F", "http://a.example/%2F"),
        # Raw UTF-8, which came as Latin-1; and what is no UTF-8 stays Latin-1.
        ("/é".encode().decode("latin-1"), "http://a.example/%C3%A9"),
        ("/\xe9", "http://a.example/%C3%A9"),
        ("http://bücher.example/".encode().decode("latin-1"), "http://xn--bcher-kva.example/"),
        ("HTTP://B.EXAMPLE/", "http://b.example/"),
    ],
)
def test_locations(location: str, href: str) -> None:
    options = request(url="http://a.example/dir/start?x=1#f", params={"p": "1"})
    assert sent(follow(options, 302, location)).url.href == href


@pytest.mark.parametrize(
    "location",
    [
        "http://",
        "http:///b.example/",
        "http:/b.example/",
        "http:b.example",
        "https:/b.example/",
        "ftp://b.example/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "data:text/plain,x",
        "http://b.example:99999/",
        "http://[::1/",
        "http://b example/",
        "/a\x00b",
        "/a\x1fb",
        "/a\x7fb",
    ],
)
def test_locations_that_are_refused(location: str) -> None:
    with pytest.raises(ValueError, match="redirect Location"):
        follow(request(), 302, location)


@pytest.mark.parametrize("location", ["\x01http://evil.test/", "\x1f/next", "\x01//evil.test"])
def test_control_bytes_before_a_location_are_refused(location: str) -> None:
    """urljoin() strips leading control bytes; a Location is refused, not repaired."""
    options = {"url": "http://a.test/", "user_agent": "x", "max_body_size": 0}
    with pytest.raises(ValueError, match="control character"):
        follow_up(options, prepare(options), 302, location)


@pytest.mark.parametrize("location", ["//", "///evil.test/x"])
def test_a_location_without_a_host_is_refused(location: str) -> None:
    """A network-path reference (RFC 3986 section 4.2) needs a host."""
    options = {"url": "http://a.test/start", "user_agent": "x", "max_body_size": 0}
    with pytest.raises(ValueError, match="no host"):
        follow_up(options, prepare(options), 302, location)
