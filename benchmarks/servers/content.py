"""What the servers answer and the clients expect."""

from __future__ import annotations

from typing import Final

BODY: Final = b"whimbrel: twenty-eight bytes"
assert len(BODY) == 28

REQUEST_ID: Final = "X-Request-Id"
"""A header that every request below /varied/ has, each with another value, and its response too."""

KB: Final = 1000
MB: Final = 1000 * KB
GB: Final = 1000 * MB

SIZES: Final = (KB, 10 * KB, 100 * KB, MB, 10 * MB, 100 * MB, GB)
"""Of the bodies below /zeros/, each called by its number of bytes and nothing but zeros."""
