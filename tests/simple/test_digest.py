"""Digest: the RFCs' own examples, the grammar of challenges, rounds, and a real checker."""

from __future__ import annotations

import hashlib
import re
import time
from typing import Any

import pytest

from whimbrel._simple import digest
from whimbrel._simple.digest import (
    MAX_ANSWERS,
    Challenge,
    DigestState,
    choose,
    credentials,
    parse_challenges,
)
from whimbrel.testing._auth import DigestGuard

HAS_512_256 = "sha512_256" in hashlib.algorithms_available


def parameters(value: str | None) -> dict[str, str]:
    """The parameters of credentials, read by the grammar that challenges have."""
    assert value is not None
    (one,) = parse_challenges([value])
    assert one.scheme == "digest"
    return dict(one.parameters)


def digest_challenge(text: str) -> Challenge:
    chosen = choose(parse_challenges([text]))
    assert chosen is not None
    return chosen


def md5(text: str | bytes) -> str:
    return hashlib.md5(text if isinstance(text, bytes) else text.encode()).hexdigest()


# -- the examples of the RFCs

MUFASA = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={}, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", '
    'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_rfc_7616_section_3_9_1(algorithm: str, response: str) -> None:
    """Mufasa, with MD5 and with SHA-256: the whole value, and auth preferred to auth-int."""
    value = credentials(
        digest_challenge(MUFASA.format(algorithm)),
        "Mufasa",
        "Circle of Life",
        "GET",
        "/dir/index.html",
        b"",
        count=1,
        cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
    )
    assert value == (
        'Digest username="Mufasa", realm="http-auth@example.org", '
        'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", uri="/dir/index.html", '
        f'response="{response}", algorithm={algorithm}, '
        'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS", qop=auth, nc=00000001, '
        'cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"'
    )


@pytest.mark.skipif(not HAS_512_256, reason="this OpenSSL has no SHA-512/256")
def test_rfc_7616_section_3_9_2() -> None:
    """Userhash, charset and SHA-512-256, with the values of erratum 4897 (the RFC's are wrong)."""
    challenge = digest_challenge(
        'Digest realm="api@example.org", qop="auth", algorithm=SHA-512-256, '
        'nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", '
        'opaque="HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS", charset=UTF-8, userhash=true'
    )
    given = parameters(
        credentials(
            challenge,
            "J\xe4s\xf8n Doe",
            "Secret, or not?",
            "GET",
            "/doe.json",
            b"",
            count=1,
            cnonce="NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v",
        )
    )
    assert given["username"] == "793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b"
    assert given["response"] == "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5"
    assert given["userhash"] == "true"
    assert "username*" not in given


def test_rfc_2617_section_3_5() -> None:
    """The example of the older RFC; without an algorithm in the challenge none is named."""
    challenge = digest_challenge(
        'Digest realm="testrealm@host.com", qop="auth,auth-int", '
        'nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41"'
    )
    value = credentials(
        challenge,
        "Mufasa",
        "Circle Of Life",
        "GET",
        "/dir/index.html",
        b"",
        count=1,
        cnonce="0a4f113b",
    )
    given = parameters(value)
    assert given["response"] == "6629fae49393a05397450978507c4ef1"
    assert "algorithm" not in given


def test_rfc_2069_without_qop() -> None:
    """A challenge without qop: no count and no cnonce (RFC 2617 section 3.2.2.1)."""
    challenge = digest_challenge('Digest realm="r", nonce="n"')
    given = parameters(
        credentials(challenge, "u", "p", "GET", "/", b"", count=1, cnonce="c")  # both unused
    )
    assert given["response"] == md5(f"{md5('u:r:p')}:n:{md5('GET:/')}")
    assert given.keys() == {"username", "realm", "nonce", "uri", "response"}


def test_auth_int_signs_the_body() -> None:
    """RFC 7616 section 3.4.3: where only auth-int is offered, the body is part of it."""
    challenge = digest_challenge('Digest realm="r", nonce="n", qop=auth-int')
    given = parameters(credentials(challenge, "u", "p", "POST", "/", b"body", count=2, cnonce="c"))
    action = md5(f"POST:/:{md5(b'body')}")
    assert given["response"] == md5(f"{md5('u:r:p')}:n:00000002:c:auth-int:{action}")
    assert (given["qop"], given["nc"]) == ("auth-int", "00000002")


def test_auth_int_of_a_streamed_body_is_no_answer() -> None:
    """A body that is not known yet cannot be signed: the 401 stands."""
    state = DigestState("u", "p")
    signed = 'Digest realm="r", nonce="n", qop="auth-int", algorithm=SHA-256'
    assert not state.challenge([signed], None)
    assert state.authorization("PUT", "/", None) is None
    assert state.challenge([signed, 'Digest realm="r", nonce="n", qop="auth"'], None)
    assert parameters(state.authorization("PUT", "/", None))["qop"] == "auth"
    state = DigestState("u", "p")
    assert state.challenge([signed], b"")
    assert parameters(state.authorization("PUT", "/", b""))["qop"] == "auth-int"


@pytest.mark.parametrize("algorithm", ["MD5-sess", "SHA-256-sess", "md5-SESS"])
def test_session_key_outlives_the_first_answer(algorithm: str) -> None:
    """RFC 7616 section 3.4.2: the key is made of the first cnonce, which therefore stays."""
    state = DigestState("u", "p")
    assert state.challenge([f'Digest realm="r", nonce="n", qop="auth", algorithm={algorithm}'])
    first = parameters(state.authorization("GET", "/1", b""))
    second = parameters(state.authorization("GET", "/2", b""))
    assert first["cnonce"] == second["cnonce"]
    assert (first["nc"], second["nc"]) == ("00000001", "00000002")
    name = "sha256" if algorithm.startswith("SHA") else "md5"

    def h(text: str) -> str:
        return hashlib.new(name, text.encode()).hexdigest()

    key = h(f"{h('u:r:p')}:n:{first['cnonce']}")
    expected = h(f"{key}:n:00000002:{second['cnonce']}:auth:{h('GET:/2')}")
    assert second["response"] == expected
    assert second["algorithm"] == algorithm


# -- names, passwords, quotes


def test_quotes_and_backslashes_are_escaped() -> None:
    """RFC 9110 section 5.6.4: what is signed is the value, what is sent its quoted form."""
    challenge = digest_challenge(r'Digest realm="a \"b\" \\c", nonce="n\"", opaque="\"", qop=auth')
    value = credentials(challenge, 'd"e\\f', 'p"', "GET", "/", b"", count=1, cnonce="c")
    assert r'username="d\"e\\f"' in value
    assert r'realm="a \"b\" \\c"' in value
    given = parameters(value)
    assert given["username"] == 'd"e\\f'
    assert (given["nonce"], given["opaque"]) == ('n"', '"')
    secret = md5('d"e\\f:a "b" \\c:p"')
    assert given["response"] == md5(f'{secret}:n":00000001:c:auth:{md5("GET:/")}')


def test_other_letters_are_utf_8() -> None:
    """Without a charset the octets are UTF-8 as they are, as everybody sends them."""
    challenge = digest_challenge('Digest realm="r", nonce="n", qop=auth')
    value = credentials(challenge, "zo\xeb", "p\xe4ss\u65e5", "GET", "/", b"", count=1, cnonce="c")
    assert 'username="zoë"'.encode() in value.encode("latin-1")
    secret = md5("zo\xeb:r:p\xe4ss\u65e5")
    assert parameters(value)["response"] == md5(f"{secret}:n:00000001:c:auth:{md5('GET:/')}")


def test_octets_of_the_realm_are_those_that_came() -> None:
    """A realm in UTF-8 comes as Latin-1 text, and is signed and sent back as the same octets."""
    realm = "Büro".encode()
    challenge = digest_challenge(f'Digest realm="{realm.decode("latin-1")}", nonce="n", qop=auth')
    value = credentials(challenge, "u", "p", "GET", "/", b"", count=1, cnonce="c")
    assert b'realm="' + realm + b'"' in value.encode("latin-1")
    secret = md5(b"u:" + realm + b":p")
    assert parameters(value)["response"] == md5(f"{secret}:n:00000001:c:auth:{md5('GET:/')}")


def test_extended_user_name() -> None:
    """charset=UTF-8 allows username* (RFC 8187), and asks for NFC (RFC 7616 section 4)."""
    challenge = digest_challenge('Digest realm="r", nonce="n", qop=auth, charset=UTF-8')
    value = credentials(challenge, "zoe\u0308", "e\u0301", "GET", "/", b"", count=1, cnonce="c")
    assert value.startswith("Digest username*=UTF-8''zo%C3%AB, ")
    secret = md5("zo\xeb:r:\xe9")
    response = re.search(r'response="(\w+)"', value)
    assert response
    assert response[1] == md5(f"{secret}:n:00000001:c:auth:{md5('GET:/')}")
    plain = credentials(challenge, "zoe", "p", "GET", "/", b"", count=1, cnonce="c")
    assert plain.startswith('Digest username="zoe", ')


def test_secrets_are_in_no_repr() -> None:
    """Neither the state nor what it shares shows whose it is."""
    state = DigestState("alice", "s3cret")
    state.challenge(['Digest realm="r", nonce="n"'])
    state.authorization("GET", "/", b"")
    assert not re.search("alice|s3cret", repr(state) + str(state))


# -- the grammar of challenges

GRAMMAR: list[tuple[list[str], list[tuple[str, str | None, dict[str, str]]]]] = [
    ([], []),
    (["", " , ,"], []),
    (['Basic realm="x"'], [("basic", None, {"realm": "x"})]),
    (
        ['Newauth realm="apps", type=1, title="Login to \\"apps\\"", Basic realm="simple"'],
        [
            ("newauth", None, {"realm": "apps", "type": "1", "title": 'Login to "apps"'}),
            ("basic", None, {"realm": "simple"}),
        ],
    ),
    (
        ["Negotiate", "NTLM abc+/==, Digest nonce=n"],
        [
            ("negotiate", None, {}),
            ("ntlm", "abc+/==", {}),
            ("digest", None, {"nonce": "n"}),
        ],
    ),
    (["Negotiate,Basic realm=x"], [("negotiate", None, {}), ("basic", None, {"realm": "x"})]),
    (["Basic realm=,"], [("basic", "realm=", {})]),
    ([',,Digest ,, a = 1 ,,b\t=\t"2"'], [("digest", None, {"a": "1", "b": "2"})]),
    (["DIGEST Realm=x, NONCE=y"], [("digest", None, {"realm": "x", "nonce": "y"})]),
    (["Digest a=1, A=2"], [("digest", None, {"a": "1"})]),
    (['Digest a="1" b="2"'], [("digest", None, {"a": "1", "b": "2"})]),
    (['Digest a="Basic realm=x, y"'], [("digest", None, {"a": "Basic realm=x, y"})]),
    (['Digest a=1, b="open'], [("digest", None, {"a": "1"})]),
    (['Digest a=1, b="open\\"'], [("digest", None, {"a": "1"})]),
    (["Digest a=1, (b)=2, c=3"], [("digest", None, {"a": "1"})]),
    (["a=1, Basic realm=x"], []),
    (["?", "Basic realm=x"], [("basic", None, {"realm": "x"})]),
]


@pytest.mark.parametrize(("values", "expected"), GRAMMAR, ids=str)
def test_grammar_of_challenges(
    values: list[str], expected: list[tuple[str, str | None, dict[str, str]]]
) -> None:
    """RFC 9110 section 11.6.1: lists of challenges, each with a token68, parameters or neither."""
    assert [tuple(challenge) for challenge in parse_challenges(values)] == expected


HOSTILE = {
    "parameters": lambda n: "Digest " + ", ".join(f'p{i}="v{i}"' for i in range(n)),
    "one name": lambda n: "Digest " + "a=1," * n,
    "schemes": lambda n: "a " * n,
    "token68s": lambda n: "a b=," * n,
    "commas": lambda n: "Digest a=1" + "," * n + "b=2",
    "blanks": lambda n: "Digest a" + " " * n + "=" + " " * n + "1",
    "open quote": lambda n: 'Digest a="' + "x" * n,
    "open escapes": lambda n: 'Digest a="' + "\\\\" * n,
    "equals": lambda n: "Digest a" + "=" * n,
    "a token68 that is none": lambda n: "Digest " + "a" * n + "=" * n + "!",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_time_is_linear_in_the_length(kind: str) -> None:
    """Matrix 24: ten times the length is no hundred times the time."""

    def best(size: int) -> float:
        text = HOSTILE[kind](size)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            parse_challenges([text])
            times.append(time.perf_counter() - start)
        return min(times)

    assert best(40_000) < 40 * best(4_000) + 0.005


def test_ten_thousand_parameters_are_all_there() -> None:
    (challenge,) = parse_challenges([HOSTILE["parameters"](10_000)])
    assert len(challenge.parameters) == 10_000


# -- which challenge

STRONGEST = [
    (["Digest realm=r, nonce=1, algorithm=MD5, Digest realm=r, nonce=2, algorithm=SHA-256"], "2"),
    (["Digest realm=r, nonce=1, algorithm=SHA-256", "Digest realm=r, nonce=2"], "1"),
    (["Digest realm=r, nonce=1, algorithm=SHA-1", "Digest realm=r, nonce=2"], "2"),
    (['Digest realm=r, nonce=1, algorithm=SHA-256, qop="x"', "Digest realm=r, nonce=2"], "2"),
    (
        [
            "Digest realm=r, nonce=1, algorithm=SHA-256",
            "Digest realm=r, nonce=2, algorithm=SHA-256",
        ],
        "1",
    ),
    (["Basic realm=r, Digest realm=r, nonce=1"], "1"),
    (['Digest realm="r", nonce="1", algorithm="MD5", qop="AUTH"'], "1"),
]


@pytest.mark.parametrize(("values", "nonce"), STRONGEST)
def test_strongest_challenge_is_answered(values: list[str], nonce: str) -> None:
    """RFC 7616 section 3.7: the strongest that is known; the server's order among equals."""
    state = DigestState("u", "p")
    assert state.challenge(values)
    assert parameters(state.authorization("GET", "/", b""))["nonce"] == nonce


UNUSABLE = [
    [],
    ['Basic realm="r"'],
    ['Digest realm="r"'],
    ['Digest nonce="n"'],
    ['Digest realm="r", nonce="n", algorithm=SHA-1'],
    ['Digest realm="r", nonce="n", algorithm='],
    ['Digest realm="r", nonce="n", qop="auth-conf"'],
    ['Digest realm="r", nonce="n", qop=""'],
    ["Digest abcd=="],
    ['Digest realm="r", nonce="n'],
]


@pytest.mark.parametrize("values", UNUSABLE, ids=str)
def test_unusable_challenges(values: list[str]) -> None:
    """What cannot be answered is not: Basic never, for the password would go out in clear."""
    state = DigestState("u", "p")
    usable = state.challenge(values)
    # An empty algorithm is cut off as nonsense, which leaves a challenge that means MD5.
    assert usable is (values == UNUSABLE[5])
    assert (state.authorization("GET", "/", b"") is None) is not usable


# -- rounds

FRESH = 'Digest realm="r", nonce="{}", qop="auth"'


def test_nothing_is_sent_before_a_challenge() -> None:
    assert DigestState("u", "p").authorization("GET", "/", b"") is None


def test_refused_credentials_are_not_tried_again() -> None:
    """Matrix 30: a second challenge without stale=true means that the credentials are wrong."""
    state = DigestState("u", "p")
    assert state.challenge([FRESH.format(1)])
    state.authorization("GET", "/", b"")
    assert not state.challenge([FRESH.format(2)])


def test_stale_is_no_refusal_but_not_for_ever() -> None:
    """Matrix 30: a nonce that is too old is replaced, in five requests at most."""
    state = DigestState("u", "p")
    answers = []
    for number in range(100):
        if not state.challenge([FRESH.format(number) + ", stale=TRUE"]):
            break
        answers.append(parameters(state.authorization("GET", "/", b"")))
    assert [answer["nonce"] for answer in answers] == [str(n) for n in range(MAX_ANSWERS)]
    assert {answer["nc"] for answer in answers} == {"00000001"}
    assert MAX_ANSWERS == 4
    assert state.exhausted


def test_nonce_that_comes_again_goes_on_counting() -> None:
    """A count is good once, whichever challenge repeats its nonce."""
    state = DigestState("u", "p")
    state.challenge([FRESH.format(1)])
    state.authorization("GET", "/", b"")
    assert state.challenge([FRESH.format(1) + ", stale=true"])
    assert parameters(state.authorization("GET", "/", b""))["nc"] == "00000002"


# -- against a checker


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
def test_guard_lets_in(algorithm: str) -> None:
    """DigestGuard checks each parameter and counts nonces."""
    guard = DigestGuard("some realm", "alice", "s3 cret")
    for number in range(3):
        state = DigestState("alice", "s3 cret")
        assert state.challenge(guard.challenges([algorithm]))
        value = state.authorization("POST", f"/x?{number}", b"body")
        assert guard.check(value, "POST", f"/x?{number}", [algorithm]) == "granted"
        assert guard.check(value, "POST", f"/x?{number}", [algorithm]) == "stale"  # a replay
        assert guard.check(value, "GET", f"/x?{number}", [algorithm]) == "denied"


def test_guard_keeps_out() -> None:
    guard = DigestGuard("r", "alice", "right")
    state = DigestState("alice", "wrong")
    assert state.challenge(guard.challenges(["MD5", "SHA-256"]))
    value = state.authorization("GET", "/", b"")
    assert parameters(value)["algorithm"] == "SHA-256"
    assert guard.check(value, "GET", "/", ["MD5", "SHA-256"]) == "denied"


def test_algorithms_without_sha_512_256(monkeypatch: pytest.MonkeyPatch) -> None:
    """An OpenSSL without SHA-512/256 leaves the others, and challenges that name it unanswered."""
    new = hashlib.new

    def lacking(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "sha512_256":
            raise ValueError("unsupported hash type")
        return new(name, *args, **kwargs)

    monkeypatch.setattr(hashlib, "new", lacking)
    assert set(digest._algorithms()) == {"MD5", "MD5-SESS", "SHA-256", "SHA-256-SESS"}
