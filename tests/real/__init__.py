"""Tests against real servers from Debian packages and PyPI (marker ``real``)."""
