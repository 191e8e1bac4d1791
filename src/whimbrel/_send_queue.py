"""What the system still has of what it was given to send."""

from __future__ import annotations

import sys

if sys.platform == "linux":
    import fcntl
    import struct
    import termios

    def unacknowledged(fd: int) -> int:
        """Bytes that the peer of a TCP socket has not acknowledged yet (SIOCOUTQ).

        0 where that cannot be known: of a socket that is closed, or is none.
        """
        try:
            (size,) = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)))
        except (OSError, ValueError):
            return 0
        return int(size)

else:

    def unacknowledged(fd: int) -> int:
        """0: this system does not tell."""
        return 0
