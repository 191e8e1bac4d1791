"""The command line's parts; `whimbrel.cli` is the door."""
