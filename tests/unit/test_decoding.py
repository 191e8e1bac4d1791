"""Content codings: what decodes, what is refused, and how little memory a bomb gets."""

from __future__ import annotations

import gzip
import importlib
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from whimbrel._policy import decoding
from whimbrel._policy.decoding import (
    MAX_PIECE,
    DecodingError,
    accept_encoding,
    decoder_for,
)


def _brotli_module() -> Any:
    for name in ("brotli", "brotlicffi"):
        try:
            return importlib.import_module(name)
        except ImportError:
            pass
    return None


BROTLI = _brotli_module()
needs_brotli = pytest.mark.skipif(BROTLI is None, reason="no brotli module is installed")

TEXT = b"".join(b"line %d of a text that compresses\n" % number for number in range(6_000))


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-zlib.MAX_WBITS)


def brotli_compress(data: bytes) -> bytes:
    return bytes(BROTLI.compress(data, quality=4))


CODINGS = [
    pytest.param("gzip", gzip.compress, id="gzip"),
    pytest.param("deflate", zlib.compress, id="zlib"),
    pytest.param("deflate", raw_deflate, id="raw-deflate"),
    pytest.param("br", brotli_compress, id="br", marks=needs_brotli),
]


def decode(coding: str, body: bytes, step: int = 0) -> bytes:
    """Decode a body given whole, or in pieces of ``step`` bytes."""
    decoder = decoder_for(coding)
    assert decoder is not None
    pieces = []
    for start in range(0, len(body), step or len(body) or 1):
        pieces += decoder.feed(body[start : start + step] if step else body)
    decoder.finish()
    assert all(0 < len(piece) <= MAX_PIECE for piece in pieces)
    return b"".join(pieces)


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
@pytest.mark.parametrize("step", [0, 1, 7, 4096])
def test_decodes_whole_and_in_pieces(
    coding: str, compress: Callable[[bytes], bytes], step: int
) -> None:
    """However the body is cut, the same bytes come out, none of the pieces over 64 KiB."""
    assert decode(coding, compress(TEXT), step) == TEXT


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
@pytest.mark.parametrize("size", [0, 1, MAX_PIECE - 1, MAX_PIECE, MAX_PIECE + 1, 3 * MAX_PIECE])
def test_sizes_around_the_piece(coding: str, compress: Callable[[bytes], bytes], size: int) -> None:
    """Output that ends just at the limit of a piece is complete."""
    assert decode(coding, compress(b"a" * size)) == b"a" * size


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
def test_small_body_is_one_piece(coding: str, compress: Callable[[bytes], bytes]) -> None:
    """A small body given at once comes out as exactly one piece."""
    decoder = decoder_for(coding)
    assert decoder is not None
    assert list(decoder.feed(compress(TEXT[:50_000]))) == [TEXT[:50_000]]


def test_flushed_data_comes_out_at_once() -> None:
    """What the server flushed is decoded with the piece that brought it."""
    compressor = zlib.compressobj(wbits=31)
    decoder = decoder_for("gzip")
    assert decoder is not None
    for word in (b"one", b"two"):
        sent = compressor.compress(word) + compressor.flush(zlib.Z_SYNC_FLUSH)
        assert list(decoder.feed(sent)) == [word]
    assert list(decoder.feed(compressor.flush())) == []
    decoder.finish()


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
def test_every_truncation_is_an_error(coding: str, compress: Callable[[bytes], bytes]) -> None:
    """A body cut anywhere but before its first byte does not finish."""
    body = compress(TEXT[:200])
    for end in range(1, len(body)):
        decoder = decoder_for(coding)
        assert decoder is not None
        list(decoder.feed(body[:end]))
        with pytest.raises(DecodingError, match="cut short"):
            decoder.finish()


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
def test_empty_body_is_complete(coding: str, compress: Callable[[bytes], bytes]) -> None:
    """A body without a byte (HEAD, 204, 304) finishes."""
    decoder = decoder_for(coding)
    assert decoder is not None
    assert list(decoder.feed(b"")) == []
    decoder.finish()


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
@pytest.mark.parametrize("garbage", [b"\0", b"x", b"\0" * 20, b"garbage after the end"])
@pytest.mark.parametrize("apart", [False, True])
def test_trailing_garbage_is_an_error(
    coding: str, compress: Callable[[bytes], bytes], garbage: bytes, apart: bool
) -> None:
    """Bytes after the end are an error, in the same piece or in one of their own."""
    decoder = decoder_for(coding)
    assert decoder is not None

    def run() -> None:
        body = compress(b"hello")
        for piece in (body, garbage) if apart else (body + garbage,):
            list(decoder.feed(piece))
        decoder.finish()

    with pytest.raises(DecodingError):
        run()


@pytest.mark.parametrize("coding", ["gzip", "deflate", pytest.param("br", marks=needs_brotli)])
def test_garbage_is_an_error_with_its_cause(coding: str) -> None:
    """A body that is not of the coding at all is a DecodingError that names the coding."""
    with pytest.raises(DecodingError, match=f"{coding} body is malformed") as caught:
        decode(coding, b"\xff this is no compressed body at all " * 3)
    assert caught.value.__cause__ is not None


def test_gzip_checksum_is_checked() -> None:
    """A gzip body whose checksum is wrong is an error."""
    body = bytearray(gzip.compress(b"hello"))
    body[-8] ^= 1
    with pytest.raises(DecodingError, match="incorrect data check"):
        decode("gzip", bytes(body))


@pytest.mark.parametrize("step", [0, 1, 5])
def test_gzip_members_are_concatenated(step: int) -> None:
    """Members that follow one another decode to one body, empty ones included."""
    body = gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(TEXT) + gzip.compress(b"!")
    assert decode("gzip", body, step) == b"one " + TEXT + b"!"


def test_second_gzip_member_cut_short_is_an_error() -> None:
    """The end of the stream inside a later member is a truncation as well."""
    body = gzip.compress(b"one ") + gzip.compress(b"two")[:-1]
    with pytest.raises(DecodingError, match="cut short"):
        decode("gzip", body)


def _seconds(body: bytes) -> float:
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        decode("gzip", body)
        best = min(best, time.process_time() - start)
    return best


@pytest.mark.parametrize(
    ("unit", "count"),
    [(gzip.compress(b""), 6_000), (gzip.compress(b"\0" * 1_000_000), 5)],
    ids=["tiny-members", "bombs"],
)
def test_decoding_is_linear(unit: bytes, count: int) -> None:
    """Ten times the input takes about ten times as long, whatever it is made of."""
    assert _seconds(unit * count * 10) < 25 * max(_seconds(unit * count), 1e-3)


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
def test_a_bomb_is_never_held(coding: str, compress: Callable[[bytes], bytes]) -> None:
    """A body of 50 MB in a few KB, fed at once, can be stopped after its first megabyte."""
    bomb = compress(bytes(50_000_000))
    decoder = decoder_for(coding)
    assert decoder is not None
    tracemalloc.start()
    try:
        size = 0
        for piece in decoder.feed(bomb):
            size += len(piece)
            if size > 1_000_000:
                break
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 1_000_000 + 2 * MAX_PIECE
    assert peak < 2_000_000


@pytest.mark.parametrize(("coding", "compress"), CODINGS[:3])
def test_a_bomb_in_a_bomb_is_never_held(coding: str, compress: Callable[[bytes], bytes]) -> None:
    """Codings applied twice are bounded at every stage."""
    bomb = compress(compress(bytes(50_000_000)))
    decoder = decoder_for(f"{coding}, {coding}")
    assert decoder is not None
    tracemalloc.start()
    try:
        size = sum(len(piece) for piece in decoder.feed(bomb))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    decoder.finish()
    assert size == 50_000_000
    assert peak < 2_000_000


class _WithoutLimit:
    """The interface of brotli modules before 1.2, over the one that is installed."""

    def __init__(self) -> None:
        self._stream = BROTLI.Decompressor()

    def process(self, data: bytes) -> bytes:
        return bytes(self._stream.process(data))

    def is_finished(self) -> bool:
        return bool(self._stream.is_finished())


@needs_brotli
@pytest.mark.parametrize("step", [0, 1, 100])
def test_brotli_without_output_limit(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """A brotli module that cannot limit its output decodes as well, in pieces of 64 KiB."""

    class Old:
        error = BROTLI.error
        Decompressor = _WithoutLimit

    monkeypatch.setattr(decoding, "_brotli", lambda: Old)
    assert decode("br", brotli_compress(TEXT), step) == TEXT
    assert decode("br", brotli_compress(bytes(1_000_000)), step) == bytes(1_000_000)
    with pytest.raises(DecodingError):
        decode("br", brotli_compress(TEXT) + b"garbage", step)
    with pytest.raises(DecodingError, match="cut short"):
        decode("br", brotli_compress(TEXT)[:-1], step)


@pytest.mark.parametrize(
    "value", ["", " ", ",", "identity", "Identity, identity", "zstd", "compress", "gzip, zstd", "x"]
)
def test_nothing_to_decode(value: str) -> None:
    """No coding, identity, or any coding that is not known: the body is passed on as it is."""
    assert decoder_for(value) is None


@pytest.mark.parametrize("value", ["gzip", "GZip", " x-gzip\t", "identity, gzip", ",gzip,"])
def test_spellings_of_gzip(value: str) -> None:
    """Codings are case-insensitive, x-gzip is gzip, identity and empty elements count nothing."""
    assert decode(value, gzip.compress(b"hello")) == b"hello"


def test_codings_are_undone_in_reverse_order() -> None:
    """The coding named last was applied last, and is undone first."""
    body = gzip.compress(zlib.compress(TEXT))
    assert decode("deflate, gzip", body) == TEXT
    assert decode("deflate, gzip", body, 1) == TEXT
    with pytest.raises(DecodingError):
        decode("gzip, deflate", body)


def test_inner_coding_cut_short() -> None:
    """A truncation is noticed in whichever coding it happened."""
    with pytest.raises(DecodingError, match="deflate body is cut short"):
        decode("deflate, gzip", gzip.compress(zlib.compress(TEXT)[:-1]))


def test_at_most_five_codings() -> None:
    """Five codings decode; six are refused before any work, known or not."""
    body = TEXT
    for _ in range(5):
        body = gzip.compress(body)
    assert decode(", ".join(["gzip"] * 5), body) == TEXT
    for value in (", ".join(["gzip"] * 6), ", ".join(["zstd"] * 6), ",".join(["gzip"] * 5000)):
        with pytest.raises(DecodingError, match="content codings, more than 5"):
            decoder_for(value)


def test_brotli_is_offered_only_where_it_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept-Encoding and decoder_for() agree on br."""
    accept_encoding.cache_clear()
    monkeypatch.setattr(decoding, "_brotli", lambda: None)
    assert accept_encoding() == "gzip, deflate"
    assert decoder_for("br") is None
    monkeypatch.undo()
    accept_encoding.cache_clear()
    expected = "gzip, deflate" if BROTLI is None else "gzip, deflate, br"
    assert accept_encoding() == expected
    assert (decoder_for("br") is None) == (BROTLI is None)
