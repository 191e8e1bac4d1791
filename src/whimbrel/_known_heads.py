"""Heads that have been parsed: the same bytes mean the same.

Who is asked again and again answers with one head for as long as its Date lasts, on all of its
connections.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

_BYTES = 2048


class _Head(Protocol):
    @property
    def block(self) -> bytes: ...


H = TypeVar("H", bound=_Head)


class KnownHeads(Generic[H]):
    """At most `most` heads, by their bytes; large ones are not kept.

    For messages that are all parsed by the same rules.

    Attributes:
        last: the head that was found or added last, which spares whoever looks there first a hash.
    """

    __slots__ = ("_heads", "_most", "last")

    def __init__(self, most: int) -> None:
        self._most = most
        self._heads: dict[bytes, H] = {}
        self.last: H | None = None

    def find(self, block: bytes) -> H | None:
        """The head with these bytes, if it is known."""
        found = self._heads.get(block)
        if found is not None:
            self.last = found
        return found

    def add(self, head: H) -> None:
        """Remember `head`."""
        if len(head.block) <= _BYTES and self._most:
            if len(self._heads) >= self._most:
                self._heads.clear()
            self._heads[head.block] = self.last = head
