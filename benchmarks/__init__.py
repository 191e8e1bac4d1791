"""Benchmarks: each a script that starts its server, runs its clients in turn, and says on what.

    python -m benchmarks.small_get

They need what they measure (aiohttp, tornado, uvloop); a peer that is not installed is named as
missing. See docs/benchmarks.md.
"""
