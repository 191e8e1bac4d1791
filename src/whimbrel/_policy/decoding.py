"""Content codings (RFC 9110 section 8.4): gzip, deflate, and br where a brotli module is there.

Both backends decode here, so that they agree on what is malformed, and so that a body that
decodes to a thousand times its size is never held in memory: decoded data comes in pieces, and
a caller who has seen enough simply stops.
"""

from __future__ import annotations

import functools
import importlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

#: No piece of decoded data is longer than this, in bytes.
MAX_PIECE = 64 * 1024

# Input is taken in pieces of this size: zlib copies what it has not consumed at every step, and
# behind every gzip member, so that more would make the work quadratic. (Nor less, or a small body
# would come out in several pieces.)
_INPUT = 64 * 1024

# As in libcurl. Each coding multiplies what a small body can decode to.
_MAX_CODINGS = 5


class DecodingError(Exception):
    """A body is not what its ``Content-Encoding`` says, or is cut short."""


class _Stage(Protocol):
    """The decoder of one coding."""

    name: str

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decode more; yields pieces of at most ``MAX_PIECE`` bytes, none of them empty."""

    def is_complete(self) -> bool:
        """Tell whether the body may end here."""


class ContentDecoder:
    """Decodes one body, given piece by piece."""

    def __init__(self, stages: list[_Stage]) -> None:
        """Take the decoders of the codings, the one applied last (the outermost) first."""
        self._stages = stages

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decode more of the body; yields decoded pieces of at most 64 KiB.

        Work is done only as the iterator is advanced: exhaust it before the next ``feed``, or
        give up the body.

        Raises :class:`DecodingError` for data that is malformed, or that follows its end.
        """
        return self._feed(0, data)

    def _feed(self, index: int, data: bytes) -> Iterator[bytes]:
        pieces = self._stages[index].feed(data)
        if index + 1 == len(self._stages):
            return pieces
        return (out for piece in pieces for out in self._feed(index + 1, piece))

    def finish(self) -> None:
        """Tell that the body has ended.

        Raises :class:`DecodingError` if it is cut short. A body without a byte, as after HEAD, is
        complete.
        """
        for stage in self._stages:
            if not stage.is_complete():
                raise DecodingError(f"{stage.name} body is cut short")


class _Gzip:
    """RFC 1952: one member or several, one after another."""

    name = "gzip"

    def __init__(self) -> None:
        self._member: Any = None  # the member being decoded, None between members

    def is_complete(self) -> bool:
        return self._member is None

    def feed(self, data: bytes) -> Iterator[bytes]:
        for position in range(0, len(data), _INPUT):
            rest = data[position : position + _INPUT]
            while rest:
                if self._member is None:
                    # Whatever follows a member must be one: all else fails as a header.
                    self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
                yield from _inflate(self.name, self._member, rest)
                rest = self._member.unused_data
                if self._member.eof:
                    self._member = None


class _Deflate:
    """RFC 1950 (zlib), as the standard says, or bare RFC 1951, as some servers send it."""

    name = "deflate"

    def __init__(self) -> None:
        self._head = b""
        self._stream: Any = None

    def is_complete(self) -> bool:
        return self._stream.eof if self._stream is not None else not self._head

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._stream is None:
            # The two bytes of a zlib header tell: method 8, and the whole divisible by 31. No
            # encoder writes a bare stream that begins so: it would be a stored block with
            # padding bits set.
            data = self._head + data
            if len(data) < 2:
                self._head = data
                return
            is_zlib = data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0
            self._stream = zlib.decompressobj(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)
        for position in range(0, len(data), _INPUT):
            yield from _inflate(self.name, self._stream, data[position : position + _INPUT])
            if self._stream.unused_data:
                raise DecodingError("data after the end of the deflate body")


def _inflate(name: str, stream: Any, data: bytes) -> Iterator[bytes]:
    """Run ``data`` through a zlib decompressor."""
    while True:
        try:
            piece = stream.decompress(data, MAX_PIECE)
        except zlib.error as error:
            raise DecodingError(f"{name} body is malformed: {error}") from error
        if piece:
            yield piece
        data = stream.unconsumed_tail
        # A full piece may have left output behind even where all input is consumed.
        if stream.eof or (not data and len(piece) < MAX_PIECE):
            return


class _Brotli:
    """RFC 7932."""

    name = "br"

    # Without a limit on the output, one step may still decode to many times its input, so
    # that is kept small. (brotli and brotlicffi have the limit since 1.2.)
    _UNLIMITED_INPUT = 64

    def __init__(self, module: Any) -> None:
        self._error: type[Exception] = module.error
        self._stream = module.Decompressor()
        self._has_limit = hasattr(self._stream, "can_accept_more_data")
        self._started = False

    def is_complete(self) -> bool:
        return not self._started or self._stream.is_finished()

    def feed(self, data: bytes) -> Iterator[bytes]:
        size = _INPUT if self._has_limit else self._UNLIMITED_INPUT
        for position in range(0, len(data), size):
            self._started = True
            fed = data[position : position + size]
            yield from self._limited(fed) if self._has_limit else self._pieces(self._process(fed))

    def _limited(self, data: bytes) -> Iterator[bytes]:
        while True:
            decoded = self._process(data, output_buffer_limit=MAX_PIECE)
            yield from self._pieces(decoded)
            # can_accept_more_data() may be true while output is still waiting: only an empty
            # answer tells that the input is used up.
            if not decoded or self._stream.is_finished():
                return
            data = b""

    def _process(self, data: bytes, **limit: int) -> bytes:
        try:
            decoded: bytes = self._stream.process(data, **limit)
        except self._error as error:
            raise DecodingError("br body is malformed") from error
        return decoded

    @staticmethod
    def _pieces(decoded: bytes) -> Iterator[bytes]:
        for position in range(0, len(decoded), MAX_PIECE):
            yield decoded[position : position + MAX_PIECE]


@functools.cache
def _brotli() -> Any:
    """Return the brotli module, imported when first asked for; None if there is none."""
    for name in ("brotli", "brotlicffi"):
        try:
            return importlib.import_module(name)
        except ImportError:
            pass
    return None


def _stage_for(coding: str) -> Callable[[], _Stage] | None:
    if coding in ("gzip", "x-gzip"):  # RFC 9110 section 8.4.1.3
        return _Gzip
    if coding == "deflate":
        return _Deflate
    if coding == "br" and (module := _brotli()) is not None:
        return lambda: _Brotli(module)
    return None


@functools.cache
def accept_encoding() -> str:
    """Return the value of ``Accept-Encoding``: the codings that can be decoded here."""
    return "gzip, deflate, br" if _brotli() is not None else "gzip, deflate"


def is_decodable(content_encoding: str) -> bool:
    """Whether :func:`decoder_for` would give a decoder, rather than pass the body through."""
    try:
        return decoder_for(content_encoding) is not None
    except DecodingError:
        return False


def decoder_for(content_encoding: str) -> ContentDecoder | None:
    """Return a decoder for a body, given the value of its ``Content-Encoding``.

    None if there is nothing to decode (an empty value, ``identity``), or if one of the codings
    is not known here: the body is then passed on as it is.

    Raises :class:`DecodingError` for more than five codings.
    """
    codings = [coding.strip(" \t").lower() for coding in content_encoding.split(",")]
    codings = [coding for coding in codings if coding]
    if len(codings) > _MAX_CODINGS:
        raise DecodingError(f"{len(codings)} content codings, more than {_MAX_CODINGS}")
    makers = [_stage_for(coding) for coding in reversed(codings) if coding != "identity"]
    stages = [make() for make in makers if make is not None]
    if not stages or len(stages) < len(makers):
        return None
    return ContentDecoder(stages)
