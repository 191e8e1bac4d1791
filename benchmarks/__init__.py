"""Benchmarks: clients beside one another, with their evidence.

    python -m benchmarks --quick
    python -m benchmarks --check --json new.json --markdown new.md --plots plots
    python -m benchmarks compare old.json new.json

The peers are in the extra "bench"; one that is not installed is named as missing. See
docs/benchmarks.md.
"""
