"""The version, where both the package and its User-Agent find it."""

__version__ = "0.1.0"
