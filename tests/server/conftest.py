"""The fixtures of these tests."""

from server.support import connect, serve

__all__ = ["connect", "serve"]
